// The draws of a row: one 32-bit number for each of its tokens, words of Philox.
#pragma once

#include <cstdint>

#include "base/cpu.h"
#include "base/philox.h"

namespace ettin {

// Which generator and which row the draws of a row belong to.
struct RowStream {
  PhiloxKey key;  // from (seed, stage, source), see rows/streams.py
  uint64_t row;   // row in its source
  uint32_t pass;  // how often the source has been read before
};

// 64 consecutive tokens of a row share 16 counters: token i uses word (i % 64) / 16 of counter (i / 64) * 16 + i % 16,
// so that one vector register of 16 lanes holds 16 consecutive tokens.
constexpr uint32_t kDrawGroup = 64;
constexpr uint32_t kDrawLanes = 16;

inline PhiloxCounter row_counter(const RowStream& stream, uint32_t number) noexcept {
  return {number, static_cast<uint32_t>(stream.row), static_cast<uint32_t>(stream.row >> 32), stream.pass};
}

// Writes one 32-bit draw for each of the tokens [0, count) of a row. `draws` holds count rounded up to kDrawGroup.
void row_draws(const RowStream& stream, uint32_t count, uint32_t* draws, InstructionSet set) noexcept;

// One draw for one token: what row_draws writes at `token`.
inline uint32_t row_draw(const RowStream& stream, uint32_t token) noexcept {
  const uint32_t number = token / kDrawGroup * kDrawLanes + token % kDrawLanes;
  return philox(row_counter(stream, number), stream.key)[token % kDrawGroup / kDrawLanes];
}

}  // namespace ettin
