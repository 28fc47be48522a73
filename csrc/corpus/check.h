// The full check of a corpus: every length, offset and id is looked at once, and checksums are taken on the way.
#pragma once

#include <cstdint>
#include <string>

#include "corpus/input_file.h"

namespace ettin {

// What the header of an .idx file says, and how long its .bin is. The caller has checked that the .idx is as long
// as the header asks for.
struct IndexShape {
  uint64_t sequences = 0;
  uint64_t documents = 0;
  uint64_t token_bytes = 0;  // of the .bin file
  uint32_t itemsize = 2;     // 2 for uint16, 4 for int32
};

// A piece of a checksum: to be combined with its neighbours.
struct PieceChecksum {
  uint32_t value = 0;
  uint64_t bytes = 0;
  void add(const void* data, size_t size);
};

struct CheckedRange {
  std::string problem;  // of the index; empty when there is none
  PieceChecksum lengths, pointers, documents, tokens;
  uint64_t token_count = 0;
  uint64_t empty_documents = 0;
  uint64_t without_eod = 0;     // documents that are not empty and do not end with `eod`
  uint64_t starts_special = 0;  // documents whose first id is `first_special`
  uint32_t largest_id = 0;      // negative ids come out above 2^31
  bool failed = false;          // a read failed; the reason is in `problem`
};

// Checks the documents [first, last). Never reads outside the files, whatever they hold; memory is bounded.
// `eod` and `first_special` are ids to look for, or negative.
CheckedRange check_range(const InputFile& index, const InputFile& tokens, const IndexShape& shape, uint64_t first,
                         uint64_t last, int64_t eod, int64_t first_special);

// The arrays of an .idx as they stand in the index of several pairs, one pair after the other.
struct MovedIndex {
  PieceChecksum lengths, pointers, documents;  // of `documents`, all but the first, which is 0
};

// Checksums of an index behind `token_bytes` bytes of ids and `sequences` sequences of other pairs. False, with the
// reason, when a read fails. Memory is bounded.
bool checksum_moved(const InputFile& index, const IndexShape& shape, uint64_t token_bytes, uint64_t sequences,
                    MovedIndex& moved, std::string& error);

}  // namespace ettin
