// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"): 128 random bits as a function of a
// 64-bit key and a 128-bit counter. Every random decision of the data side is one call of it.
#pragma once

#include <array>
#include <cstdint>

#include "base/cpu.h"

namespace ettin {

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u;
constexpr uint32_t kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u;
constexpr uint32_t kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

inline PhiloxCounter philox(PhiloxCounter c, PhiloxKey k) noexcept {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * c[0];
    const uint64_t product1 = uint64_t{kPhiloxMultiplier1} * c[2];
    c = {static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(product0)};
    k[0] += kPhiloxWeyl0;
    k[1] += kPhiloxWeyl1;
  }
  return c;
}

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
