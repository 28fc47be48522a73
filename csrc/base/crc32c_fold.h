// CRC-32C by carry-less multiplication, 256 bytes a step: several times as fast as the instruction for it. Only
// included for x86, and to be called where the instruction set is kAvx512Vbmi.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/crc32c.h"

namespace ettin {

#define ETTIN_FOLD_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,vpclmulqdq,pclmul,sse4.2")))

constexpr size_t kFoldStep = 256;

// Multiplies each 128 bits by x^2048 and adds the 128 bits that stand 256 bytes later.
ETTIN_FOLD_TARGET inline __m512i fold(__m512i sum, __m512i next, __m512i factors) noexcept {
  const __m512i low = _mm512_clmulepi64_epi128(sum, factors, 0x00);
  const __m512i high = _mm512_clmulepi64_epi128(sum, factors, 0x11);
  return _mm512_ternarylogic_epi64(low, high, next, 0x96);
}

// Checksum of the whole steps of `data`, at least one, after bytes with checksum `crc`; `see` is called with every
// 64 bytes. The caller adds the rest.
template <typename See>
ETTIN_FOLD_TARGET inline uint32_t crc32c_fold(uint32_t crc, const void* data, size_t size, const See& see) noexcept {
  const auto* from = static_cast<const char*>(data);
  const auto low = static_cast<int64_t>(fold_factors().low), high = static_cast<int64_t>(fold_factors().high);
  const __m512i factors = _mm512_maskz_broadcast_i32x4(0xFFFF, _mm_set_epi64x(high, low));
  __m512i sums[4];
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; ++i) {
    sums[i] = _mm512_loadu_si512(from + 64 * i);
    see(sums[i], i);
  }
  sums[0] = _mm512_xor_si512(sums[0], _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(~crc))));
  const char* const end = from + size / kFoldStep * kFoldStep;
  for (from += kFoldStep; from < end; from += kFoldStep) {
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) {
      const __m512i next = _mm512_loadu_si512(from + 64 * i);
      see(next, i);
      sums[i] = fold(sums[i], next, factors);
    }
  }
  // What is left has the remainder of everything before it: 256 bytes for the plain instruction.
  uint64_t words[kFoldStep / 8];
  std::memcpy(words, sums, sizeof words);
  uint64_t rest = 0;
  for (const uint64_t word : words) rest = _mm_crc32_u64(rest, word);
  return ~static_cast<uint32_t>(rest);
}

}  // namespace ettin
