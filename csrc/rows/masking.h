// Which tokens of a row are chosen, and what stands in their place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "rows/row_draws.h"

namespace ettin {

// Shares as bounds on a 32-bit draw: below `mask_below` a token becomes [MASK], below `random_below` a random id, below
// `chosen_below` it stays; all of these are predicted. Other tokens are left alone.
struct MaskBounds {
  uint32_t mask_below, random_below, chosen_below;
};

struct MaskRule {
  MaskBounds bounds;
  int32_t mask_id;
  uint32_t vocabulary;                 // random ids are uniform over [0, vocabulary)
  std::vector<int32_t> protected_ids;  // ascending; never chosen
};

// Positions and ids to predict; the vectors are only as long as `count` says plus room for whole registers.
struct Labels {
  std::vector<int32_t> positions, ids;
  size_t count = 0;
  void reserve_more(size_t more);
  void add(int32_t position, int32_t id) noexcept { positions[count] = position, ids[count] = id, ++count; }
};

struct MaskScratch {
  std::vector<uint32_t> draws;
  std::vector<uint32_t> random_tokens;
};

// Draws for the tokens [0, length) of a row; to be called before mask_span.
void start_row_masks(const RowStream& choices, uint32_t length, MaskScratch& scratch, InstructionSet set);

// Masks the text at [begin, end) of a row in place and appends a label for each chosen token: its id before the change,
// at position `label_base + token`. Random ids come from the stream `replacements`.
void mask_span(int32_t* row, uint32_t begin, uint32_t end, const MaskRule& rule, const RowStream& replacements,
               int32_t label_base, Labels& labels, MaskScratch& scratch, InstructionSet set);

}  // namespace ettin
