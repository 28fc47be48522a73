#include "order.h"

namespace ettin {

namespace {

// The finalizer of MurmurHash3: every input bit reaches every output bit.
inline uint32_t mix(uint32_t x) noexcept {
  x ^= x >> 16;
  x *= 0x85EBCA6Bu;
  x ^= x >> 13;
  x *= 0xC2B2AE35u;
  return x ^ (x >> 16);
}

int bits_for(uint64_t size) noexcept {
  int bits = Permutation::kSmallestBits;
  while ((uint64_t{1} << bits) < size) ++bits;
  return bits;
}

}  // namespace

Permutation::Permutation(uint64_t size, const Keys& keys) noexcept : size_(size), keys_(keys) {
  const int bits = bits_for(size);
  low_bits_ = bits / 2;
  low_mask_ = static_cast<uint32_t>((uint64_t{1} << low_bits_) - 1);
  high_mask_ = static_cast<uint32_t>((uint64_t{1} << (bits - low_bits_)) - 1);
}

uint64_t Permutation::forward(uint64_t x) const noexcept {
  uint32_t high = static_cast<uint32_t>(x >> low_bits_), low = static_cast<uint32_t>(x) & low_mask_;
  for (int round = 0; round < kRounds; round += 2) {
    high ^= mix(low ^ keys_[round]) & high_mask_;
    low ^= mix(high ^ keys_[round + 1]) & low_mask_;
  }
  return uint64_t{high} << low_bits_ | low;
}

uint64_t Permutation::backward(uint64_t x) const noexcept {
  uint32_t high = static_cast<uint32_t>(x >> low_bits_), low = static_cast<uint32_t>(x) & low_mask_;
  for (int round = kRounds - 2; round >= 0; round -= 2) {
    low ^= mix(high ^ keys_[round + 1]) & low_mask_;
    high ^= mix(low ^ keys_[round]) & high_mask_;
  }
  return uint64_t{high} << low_bits_ | low;
}

uint64_t Permutation::at(uint64_t position) const noexcept {
  uint64_t value = forward(position);
  while (value >= size_) value = forward(value);
  return value;
}

uint64_t Permutation::position_of(uint64_t value) const noexcept {
  uint64_t position = backward(value);
  while (position >= size_) position = backward(position);
  return position;
}

void Permutation::at_many(const int64_t* positions, size_t count, int64_t* values) const noexcept {
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<int64_t>(at(static_cast<uint64_t>(positions[i])));
}

void Permutation::positions_of(const int64_t* values, size_t count, int64_t* positions) const noexcept {
  for (size_t i = 0; i < count; ++i) positions[i] = static_cast<int64_t>(position_of(static_cast<uint64_t>(values[i])));
}

}  // namespace ettin
