#include "rows/row_draws.h"

#include <algorithm>

#if defined(ETTIN_X86)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false alarms inside GCC 12's own header
#include <immintrin.h>
#endif

namespace ettin {

namespace {

const InstructionSet kDraws = choose("row_draws", {InstructionSet::kAvx2, InstructionSet::kAvx512});

void draws_portable(const RowStream& stream, uint32_t count, uint32_t* draws) noexcept {
  for (uint32_t group = 0; group * kDrawGroup < count; ++group) {
    uint32_t* out = draws + group * kDrawGroup;
    for (uint32_t lane = 0; lane < kDrawLanes; ++lane) {
      const PhiloxCounter words = philox(row_counter(stream, group * kDrawLanes + lane), stream.key);
      for (uint32_t word = 0; word < 4; ++word) out[word * kDrawLanes + lane] = words[word];
    }
  }
}

#if defined(ETTIN_X86)

#define ETTIN_ROWS_AVX2 __attribute__((target("avx2")))
#define ETTIN_ROWS_AVX512 __attribute__((target("avx512f,avx512bw")))

// High and low halves of the eight 32 x 32 bit products.
ETTIN_ROWS_AVX2 inline void multiply(__m256i a, __m256i multiplier, __m256i& high, __m256i& low) noexcept {
  const __m256i even = _mm256_mul_epu32(a, multiplier);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), multiplier);
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}

ETTIN_ROWS_AVX2 void draws_avx2(const RowStream& stream, uint32_t count, uint32_t* draws) noexcept {
  const __m256i multiplier0 = _mm256_set1_epi32(static_cast<int>(kPhiloxMultiplier0));
  const __m256i multiplier1 = _mm256_set1_epi32(static_cast<int>(kPhiloxMultiplier1));
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const uint32_t counters = (count + kDrawGroup - 1) / kDrawGroup * kDrawLanes;
  for (uint32_t first = 0; first < counters; first += 8) {  // half a group at a time
    __m256i c0 = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), lanes);
    __m256i c1 = _mm256_set1_epi32(static_cast<int>(stream.row));
    __m256i c2 = _mm256_set1_epi32(static_cast<int>(stream.row >> 32));
    __m256i c3 = _mm256_set1_epi32(static_cast<int>(stream.pass));
    uint32_t k0 = stream.key[0], k1 = stream.key[1];
    for (int round = 0; round < kPhiloxRounds; ++round) {
      __m256i high0, low0, high1, low1;
      multiply(c0, multiplier0, high0, low0);
      multiply(c2, multiplier1, high1, low1);
      c0 = _mm256_xor_si256(_mm256_xor_si256(high1, c1), _mm256_set1_epi32(static_cast<int>(k0)));
      c1 = low1;
      c2 = _mm256_xor_si256(_mm256_xor_si256(high0, c3), _mm256_set1_epi32(static_cast<int>(k1)));
      c3 = low0;
      k0 += kPhiloxWeyl0;
      k1 += kPhiloxWeyl1;
    }
    uint32_t* out = draws + first / kDrawLanes * kDrawGroup + first % kDrawLanes;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), c0);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16), c1);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32), c2);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 48), c3);
  }
}

ETTIN_ROWS_AVX512 inline void multiply(__m512i a, __m512i multiplier, __m512i& high, __m512i& low) noexcept {
  const __m512i even = _mm512_mul_epu32(a, multiplier);
  const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), multiplier);
  high = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xAAAA, odd);
  low = _mm512_mask_mov_epi32(even, 0xAAAA, _mm512_slli_epi64(odd, 32));
}

// Two groups at a time, so that the multiplications of one hide the latency of the other.
struct Group512 {
  __m512i c0, c1, c2, c3;
};

ETTIN_ROWS_AVX512 inline Group512 start_group(const RowStream& stream, uint32_t first) noexcept {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), lanes),
          _mm512_set1_epi32(static_cast<int>(stream.row)), _mm512_set1_epi32(static_cast<int>(stream.row >> 32)),
          _mm512_set1_epi32(static_cast<int>(stream.pass))};
}

ETTIN_ROWS_AVX512 inline void round_group(Group512& g, __m512i key0, __m512i key1) noexcept {
  __m512i high0, low0, high1, low1;
  multiply(g.c0, _mm512_set1_epi32(static_cast<int>(kPhiloxMultiplier0)), high0, low0);
  multiply(g.c2, _mm512_set1_epi32(static_cast<int>(kPhiloxMultiplier1)), high1, low1);
  g.c0 = _mm512_ternarylogic_epi32(high1, g.c1, key0, 0x96);
  g.c1 = low1;
  g.c2 = _mm512_ternarylogic_epi32(high0, g.c3, key1, 0x96);
  g.c3 = low0;
}

ETTIN_ROWS_AVX512 inline void store_group(const Group512& g, uint32_t* out) noexcept {
  _mm512_storeu_si512(out, g.c0);
  _mm512_storeu_si512(out + 16, g.c1);
  _mm512_storeu_si512(out + 32, g.c2);
  _mm512_storeu_si512(out + 48, g.c3);
}

ETTIN_ROWS_AVX512 void draws_avx512(const RowStream& stream, uint32_t count, uint32_t* draws) noexcept {
  const uint32_t groups = (count + kDrawGroup - 1) / kDrawGroup;
  for (uint32_t group = 0; group < groups; group += 2) {
    Group512 a = start_group(stream, group * kDrawLanes);
    Group512 b = start_group(stream, (group + 1) * kDrawLanes);
    uint32_t k0 = stream.key[0], k1 = stream.key[1];
    for (int round = 0; round < kPhiloxRounds; ++round) {
      const __m512i key0 = _mm512_set1_epi32(static_cast<int>(k0)), key1 = _mm512_set1_epi32(static_cast<int>(k1));
      round_group(a, key0, key1);
      round_group(b, key0, key1);
      k0 += kPhiloxWeyl0;
      k1 += kPhiloxWeyl1;
    }
    store_group(a, draws + group * kDrawGroup);
    if (group + 1 < groups) store_group(b, draws + (group + 1) * kDrawGroup);
  }
}

#endif

}  // namespace

void row_draws(const RowStream& stream, uint32_t count, uint32_t* draws, InstructionSet set) noexcept {
  set = std::min(set, kDraws);
#if defined(ETTIN_X86)
  if (set >= InstructionSet::kAvx512) return draws_avx512(stream, count, draws);
  if (set >= InstructionSet::kAvx2) return draws_avx2(stream, count, draws);
#endif
  draws_portable(stream, count, draws);
}

}  // namespace ettin
