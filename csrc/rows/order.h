// A keyed permutation of [0, size) that is computed on demand, and its inverse: O(1) memory, any size below 2^62.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/cpu.h"
#include "base/philox.h"

namespace ettin {

// An unbalanced Feistel network on the smallest power of two that holds `size` (at least 2^10), with cycle walking:
// values outside [0, size) are permuted again until they are inside, which takes fewer than two rounds on average.
class Permutation {
 public:
  static constexpr int kRounds = 8;
  static constexpr int kSmallestBits = 10;
  using Keys = std::array<uint32_t, kRounds>;

  Permutation(uint64_t size, const Keys& keys) noexcept;

  uint64_t size() const noexcept { return size_; }
  // The values at some positions, all of them in [0, size()). Every instruction set gives the same.
  void at(const int64_t* positions, size_t count, int64_t* values, InstructionSet set) const noexcept;
  // The positions of some values: inverse of at().
  void positions_of(const int64_t* values, size_t count, int64_t* positions, InstructionSet set) const noexcept;

 private:
  template <bool kInverse>
  void map(const int64_t* from, size_t count, int64_t* to, InstructionSet set) const noexcept;
  template <bool kInverse>
  void map_chunk(const int64_t* from, size_t count, int64_t* to, InstructionSet set) const noexcept;

  uint64_t size_;
  int low_bits_;
  uint32_t low_mask_, high_mask_;
  Keys keys_;
};

}  // namespace ettin
