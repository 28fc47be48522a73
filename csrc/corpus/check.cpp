#include "corpus/check.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/crc32c.h"
#include "corpus/id_scan.h"

namespace ettin {
namespace {

constexpr uint64_t kHeaderBytes = 34;
constexpr uint64_t kBatch = 1 << 16;      // sequences or documents read at once
constexpr uint64_t kScanBytes = 1 << 18;  // of the .bin read at once: few calls, and still near the processor

template <typename T>
T load(const FreshVector<char>& bytes, size_t i) {
  T value;
  std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
  return value;
}

class RangeCheck {
 public:
  RangeCheck(const InputFile& index, const InputFile& tokens, const IndexShape& shape, int64_t eod, int64_t special)
      : index_(index), tokens_(tokens), shape_(shape), eod_(eod), special_(special) {}

  CheckedRange run(uint64_t first, uint64_t last) {
    for (uint64_t at = first; at < last && result_.problem.empty(); at += kBatch) {
      documents(at, std::min(at + kBatch, last));
    }
    if (last == shape_.documents && result_.problem.empty()) last_entry();
    return std::move(result_);
  }

 private:
  uint64_t lengths_at(uint64_t i) const { return kHeaderBytes + 4 * i; }
  uint64_t pointers_at(uint64_t i) const { return kHeaderBytes + 4 * shape_.sequences + 8 * i; }
  uint64_t documents_at(uint64_t i) const { return kHeaderBytes + 12 * shape_.sequences + 8 * i; }

  bool problem(const std::string& text) {
    if (result_.problem.empty()) result_.problem = text;
    return false;
  }

  // Reads exactly [begin, end).
  bool read(const InputFile& file, uint64_t begin, uint64_t end, FreshVector<char>& out) {
    out.clear();
    std::string error;
    if (file.read(begin, end, out, error) && out.size() == end - begin) return true;
    result_.failed = true;
    return problem(error.empty() ? file.path() + ": ends at byte " + std::to_string(begin + out.size()) : error);
  }

  void last_entry() {
    FreshVector<char> entry;
    if (!read(index_, documents_at(shape_.documents), documents_at(shape_.documents + 1), entry)) return;
    result_.documents.add(entry.data(), entry.size());
    if (load<uint64_t>(entry, 0) != shape_.sequences) problem("the last document index is not the number of sequences");
    const bool has_sequences = shape_.documents != 0 && shape_.sequences != 0;
    if (!has_sequences && (shape_.token_bytes != 0 || shape_.sequences != 0)) problem("there are ids of no document");
  }

  // A batch of documents: their indices, then their sequences.
  void documents(uint64_t first, uint64_t last) {
    FreshVector<char> entries;
    if (!read(index_, documents_at(first), documents_at(last + 1), entries)) return;
    result_.documents.add(entries.data(), entries.size() - 8);
    starts_.clear();
    for (uint64_t i = 0; i <= last - first; ++i) {
      const auto value = load<uint64_t>(entries, i);
      if (value > shape_.sequences || (i > 0 && value < starts_.back())) {
        problem("document " + std::to_string(first + i) + " starts at sequence " + std::to_string(value) +
                ", which is out of order");
        return;
      }
      starts_.push_back(value);
    }
    if (first == 0 && starts_[0] != 0) {
      problem("the first document does not start at sequence 0");
      return;
    }
    for (size_t i = 0; i + 1 < starts_.size(); ++i) result_.empty_documents += starts_[i] == starts_[i + 1];
    next_document_ = 0;
    for (uint64_t at = starts_.front(); at < starts_.back() && result_.problem.empty(); at += kBatch) {
      sequences(at, std::min(at + kBatch, starts_.back()));
    }
  }

  // A batch of sequences: lengths and pointers must tile the .bin file; then its ids.
  void sequences(uint64_t first, uint64_t last) {
    if (!read(index_, lengths_at(first), lengths_at(last), lengths_)) return;
    if (!read(index_, pointers_at(first), pointers_at(last), pointers_)) return;
    result_.lengths.add(lengths_.data(), lengths_.size());
    result_.pointers.add(pointers_.data(), pointers_.size());
    document_starts_.clear();
    document_ends_.clear();
    const auto begin = load<uint64_t>(pointers_, 0);
    if (first == 0 && begin != 0) {
      problem("the first sequence does not start at byte 0");
      return;
    }
    uint64_t next = begin;
    for (uint64_t i = 0; i < last - first; ++i) {
      const auto length = load<int32_t>(lengths_, i);
      const auto pointer = load<uint64_t>(pointers_, i);
      if (length < 0 || pointer != next || next > shape_.token_bytes ||
          shape_.token_bytes - next < static_cast<uint64_t>(length) * shape_.itemsize) {
        problem("sequence " + std::to_string(first + i) + " has length " + std::to_string(length) + " at byte " +
                std::to_string(pointer) + ", which does not follow the one before inside the .bin file");
        return;
      }
      while (starts_[next_document_ + 1] <= first + i) ++next_document_;
      if (starts_[next_document_] == first + i) document_starts_.push_back(next);
      next += static_cast<uint64_t>(length) * shape_.itemsize;
      if (starts_[next_document_ + 1] == first + i + 1) document_ends_.push_back(next);
    }
    if (last == shape_.sequences && next != shape_.token_bytes) {
      problem("the sequences end at byte " + std::to_string(next) + ", the .bin file at " +
              std::to_string(shape_.token_bytes));
      return;
    }
    scan(begin, next);
  }

