#include "text/utf8.h"

#include <cstdint>
#include <cstring>

#include "base/cpu.h"

#if defined(ETTIN_X86)
#include <immintrin.h>
#endif

namespace ettin {
namespace {

bool continuation(uint8_t byte) noexcept { return (byte & 0xC0) == 0x80; }

// Length of the valid character that starts at `p`, or 0.
size_t character(const uint8_t* p, size_t left) noexcept {
  const uint8_t lead = p[0];
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;
  if (lead < 0xE0) return left >= 2 && continuation(p[1]) ? 2 : 0;
  if (lead < 0xF0) {
    if (left < 3 || !continuation(p[1]) || !continuation(p[2])) return 0;
    if (lead == 0xE0 && p[1] < 0xA0) return 0;
    if (lead == 0xED && p[1] > 0x9F) return 0;
    return 3;
  }
  if (lead > 0xF4 || left < 4) return 0;
  if (!continuation(p[1]) || !continuation(p[2]) || !continuation(p[3])) return 0;
  if (lead == 0xF0 && p[1] < 0x90) return 0;
  if (lead == 0xF4 && p[1] > 0x8F) return 0;
  return 4;
}

size_t scalar(const uint8_t* data, size_t begin, size_t size) noexcept {
  size_t at = begin;
  while (at < size) {
    uint64_t word = 0;
    if (at + 8 <= size) {
      std::memcpy(&word, data + at, 8);
      if ((word & 0x8080808080808080ull) == 0) {
        at += 8;
        continue;
      }
    }
    const size_t length = character(data + at, size - at);
    if (length == 0) return at;
    at += length;
  }
  return size;
}

#if defined(ETTIN_X86)
// Keiser and Lemire, "Validating UTF-8 in less than one instruction per byte" (2021): three table lookups classify
// each pair of neighbouring bytes; an error bit survives only when all three agree.
enum : uint8_t {
  kTooShort = 1 << 0,
  kTooLong = 1 << 1,
  kOverlong3 = 1 << 2,
  kTooLarge = 1 << 3,
  kSurrogate = 1 << 4,
  kOverlong2 = 1 << 5,
  kTooLarge1000 = 1 << 6,
  kOverlong4 = 1 << 6,
  kTwoContinuations = 1 << 7,
  kCarry = kTooShort | kTooLong | kTwoContinuations,
};

const InstructionSet kUtf8 = choose("utf8", {InstructionSet::kAvx2});

#define ETTIN_TABLE(...) _mm256_broadcastsi128_si256(_mm_setr_epi8(__VA_ARGS__))

template <int N>
__attribute__((target("avx2"))) inline __m256i previous(__m256i now, __m256i before) noexcept {
  return _mm256_alignr_epi8(now, _mm256_permute2x128_si256(before, now, 0x21), 16 - N);
}

__attribute__((target("avx2"))) inline __m256i special_cases(__m256i input, __m256i prev1) noexcept {
  const __m256i nibble = _mm256_set1_epi8(0x0F);
  const __m256i byte_1_high_table =
      ETTIN_TABLE(kTooLong, kTooLong, kTooLong, kTooLong, kTooLong, kTooLong, kTooLong, kTooLong,
                  static_cast<char>(kTwoContinuations), static_cast<char>(kTwoContinuations),
                  static_cast<char>(kTwoContinuations), static_cast<char>(kTwoContinuations), kTooShort | kOverlong2,
                  kTooShort, kTooShort | kOverlong3 | kSurrogate, kTooShort | kTooLarge | kTooLarge1000 | kOverlong4);
  constexpr char c = static_cast<char>(kCarry);
  const __m256i byte_1_low_table = ETTIN_TABLE(
      c | kOverlong3 | kOverlong2 | kOverlong4, c | kOverlong2, c, c, c | kTooLarge, c | kTooLarge | kTooLarge1000,
      c | kTooLarge | kTooLarge1000, c | kTooLarge | kTooLarge1000, c | kTooLarge | kTooLarge1000,
      c | kTooLarge | kTooLarge1000, c | kTooLarge | kTooLarge1000, c | kTooLarge | kTooLarge1000,
      c | kTooLarge | kTooLarge1000, c | kTooLarge | kTooLarge1000 | kSurrogate, c | kTooLarge | kTooLarge1000,
      c | kTooLarge | kTooLarge1000);
  constexpr char t = static_cast<char>(kTooLong | kOverlong2 | kTwoContinuations);
  const __m256i byte_2_high_table =
      ETTIN_TABLE(kTooShort, kTooShort, kTooShort, kTooShort, kTooShort, kTooShort, kTooShort, kTooShort,
                  t | kOverlong3 | kTooLarge1000 | kOverlong4, t | kOverlong3 | kTooLarge, t | kSurrogate | kTooLarge,
                  t | kSurrogate | kTooLarge, kTooShort, kTooShort, kTooShort, kTooShort);
  const __m256i high_1 = _mm256_and_si256(_mm256_srli_epi16(prev1, 4), nibble);
  const __m256i low_1 = _mm256_and_si256(prev1, nibble);
  const __m256i high_2 = _mm256_and_si256(_mm256_srli_epi16(input, 4), nibble);
  return _mm256_and_si256(
      _mm256_and_si256(_mm256_shuffle_epi8(byte_1_high_table, high_1), _mm256_shuffle_epi8(byte_1_low_table, low_1)),
      _mm256_shuffle_epi8(byte_2_high_table, high_2));
}

__attribute__((target("avx2"))) inline __m256i errors_of(__m256i input, __m256i before) noexcept {
  const __m256i prev1 = previous<1>(input, before);
  const __m256i prev2 = previous<2>(input, before);
  const __m256i prev3 = previous<3>(input, before);
  const __m256i third = _mm256_subs_epu8(prev2, _mm256_set1_epi8(static_cast<char>(0xE0 - 0x80)));
  const __m256i fourth = _mm256_subs_epu8(prev3, _mm256_set1_epi8(static_cast<char>(0xF0 - 0x80)));
  const __m256i must_continue =
      _mm256_and_si256(_mm256_or_si256(third, fourth), _mm256_set1_epi8(static_cast<char>(0x80)));
  return _mm256_xor_si256(must_continue, special_cases(input, prev1));
}

// Offset up to which whole 32-byte steps are valid, moved back to the start of a character.
__attribute__((target("avx2"))) size_t avx2_prefix(const uint8_t* data, size_t size) noexcept {
  __m256i before = _mm256_setzero_si256();
  size_t at = 0;
  for (; at + 32 <= size; at += 32) {
    const __m256i input = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + at));
    if (_mm256_movemask_epi8(_mm256_or_si256(input, before)) != 0) {
      const __m256i errors = errors_of(input, before);
      if (!_mm256_testz_si256(errors, errors)) break;
    }
    before = input;
  }
  size_t back = 0;  // the scalar loop decides about a character that spans the boundary
  while (back < 3 && at > back && continuation(data[at - back - 1])) ++back;
  return at > back && back < 4 && data[at - back - 1] >= 0xC0 ? at - back - 1 : at;
}
#endif

}  // namespace

size_t utf8_valid_prefix(const char* data, size_t size) noexcept {
  const auto* bytes = reinterpret_cast<const uint8_t*>(data);
  size_t begin = 0;
#if defined(ETTIN_X86)
  if (kUtf8 == InstructionSet::kAvx2) begin = avx2_prefix(bytes, size);
#endif
  return scalar(bytes, begin, size);
}

}  // namespace ettin
