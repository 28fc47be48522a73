// A keyed permutation of [0, size) that is computed on demand, and its inverse: O(1) memory, any size below 2^62.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

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
  // The value at `position`; the argument must be below size().
  uint64_t at(uint64_t position) const noexcept;
  // The position of `value`: inverse of at().
  uint64_t position_of(uint64_t value) const noexcept;
  void at_many(const int64_t* positions, size_t count, int64_t* values) const noexcept;
  void positions_of(const int64_t* values, size_t count, int64_t* positions) const noexcept;

 private:
  uint64_t forward(uint64_t x) const noexcept;
  uint64_t backward(uint64_t x) const noexcept;

  uint64_t size_;
  int low_bits_;
  uint32_t low_mask_, high_mask_;
  Keys keys_;
};

}  // namespace ettin
