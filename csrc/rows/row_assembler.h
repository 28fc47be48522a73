// Rows of a stage -> a batch: text from disk, specials, masks, labels and segment bounds.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rows/indexed_corpus.h"
#include "rows/masking.h"
#include "rows/pack_file.h"

namespace ettin {

// One source of a mixture: a corpus, its rows, and the keys of its masks.
struct SourceRows {
  std::shared_ptr<const IndexedCorpus> corpus;
  std::shared_ptr<const PackFile> pack;
  std::string name;
  PhiloxKey choice_key, replacement_key;
  PhiloxKey kind_key;  // of the draw that makes a row one of next tokens
};

struct RowRequest {
  int64_t row;  // in its source; negative: a row of padding alone
  int32_t source;
  uint32_t pass;
  MaskBounds masks;  // the shares of this row
};

// What differs between objectives, and the ids that frame a piece.
struct RowFormat {
  uint32_t row_length;
  int32_t cls_id, sep_id, pad_id;
  bool always_ends;      // [SEP] also where the piece was cut
  bool masked;           // else every next token is predicted
  int32_t label_offset;  // where the label of token i stands: i + label_offset
  MaskRule mask;
  // Rows whose draw is below this predict every next token and end with [PAD] where a piece was cut; 0: none.
  uint32_t next_token_below = 0;
};

struct AssembledRows {
  std::vector<int32_t> input_ids, positions, segments;
  Labels labels;
  std::vector<uint8_t> next_token;  // by row: it was drawn to predict every next token
  int64_t tokens = 0;
};

// Fills `out` with the rows of `requests`, in order. False with a message that names the file when a read fails or the
// data cannot be right. Keeps scratch memory between calls; one object per thread.
class RowAssembler {
 public:
  RowAssembler(std::vector<SourceRows> sources, RowFormat format, InstructionSet set);
  bool assemble(const std::vector<RowRequest>& requests, AssembledRows& out, std::string& error);

 private:
  bool add_row(const RowRequest& request, uint32_t index, AssembledRows& out, std::string& error);
  bool add_piece(const SourceRows& source, const Piece& piece, uint32_t at, bool& ends, AssembledRows& out,
                 int32_t* row, std::string& error);
  void add_labels(const RowRequest& request, uint32_t index, AssembledRows& out, int32_t* row);
  bool check_ids(const SourceRows& source, const Piece& piece, const int32_t* ids, std::string& error) const;

  std::vector<SourceRows> sources_;
  RowFormat format_;
  InstructionSet set_;
  bool masked_ = false, always_ends_ = false;  // the facts of the row at hand
  std::vector<Piece> pieces_;
  std::vector<uint8_t> ends_;  // by piece: the end position holds [SEP]
  std::vector<uint64_t> entry_scratch_;
  std::vector<uint8_t> byte_scratch_;
  MaskScratch mask_scratch_;
};

}  // namespace ettin