  const uint16_t* ids_16() const { return reinterpret_cast<const uint16_t*>(ids_.get()); }

  uint32_t id_at(uint64_t offset, uint64_t begin) const {
    return shape_.itemsize == 2 ? ids_16()[(offset - begin) / 2] : ids_[(offset - begin) / 4];
  }

  // Reads the ids of [begin, end) of the .bin file into ids_.
  bool read_ids(uint64_t begin, uint64_t end) {
    if (!ids_) ids_.reset(new uint32_t[kScanBytes / sizeof(uint32_t)]);
    std::string error;
    size_t read = 0;
    if (tokens_.read_into(reinterpret_cast<char*>(ids_.get()), begin, end - begin, read, error) &&
        read == end - begin) {
      return true;
    }
    result_.failed = true;
    return problem(error.empty() ? tokens_.path() + ": ends at byte " + std::to_string(begin + read) : error);
  }

  void scan(uint64_t begin, uint64_t end) {
    size_t start = 0, stop = 0;
    for (uint64_t at = begin; at < end; at += kScanBytes) {
      const uint64_t until = std::min(at + kScanBytes, end);
      if (!read_ids(at, until)) return;
      scan_ids(ids_.get(), until - at, shape_.itemsize, result_.tokens.value, result_.largest_id);
      result_.tokens.bytes += until - at;
      result_.token_count += (until - at) / shape_.itemsize;
      for (; start < document_starts_.size() && document_starts_[start] < until; ++start) {
        result_.starts_special += special_ >= 0 && id_at(document_starts_[start], at) == special_;
      }
      for (; stop < document_ends_.size() && document_ends_[stop] <= until; ++stop) {
        if (document_ends_[stop] <= at) continue;  // a document of sequences without ids
        result_.without_eod += eod_ >= 0 && id_at(document_ends_[stop] - shape_.itemsize, at) != eod_;
      }
    }
  }

  const InputFile& index_;
  const InputFile& tokens_;
  const IndexShape& shape_;
  const int64_t eod_, special_;
  CheckedRange result_;
  std::vector<uint64_t> starts_;  // first sequence of each document of the batch, and of the one after
  size_t next_document_ = 0;
  FreshVector<char> lengths_, pointers_;
  std::unique_ptr<uint32_t[]> ids_;
  std::vector<uint64_t> document_starts_, document_ends_;  // in the .bin file
};

// Adds `base` to each number of [begin, end) of a file and takes the checksum of the sums.
bool checksum_sums(const InputFile& file, uint64_t begin, uint64_t end, uint64_t base, PieceChecksum& sum,
                   std::string& error) {
  std::vector<uint64_t> numbers;
  for (uint64_t at = begin; at < end;) {
    const size_t size = std::min<uint64_t>(kScanBytes, end - at);
    numbers.resize(size / 8);
    size_t read = 0;
    if (!file.read_into(reinterpret_cast<char*>(numbers.data()), at, size, read, error)) return false;
    if (read != size) return error = file.path() + ": ends at byte " + std::to_string(at + read), false;
    for (uint64_t& number : numbers) number += base;
    sum.add(numbers.data(), size);
    at += size;
  }
  return true;
}

}  // namespace

bool checksum_moved(const InputFile& index, const IndexShape& shape, uint64_t token_bytes, uint64_t sequences,
                    MovedIndex& moved, std::string& error) {
  const uint64_t pointers = kHeaderBytes + 4 * shape.sequences, documents = pointers + 8 * shape.sequences;
  FreshVector<char> lengths;
  for (uint64_t at = kHeaderBytes; at < pointers; at += kScanBytes) {
    const uint64_t until = std::min(at + kScanBytes, pointers);
    lengths.clear();
    if (!index.read(at, until, lengths, error)) return false;
    if (lengths.size() != until - at) return error = index.path() + ": ends inside its lengths", false;
    moved.lengths.add(lengths.data(), lengths.size());
  }
  return checksum_sums(index, pointers, documents, token_bytes, moved.pointers, error) &&
         checksum_sums(index, documents + 8, documents + 8 * (shape.documents + 1), sequences, moved.documents, error);
}

void PieceChecksum::add(const void* data, size_t size) {
  value = crc32c(value, data, size);
  bytes += size;
}

CheckedRange check_range(const InputFile& index, const InputFile& tokens, const IndexShape& shape, uint64_t first,
                         uint64_t last, int64_t eod, int64_t first_special) {
  return RangeCheck(index, tokens, shape, eod, first_special).run(first, last);
}

}  // namespace ettin
