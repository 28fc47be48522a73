#include "corpus/stream_cutter.h"

#include <algorithm>

namespace ettin {

StreamCutter::StreamCutter(RecordKind kind, std::string separator, uint64_t start, uint64_t block_bytes,
                           uint64_t maximum_record)
    : kind_(kind),
      separator_(std::move(separator)),
      offset_(start),
      block_bytes_(block_bytes),
      maximum_record_(maximum_record) {}

void StreamCutter::append(std::string_view data, const std::function<void(Block)>& emit) {
  // In steps, so that the buffer stays near a block whatever the size of `data`.
  while (!data.empty()) {
    const size_t take = data.size() < block_bytes_ ? data.size() : static_cast<size_t>(block_bytes_);
    buffer_.append(data.substr(0, take));
    data.remove_prefix(take);
    cut(emit);
  }
}

void StreamCutter::finish(bool drop_tail, const std::function<void(Block)>& emit) {
  cut(emit);
  if (skipping_) {
    offset_ += buffer_.size();
    emit_too_long(emit);
  } else if (drop_tail) {
    emit_records(records_, emit);
  } else {
    emit_records(buffer_.size(), emit);
  }
  buffer_.clear();
}

// Moves over the records that are whole; emits a block when there is enough.
void StreamCutter::cut(const std::function<void(Block)>& emit) {
  for (;;) {
    if (skipping_) {
      const size_t at = buffer_.find(separator_, scanned_);
      if (at == std::string::npos) {
        const size_t keep = std::min(buffer_.size(), separator_.size() - 1);
        offset_ += buffer_.size() - keep;
        buffer_.erase(0, buffer_.size() - keep);
        scanned_ = records_ = 0;
        return;
      }
      offset_ += at + separator_.size();
      buffer_.erase(0, at + separator_.size());
      scanned_ = records_ = 0;
      emit_too_long(emit);
      skipping_ = false;
    }
    const size_t from = scanned_;
    if (kind_ == RecordKind::kJsonLines) {
      const size_t at = buffer_.size() > from ? std::string_view(buffer_).substr(from).rfind('\n') : std::string::npos;
      if (at != std::string::npos) records_ = from + at + 1;
      scanned_ = buffer_.size();
    } else {
      for (size_t at = buffer_.find(separator_, from); at != std::string::npos;
           at = buffer_.find(separator_, records_)) {
        records_ = at + separator_.size();
      }
      const size_t keep = separator_.size() - 1;
      scanned_ = std::max(records_, buffer_.size() > keep ? buffer_.size() - keep : 0);
    }
    if (records_ >= block_bytes_) emit_records(records_, emit);
    if (buffer_.size() - records_ <= maximum_record_ + separator_.size() - 1) return;
    emit_records(records_, emit);
    skipping_ = true;
    skip_start_ = offset_;
    scanned_ = 0;
  }
}

void StreamCutter::emit_records(size_t size, const std::function<void(Block)>& emit) {
  if (size == 0) return;
  Block block;
  block.kind = kind_;
  block.begin = offset_;
  block.end = offset_ + size;
  std::string rest;
  rest.reserve(size);  // for the next block
  rest.append(buffer_, size, std::string::npos);
  buffer_.resize(size);
  block.bytes = std::move(buffer_);
  buffer_ = std::move(rest);
  if (kind_ == RecordKind::kTexts) {
    block.separator = separator_.size();
    size_t begin = 0;
    while (begin < size) {
      const size_t at = block.bytes.find(separator_, begin);
      const size_t end = at == std::string::npos || at >= size ? size : at;
      block.ends.push_back(end);
      begin = end + separator_.size();
    }
  }
  offset_ += size;
  records_ -= std::min(records_, size);
  scanned_ -= std::min(scanned_, size);
  emit(std::move(block));
}

void StreamCutter::emit_too_long(const std::function<void(Block)>& emit) {
  Block block;
  block.kind = kind_;
  block.begin = skip_start_;
  block.end = offset_;
  RejectedRecord record;
  record.line = 1;
  record.offset = skip_start_;
  record.kind = Reject::kTooLong;
  record.reason = "the record is above " + std::to_string(maximum_record_) + " bytes";
  block.rejected.push_back(std::move(record));
  emit(std::move(block));
}

}  // namespace ettin
