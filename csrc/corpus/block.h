// What passes between the stages of the corpus builder.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fresh_vector.h"
#include "corpus/input_file.h"
#include "corpus/reject.h"

namespace ettin {

enum class RecordKind : uint8_t {
  kJsonLines,  // bytes are lines, each a JSON object
  kTexts,      // bytes are documents; `ends` says where each stops
  kIds,        // bytes are uint32 ids of documents; `ends` counts ids
};

enum RowFault : uint8_t {
  kNoFault = 0,
  kNoValue = 1,     // the row holds null
  kFieldCount = 2,  // the row has not as many fields as the table has columns
};

struct RejectedRecord {
  uint64_t line = 0;    // from 1; relative to the block until it is committed
  uint64_t offset = 0;  // of the offending byte in the (decompressed) source, or the row number
  Reject kind = Reject::kNone;
  std::string reason;
};

// A piece of one source, in input order. Its records are in `bytes`, or still in `file` at [begin, end).
struct Block {
  uint64_t order = 0;
  uint32_t source = 0;
  RecordKind kind = RecordKind::kJsonLines;
  std::string bytes;
  std::vector<uint64_t> ends;             // of texts: with several outputs, one for each of them in each row
  std::vector<uint8_t> faults;            // of each row, a RowFault; empty when there are none
  uint64_t separator = 0;                 // texts: bytes between one document and the next
  bool counts_rows = false;               // begin and end are row numbers, not byte offsets
  std::shared_ptr<const InputFile> file;  // json_lines only: the lines that start in [begin, end) of this file
  uint64_t begin = 0;                     // offset of the first byte in the source, or number of its first row
  uint64_t end = 0;                       // where the next block of the source starts
  std::vector<RejectedRecord> rejected;   // found before the records could be cut out
  uint64_t bytes_read = 0;                // of the file, when `file` is not set
  bool ends_source = false;
  bool has_checksum = false;  // of the whole source, given with its last block
  uint32_t checksum = 0;
};

// Counts of one output in one block or source.
struct OutputCounts {
  uint64_t empty_documents = 0;
  uint64_t tokens = 0;
  uint64_t text_bytes = 0;
  uint64_t lone_surrogates = 0;
  uint64_t specials = 0;
};

// Ids as they are stored: 16 or 32 bits wide.
class StoredIds {
 public:
  explicit StoredIds(bool wide = false) : is_wide_(wide) {}

  // Calls `use` with the vector that holds the ids.
  template <class Use>
  decltype(auto) with(Use&& use) {
    return is_wide_ ? use(wide_) : use(narrow_);
  }
  template <class Use>
  decltype(auto) with(Use&& use) const {
    return is_wide_ ? use(wide_) : use(narrow_);
  }

  bool operator==(const StoredIds& other) const { return narrow_ == other.narrow_ && wide_ == other.wide_; }
  size_t size() const { return narrow_.size() + wide_.size(); }
  size_t bytes() const { return narrow_.size() * sizeof(uint16_t) + wide_.size() * sizeof(uint32_t); }
  const void* data() const {
    return with([](const auto& ids) -> const void* { return ids.data(); });
  }
  void reserve(size_t size) {
    with([size](auto& ids) { ids.reserve(size); });
  }
  void resize(size_t size) {
    with([size](auto& ids) { ids.resize(size); });
  }
  void append(const uint32_t* from, size_t count) {
    with([=](auto& ids) { append_ids(ids, from, count); });
  }

 private:
  bool is_wide_;
  NarrowIdVector narrow_;
  IdVector wide_;
};

struct OutputPart {
  StoredIds tokens;
  std::vector<int32_t> lengths;
  std::vector<uint32_t> sequences;  // of each document
  std::vector<uint32_t> hashes;     // of each document's text
  uint32_t checksum = 0;
  OutputCounts counts;
};

struct BlockResult {
  uint64_t order = 0;
  uint32_t source = 0;
  uint64_t end = 0;
  uint64_t lines = 0;  // records seen, blank ones included
  uint64_t blank_lines = 0;
  uint64_t documents = 0;
  uint64_t bytes_read = 0;
  uint32_t bytes_checksum = 0;
  bool ends_source = false;
  bool has_checksum = false;
  uint32_t checksum = 0;
  std::vector<OutputPart> outputs;
  std::vector<RejectedRecord> rejected;
  std::string failure;  // reading or a callback failed: the block cannot be committed
};

}  // namespace ettin
