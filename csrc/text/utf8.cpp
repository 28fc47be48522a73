#include "text/utf8.h"

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
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

#if defined(__x86_64__)
// Keiser and Lemire, "Validating UTF-8 in less than one instruction per byte" (2021): three table lookups classify
// each pair of neighbouring bytes; an error bit survives only when all three agree.
enum : uint8_t {
  too_short = 1 << 0,
  too_long = 1 << 1,
  overlong_3 = 1 << 2,
  too_large = 1 << 3,
  surrogate = 1 << 4,
  overlong_2 = 1 << 5,
  too_large_1000 = 1 << 6,
  overlong_4 = 1 << 6,
  two_continuations = 1 << 7,
  carry = too_short | too_long | two_continuations,
};

#define ETTIN_TABLE(...) _mm256_broadcastsi128_si256(_mm_setr_epi8(__VA_ARGS__))

template <int N>
__attribute__((target("avx2"))) inline __m256i previous(__m256i now, __m256i before) noexcept {
  return _mm256_alignr_epi8(now, _mm256_permute2x128_si256(before, now, 0x21), 16 - N);
}

__attribute__((target("avx2"))) inline __m256i special_cases(__m256i input, __m256i prev1) noexcept {
  const __m256i nibble = _mm256_set1_epi8(0x0F);
  const __m256i byte_1_high_table = ETTIN_TABLE(
      too_long, too_long, too_long, too_long, too_long, too_long, too_long, too_long,
      static_cast<char>(two_continuations), static_cast<char>(two_continuations),
      static_cast<char>(two_continuations), static_cast<char>(two_continuations), too_short | overlong_2, too_short,
      too_short | overlong_3 | surrogate, too_short | too_large | too_large_1000 | overlong_4);
  constexpr char c = static_cast<char>(carry);
  const __m256i byte_1_low_table = ETTIN_TABLE(
      c | overlong_3 | overlong_2 | overlong_4, c | overlong_2, c, c, c | too_large, c | too_large | too_large_1000,
      c | too_large | too_large_1000, c | too_large | too_large_1000, c | too_large | too_large_1000,
      c | too_large | too_large_1000, c | too_large | too_large_1000, c | too_large | too_large_1000,
      c | too_large | too_large_1000, c | too_large | too_large_1000 | surrogate, c | too_large | too_large_1000,
      c | too_large | too_large_1000);
  constexpr char t = static_cast<char>(too_long | overlong_2 | two_continuations);
  const __m256i byte_2_high_table = ETTIN_TABLE(
      too_short, too_short, too_short, too_short, too_short, too_short, too_short, too_short,
      t | overlong_3 | too_large_1000 | overlong_4, t | overlong_3 | too_large, t | surrogate | too_large,
      t | surrogate | too_large, too_short, too_short, too_short, too_short);
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
#if defined(__x86_64__)
  static const bool available = __builtin_cpu_supports("avx2");
  if (available) begin = avx2_prefix(bytes, size);
#endif
  return scalar(bytes, begin, size);
}

}  // namespace ettin
