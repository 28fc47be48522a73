#include "corpus/block_encoder.h"

#include <cstring>

#include "base/crc32c.h"
#include "base/text_hash.h"
#include "text/utf8.h"

namespace ettin {
namespace {

constexpr size_t kLargeBuffer = 32u << 20;  // buffers that one huge record made larger are given back
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_blank(std::string_view line) {
  for (const char c : line)
    if (c != ' ' && c != '\t' && c != '\r') return false;
  return true;
}

template <class T>
void release(FreshVector<T>& buffer) {
  if (buffer.capacity() * sizeof(T) > kLargeBuffer) FreshVector<T>().swap(buffer);
}

std::string hex_byte(char byte) {
  constexpr const char* digits = "0123456789abcdef";
  const auto value = static_cast<uint8_t>(byte);
  return std::string("0x") + digits[value >> 4] + digits[value & 15];
}

}  // namespace

BlockEncoder::BlockEncoder(const EncodeSettings& settings)
    : settings_(settings),
      record_(settings.keys),
      documents_(settings.keys.size()),
      marks_(settings.keys.size()),
      pending_(settings.keys.size()),
      batched_(settings.batch_encoder || settings.splitter) {
  if (settings.text_encoder) encoder_ = settings.text_encoder();
}

std::unique_ptr<BlockResult> BlockEncoder::run(Block& block) {
  auto result = std::make_unique<BlockResult>();
  result->order = block.order;
  result->source = block.source;
  result->end = block.end;
  result->bytes_read = block.bytes_read;
  result->ends_source = block.ends_source;
  result->has_checksum = block.has_checksum;
  result->checksum = block.checksum;
  result->outputs.resize(settings_.keys.size());
  for (auto& part : result->outputs) part.tokens = StoredIds(settings_.wide);
  result->rejected = std::move(block.rejected);
  result->lines = result->rejected.size();
  if (block.file) {
    file_block(block, *result);
  } else if (block.kind == RecordKind::kJsonLines) {
    json_block(block.bytes, block.begin, *result);
  } else if (block.kind == RecordKind::kTexts) {
    text_block(block, *result);
  } else {
    id_block(block, *result);
  }
  if (batched_) finish_batches(*result);
  for (auto& part : result->outputs) part.checksum = crc32c(0, part.tokens.data(), part.tokens.bytes());
  release_large_buffers();
  return result;
}

void BlockEncoder::file_block(Block& block, BlockResult& result) {
  LineRange& lines = lines_;
  if (!read_line_range(*block.file, block.begin, block.end, settings_.maximum_record, lines, result.failure)) return;
  const size_t lead = block.begin > 0 ? 1 : 0;
  result.bytes_read = lines.in_range;
  result.bytes_checksum = crc32c(0, lines.bytes.data() + lead, lines.in_range);
  json_block(std::string_view(lines.bytes.data(), lines.bytes.size()).substr(lines.first),
             block.begin - lead + lines.first, result);
  if (lines.too_long && !stopped(result)) {
    ++result.lines;
    reject(result, Reject::kTooLong, lines.too_long_offset,
           "the line is above " + std::to_string(settings_.maximum_record) + " bytes");
  }
}

void BlockEncoder::release_large_buffers() {
  release(lines_.bytes);
  record_.release_large_buffers(kLargeBuffer);
}

void BlockEncoder::reject(BlockResult& result, Reject kind, uint64_t offset, std::string reason) const {
  RejectedRecord record;
  record.line = result.lines;
  record.offset = offset;
  record.kind = kind;
  record.reason = std::move(reason);
  result.rejected.push_back(std::move(record));
}

void BlockEncoder::json_block(std::string_view lines, uint64_t offset, BlockResult& result) {
  // Most texts have a token for every two to four bytes; with more, the list grows.
  for (OutputPart& part : result.outputs) part.tokens.reserve(lines.size() / result.outputs.size() / 3);
  const bool known_valid = utf8_valid_prefix(lines.data(), lines.size()) == lines.size();
  size_t at = 0;
  while (at < lines.size() && !stopped(result)) {
    const void* newline = std::memchr(lines.data() + at, '\n', lines.size() - at);
    const size_t stop =
        newline == nullptr ? lines.size() : static_cast<size_t>(static_cast<const char*>(newline) - lines.data());
    ++result.lines;
    json_line(lines.substr(at, stop - at), offset + at, known_valid, result);
    at = stop + 1;
  }
}

void BlockEncoder::json_line(std::string_view line, uint64_t offset, bool known_valid, BlockResult& result) {
  if (line.size() > settings_.maximum_record) {
    reject(result, Reject::kTooLong, offset,
           "the line is above " + std::to_string(settings_.maximum_record) + " bytes");
    return;
  }
  if (is_blank(line)) {
    ++result.blank_lines;
    return;
  }
  if (!known_valid) {
    const size_t valid = utf8_valid_prefix(line.data(), line.size());
    if (valid != line.size()) {
      reject(result, Reject::kInvalidUtf8, offset + valid, "byte " + hex_byte(line[valid]) + " is not valid UTF-8");
      return;
    }
  }
  const Reject kind = record_.parse(line);
  if (kind != Reject::kNone) {
    reject(result, kind, offset + record_.error_offset(), record_.reason());
    return;
  }
  for (size_t i = 0; i < documents_.size(); ++i) {
    const JsonField& field = record_.field(i);
    documents_[i] = {record_.texts(i), field.count, field.lone_surrogates};
    if (settings_.splitter && field.kind != JsonField::Kind::kText) {
      reject(result, Reject::kNotAString, offset, "a list cannot be split into sentences");
      return;
    }
  }
  take_record(offset, result);
}

// Rows of one text for each output; a block of a text file has one output.
void BlockEncoder::text_block(const Block& block, BlockResult& result) {
  const size_t width = documents_.size();
  std::vector<std::string_view> texts(width);
  uint64_t begin = 0;
  for (size_t row = 0; row * width < block.ends.size() && !stopped(result); ++row) {
    const uint64_t offset = block.begin + (block.counts_rows ? row : begin);
    for (size_t i = 0; i < width; ++i) {
      const uint64_t end = block.ends[row * width + i];
      texts[i] = std::string_view(block.bytes.data() + begin, end - begin);
      begin = end + block.separator;
    }
    ++result.lines;
    if (rejects_row(block, row, offset, result)) continue;
    if (check_texts(texts, block.counts_rows, offset, result)) {
      for (size_t i = 0; i < width; ++i) documents_[i] = {&texts[i], 1, 0};
      take_record(offset, result);
    }
  }
}

// Whether a row of a table was found to hold no document.
bool BlockEncoder::rejects_row(const Block& block, size_t number, uint64_t row, BlockResult& result) {
  const uint8_t fault = block.faults.empty() ? kNoFault : block.faults[number];
  if (fault == kNoFault) return false;
  if (fault == kFieldCount) {
    reject(result, Reject::kRaggedRow, row, "the row has not as many fields as the header");
  } else {
    reject(result, Reject::kNotAString, row, "the row holds no value");
  }
  return true;
}

bool BlockEncoder::check_texts(const std::vector<std::string_view>& texts, bool rows, uint64_t offset,
                               BlockResult& result) {
  for (const std::string_view text : texts) {
    if (text.size() > settings_.maximum_record) {
      reject(result, Reject::kTooLong, offset,
             "the document is above " + std::to_string(settings_.maximum_record) + " bytes");
      return false;
    }
    const size_t valid = utf8_valid_prefix(text.data(), text.size());
    if (valid != text.size()) {
      reject(result, Reject::kInvalidUtf8, rows ? offset : offset + valid,
             "byte " + hex_byte(text[valid]) + " is not valid UTF-8");
      return false;
    }
    if (!rows && offset == 0 && text.substr(0, 3) == kByteOrderMark) {
      reject(result, Reject::kByteOrderMark, offset, "the file starts with a byte order mark");
      return false;
    }
  }
  return true;
}

void BlockEncoder::id_block(const Block& block, BlockResult& result) {
  const auto* ids = reinterpret_cast<const uint32_t*>(block.bytes.data());
  uint64_t begin = 0;
  for (const uint64_t end : block.ends) {
    if (stopped(result)) return;
    const uint64_t number = result.lines++;
    const uint64_t row = block.begin + number;
    if (!rejects_row(block, number, row, result)) id_record(ids + begin, end - begin, row, result);
    begin = end;
  }
}

void BlockEncoder::id_record(const uint32_t* ids, size_t count, uint64_t row, BlockResult& result) {
  for (size_t i = 0; i < count; ++i)
    if (ids[i] >= settings_.vocabulary) {
      reject(result, Reject::kInvalidIds, row,
             "id " + std::to_string(ids[i]) + " is outside the vocabulary of " + std::to_string(settings_.vocabulary));
      return;
    }
  if (count != 0 && settings_.template_first >= 0 && ids[0] == settings_.template_first) {
    if (!settings_.strip_template) {
      reject(result, Reject::kTemplateSpecials, row, "the document starts with a template special token");
      return;
    }
    ++ids;
    --count;
    if (count != 0 && settings_.template_last >= 0 && ids[count - 1] == settings_.template_last) --count;
  }
  OutputPart& part = result.outputs[0];
  const size_t begin = part.tokens.size();
  add_sequence(part, ids, count);
  finish_document(part, begin);
  ++result.documents;
}

// Encodes the record in documents_ into every output, or into none of them.
void BlockEncoder::take_record(uint64_t offset, BlockResult& result) {
  if (batched_) {
    collect(offset, result);
    return;
  }
  for (size_t i = 0; i < documents_.size(); ++i) {
    const OutputPart& part = result.outputs[i];
    marks_[i] = {part.tokens.size(), part.lengths.size(), part.sequences.size(), part.counts};
  }
  for (size_t i = 0; i < documents_.size(); ++i) {
    if (!encode_document(documents_[i], result.outputs[i])) {
      go_back(result);
      reject(result, Reject::kSpecialToken, offset, "a special token stands in the text");
      return;
    }
  }
  ++result.documents;
}

void BlockEncoder::go_back(BlockResult& result) {
  sequence_lengths_.clear();
  for (size_t i = 0; i < marks_.size(); ++i) {
    OutputPart& part = result.outputs[i];
    part.tokens.resize(marks_[i].tokens);
    part.lengths.resize(marks_[i].lengths);
    part.sequences.resize(marks_[i].sequences);
    part.hashes.resize(marks_[i].sequences);
    part.counts = marks_[i].counts;
  }
}

bool BlockEncoder::encode_document(const Document& document, OutputPart& part) {
  const size_t begin = part.tokens.size();
  for (size_t k = 0; k < document.count; ++k) {
    const size_t before = part.tokens.size();
    const auto encode = [&](auto& ids) { return encoder_->encode(document.texts[k], ids, part.counts.specials); };
    if (!part.tokens.with(encode)) return false;
    part.counts.text_bytes += document.texts[k].size();
    if (part.tokens.size() > before) sequence_lengths_.push_back(static_cast<int32_t>(part.tokens.size() - before));
  }
  part.counts.lone_surrogates += document.lone_surrogates;
  finish_document(part, begin);
  return true;
}

// A sequence without ids is left out, as Megatron leaves it out.
void BlockEncoder::add_sequence(OutputPart& part, const uint32_t* ids, size_t count) {
  if (count == 0) return;
  part.tokens.append(ids, count);
  sequence_lengths_.push_back(static_cast<int32_t>(count));
}

// Closes the document whose ids are those from `begin` on and whose sequences are in sequence_lengths_.
void BlockEncoder::finish_document(OutputPart& part, size_t begin) {
  const size_t count = part.tokens.size() - begin;
  TextHash hash;
  part.tokens.with(
      [&](const auto& ids) { hash.add_ids(count, [from = ids.data() + begin](size_t at) { return from[at]; }); });
  part.hashes.push_back(hash.finish());
  if (count == 0) {
    ++part.counts.empty_documents;
  } else if (settings_.append_eod >= 0) {
    const auto eod = static_cast<uint32_t>(settings_.append_eod);
    part.tokens.append(&eod, 1);
    ++sequence_lengths_.back();
  }
  part.sequences.push_back(static_cast<uint32_t>(sequence_lengths_.size()));
  part.lengths.insert(part.lengths.end(), sequence_lengths_.begin(), sequence_lengths_.end());
  part.counts.tokens += part.tokens.size() - begin;
  sequence_lengths_.clear();
}

}  // namespace ettin
