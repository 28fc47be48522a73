// Documents -> pieces -> rows. One call packs one block of documents; blocks are independent of each other.
#pragma once

#include <cstdint>
#include <vector>

namespace ettin {

// [CLS] and the end position that every piece carries.
constexpr uint32_t kPieceSpecials = 2;
// Documents of a block. Larger blocks fill little better and leave the cache.
constexpr uint32_t kBlockDocuments = 1u << 17;
// Rows that share one entry of a block's directory.
constexpr uint32_t kDirectoryRows = 16;

// A piece in 8 bytes: bit 63 marks the first piece of a row; then the document within its block (17 bits), the first
// text token (31 bits) and the number of text tokens (15 bits).
struct Entry {
  static constexpr int kLengthBits = 15, kStartBits = 31, kDocumentBits = 17;
  static constexpr uint32_t kLongestText = (1u << kLengthBits) - 1;
  static constexpr uint64_t kFirstOfRow = uint64_t{1} << 63;

  static constexpr uint64_t make(uint32_t document, uint32_t start, uint32_t length) noexcept {
    return uint64_t{document} << (kStartBits + kLengthBits) | uint64_t{start} << kLengthBits | length;
  }
  static constexpr uint32_t document(uint64_t entry) noexcept {
    return static_cast<uint32_t>(entry >> (kStartBits + kLengthBits)) & ((1u << kDocumentBits) - 1);
  }
  static constexpr uint32_t start(uint64_t entry) noexcept {
    return static_cast<uint32_t>(entry >> kLengthBits) & ((uint32_t{1} << kStartBits) - 1);
  }
  static constexpr uint32_t length(uint64_t entry) noexcept { return static_cast<uint32_t>(entry) & kLongestText; }
};
static_assert((1u << Entry::kDocumentBits) == kBlockDocuments, "a block's documents are what an entry can name");

struct PackedBlock {
  std::vector<uint64_t> entries;    // pieces in row order
  std::vector<uint32_t> directory;  // first entry of every kDirectoryRows-th row
  uint64_t rows = 0;
  uint64_t text_tokens = 0;
};

// Best-fit decreasing: pieces from long to short (ties: in document order), each into the fullest row that still has
// room for it (ties: the row that reached this room last). A row lists its pieces in reverse order of placement, except
// that equal pieces placed together keep document order. Reuses its memory from block to block.
class BestFitPacker {
 public:
  BestFitPacker(uint32_t row_length, uint32_t piece_length);
  void pack(const uint32_t* lengths, uint32_t documents, PackedBlock& block);

 private:
  struct Run {  // neighbours in pieces_, placed in one row
    uint32_t first, count, next;
  };
  void sort_pieces(const uint32_t* lengths, uint32_t documents);
  void place(uint32_t size, uint32_t first, uint32_t count);
  uint32_t find_room(uint32_t size) const noexcept;
  void push_row(uint32_t room, uint32_t row) noexcept;
  uint32_t pop_row(uint32_t room) noexcept;
  void emit(PackedBlock& block) const;

  uint32_t row_length_, text_length_;
  std::vector<uint64_t> pieces_;             // entries, by falling length
  std::vector<uint32_t> counts_;             // pieces of each text length, then their first place in pieces_
  std::vector<uint32_t> rows_with_;          // by room: the row that reached it last, or kNone
  std::vector<uint32_t> next_row_;           // by row: the row below it in the same stack
  std::vector<uint64_t> open_, open_words_;  // bitmap over rooms, and over its words
  std::vector<uint32_t> row_runs_;           // by row: its last run
  std::vector<Run> runs_;
};

// Documents one after the other, cut wherever a row ends; for comparison with trainers that do so.
void concatenate(const uint32_t* lengths, uint32_t documents, uint32_t row_length, uint32_t piece_length,
                 PackedBlock& block);

}  // namespace ettin
