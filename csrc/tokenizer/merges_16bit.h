// Merges of a model with fewer than 65,535 tokens in tables of 16-bit numbers, small enough for a core's own cache.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/huge_array.h"

namespace ettin {

// Ranks by pairs of tokens. A line holds 16 bits of each pair's hash, so that a rank found is one to be checked: it is
// the pair's own when `parts` of the rank is the pair. Immutable after construction.
class Merges16 {
 public:
  static constexpr uint16_t kNoRank = 0xFFFF;
  static constexpr size_t kLineSize = 16;
  struct alignas(64) Line {
    uint16_t marks[kLineSize];
    uint16_t ranks[kLineSize];  // kNoRank in empty places, which come last
  };

  // Pairs are left << 16 | right, in the order of their ranks; `merged` are the tokens they make. Null when the numbers
  // do not fit.
  static std::unique_ptr<const Merges16> make(const std::vector<uint64_t>& pairs, const std::vector<uint32_t>& merged);

  static uint32_t pair(uint32_t left, uint32_t right) { return left << 16 | right; }
  uint64_t hash(uint32_t pair) const { return pair * multiplier_; }
  const Line& line(uint64_t hash) const { return (*lines_)[hash >> shift_]; }
  static uint16_t mark(uint64_t hash) { return static_cast<uint16_t>(hash >> 16); }

  uint32_t parts(uint16_t rank) const { return parts_[rank]; }
  uint16_t merged(uint16_t rank) const { return one_merge_each_ ? static_cast<uint16_t>(rank + 256) : merged_[rank]; }
  // By left << 8 | right; one more number follows the last.
  const uint16_t* byte_pair_ranks() const { return byte_pair_ranks_.data(); }

 private:
  Merges16() = default;
  static constexpr uint32_t kNoPair = ~0u;
  bool fill();

  std::unique_ptr<HugeArray<Line>> lines_;
  uint64_t multiplier_ = 0x9E3779B97F4A7C15ull;
  int shift_ = 0;
  bool one_merge_each_ = true;  // no token is made by two merges: the numbers of tokens follow from the ranks
  std::vector<uint32_t> parts_;
  std::vector<uint16_t> merged_, byte_pair_ranks_;
};

}  // namespace ettin
