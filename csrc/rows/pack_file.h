// A pack index on disk: which pieces make up each row of one corpus. Written block by block by rows/packing.py.
//
//   header, 256 bytes | block 0: entries (u64), directory (u32, padded to 8 bytes) | block 1 | ... | block table
//
// The block table has four u64 a block and one more line for the totals: byte offset, first row, first entry, text
// tokens before the block.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rows/corpus_files.h"
#include "rows/packing.h"

namespace ettin {

struct PackLine {
  uint64_t offset, row, entry, text_tokens;
};

struct Piece {
  uint64_t document;  // in the corpus
  uint32_t start, length;
};

// A piece of a document together with the row that holds it.
struct PlacedPiece {
  uint64_t row;
  uint32_t start, length;
};

class PackFile {
 public:
  // Checks the block table against the size of the file; entries are checked when they are used.
  static std::shared_ptr<const PackFile> open(const std::string& path, uint64_t table_offset, uint64_t blocks,
                                              uint64_t documents, uint32_t row_length, std::string& error);

  uint64_t rows() const noexcept { return table_.back().row; }
  uint64_t entries() const noexcept { return table_.back().entry; }
  uint64_t text_tokens() const noexcept { return table_.back().text_tokens; }

  // The pieces of one row, checked against the row length and the number of documents.
  bool row(uint64_t row, std::vector<Piece>& pieces, std::vector<uint64_t>& scratch, std::string& error) const;
  // Every piece of a document and its row, in text order: a scan of the document's block.
  bool document(uint64_t document, std::vector<PlacedPiece>& pieces, std::string& error) const;

 private:
  PackFile() = default;
  bool fail(const std::string& what, std::string& error) const;

  std::shared_ptr<const File> file_;
  std::vector<PackLine> table_;  // blocks + 1 lines
  uint64_t documents_ = 0;
  uint32_t row_length_ = 0;
};

}  // namespace ettin
