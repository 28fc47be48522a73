#include "rows/order.h"

#include <algorithm>

#include "base/philox.h"

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

namespace {

// The two halves of some values, as arrays that the compiler turns into vector registers.
constexpr size_t kChunk = 256;
struct Halves {
  uint32_t high[kChunk], low[kChunk];
};
struct Network {
  const uint32_t* keys;
  uint32_t low_mask, high_mask;
};

template <bool kInverse>
ETTIN_INLINE void run_network(Halves& halves, size_t count, const Network& network) noexcept {
  for (int step = 0; step < Permutation::kRounds; step += 2) {
    const int round = kInverse ? Permutation::kRounds - 2 - step : step;
    const uint32_t key_high = network.keys[round], key_low = network.keys[round + 1];
    for (size_t i = 0; i < count; ++i) {
      uint32_t high = halves.high[i], low = halves.low[i];
      if (kInverse) low ^= mix(high ^ key_low) & network.low_mask;
      high ^= mix(low ^ key_high) & network.high_mask;
      if (!kInverse) low ^= mix(high ^ key_low) & network.low_mask;
      halves.high[i] = high, halves.low[i] = low;
    }
  }
}

const InstructionSet kOrder = choose("order", {InstructionSet::kAvx2, InstructionSet::kAvx512});

using Runner = void (*)(Halves&, size_t, const Network&) noexcept;

template <bool kInverse>
void run_portable(Halves& halves, size_t count, const Network& network) noexcept {
  run_network<kInverse>(halves, count, network);
}

#if defined(ETTIN_X86)
template <bool kInverse>
__attribute__((target("avx2"))) void run_avx2(Halves& halves, size_t count, const Network& network) noexcept {
  run_network<kInverse>(halves, count, network);
}
template <bool kInverse>
__attribute__((target("avx512f,avx512bw"))) void run_avx512(Halves& halves, size_t count,
                                                            const Network& network) noexcept {
  run_network<kInverse>(halves, count, network);
}
#endif

template <bool kInverse>
Runner runner(InstructionSet set) noexcept {
  set = std::min(set, kOrder);
#if defined(ETTIN_X86)
  if (set >= InstructionSet::kAvx512) return run_avx512<kInverse>;
  if (set >= InstructionSet::kAvx2) return run_avx2<kInverse>;
#endif
  return run_portable<kInverse>;
}

}  // namespace

// Maps up to kChunk values; those that land outside [0, size) walk on together until all are inside.
template <bool kInverse>
void Permutation::map_chunk(const int64_t* from, size_t count, int64_t* to, InstructionSet set) const noexcept {
  const Runner run = runner<kInverse>(set);
  const Network network{keys_.data(), low_mask_, high_mask_};
  Halves halves;
  uint32_t places[kChunk];
  for (size_t i = 0; i < count; ++i) {
    const auto value = static_cast<uint64_t>(from[i]);
    halves.high[i] = static_cast<uint32_t>(value >> low_bits_);
    halves.low[i] = static_cast<uint32_t>(value) & low_mask_;
    places[i] = static_cast<uint32_t>(i);
  }
  while (count > 0) {
    run(halves, count, network);
    size_t outside = 0;
    for (size_t i = 0; i < count; ++i) {
      const uint64_t value = uint64_t{halves.high[i]} << low_bits_ | halves.low[i];
      const uint32_t place = places[i];
      to[place] = static_cast<int64_t>(value);
      halves.high[outside] = halves.high[i], halves.low[outside] = halves.low[i];
      places[outside] = place;
      outside += value >= size_ ? 1 : 0;
    }
    count = outside;
  }
}

template <bool kInverse>
void Permutation::map(const int64_t* from, size_t count, int64_t* to, InstructionSet set) const noexcept {
  for (size_t i = 0; i < count; i += kChunk) map_chunk<kInverse>(from + i, std::min(kChunk, count - i), to + i, set);
}

void Permutation::at(const int64_t* positions, size_t count, int64_t* values, InstructionSet set) const noexcept {
  map<false>(positions, count, values, set);
}

void Permutation::positions_of(const int64_t* values, size_t count, int64_t* positions,
                               InstructionSet set) const noexcept {
  map<true>(values, count, positions, set);
}

}  // namespace ettin
