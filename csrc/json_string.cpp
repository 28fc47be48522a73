#include "json_string.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ettin {
namespace {

bool ends_run(char byte) noexcept {
  return byte == '"' || byte == '\\' || static_cast<uint8_t>(byte) < 0x20;
}

const char* scalar_run_end(const char* at, const char* end) noexcept {
  while (at != end && !ends_run(*at)) ++at;
  return at;
}

const char* scalar_copy_run(const char* at, const char* end, char* to) noexcept {
  while (at != end && !ends_run(*at)) *to++ = *at++;
  return at;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) inline uint32_t run_ends(__m256i bytes) noexcept {
  const __m256i quote = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('"'));
  const __m256i backslash = _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8('\\'));
  const __m256i control = _mm256_cmpeq_epi8(_mm256_min_epu8(bytes, _mm256_set1_epi8(0x1F)), bytes);
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_or_si256(_mm256_or_si256(quote, backslash), control)));
}

__attribute__((target("avx2"))) const char* avx2_run_end(const char* at, const char* end) noexcept {
  for (; end - at >= 32; at += 32) {
    const uint32_t mask = run_ends(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
    if (mask != 0) return at + __builtin_ctz(mask);
  }
  return scalar_run_end(at, end);
}

__attribute__((target("avx2"))) const char* avx2_copy_run(const char* at, const char* end, char* to) noexcept {
  for (; end - at >= 32; at += 32, to += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    const uint32_t mask = run_ends(bytes);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
    if (mask != 0) return at + __builtin_ctz(mask);
  }
  return scalar_copy_run(at, end, to);
}
#endif

int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Value of the four hex digits at `at`, or -1.
int32_t hex4(const char* at, const char* end) noexcept {
  if (end - at < 4) return -1;
  int32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    const int digit = hex_digit(at[i]);
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

size_t put_utf8(uint32_t code, char* to) noexcept {
  if (code < 0x80) {
    to[0] = static_cast<char>(code);
    return 1;
  }
  if (code < 0x800) {
    to[0] = static_cast<char>(0xC0 | (code >> 6));
    to[1] = static_cast<char>(0x80 | (code & 63));
    return 2;
  }
  if (code < 0x10000) {
    to[0] = static_cast<char>(0xE0 | (code >> 12));
    to[1] = static_cast<char>(0x80 | ((code >> 6) & 63));
    to[2] = static_cast<char>(0x80 | (code & 63));
    return 3;
  }
  to[0] = static_cast<char>(0xF0 | (code >> 18));
  to[1] = static_cast<char>(0x80 | ((code >> 12) & 63));
  to[2] = static_cast<char>(0x80 | ((code >> 6) & 63));
  to[3] = static_cast<char>(0x80 | (code & 63));
  return 4;
}

constexpr uint32_t replacement = 0xFFFD;

// Code point of the \u escape whose digits start at `at`; moves `at` past it and past a matching low surrogate.
int32_t unicode_escape(const char*& at, const char* end, uint64_t& lone_surrogates) noexcept {
  const int32_t code = hex4(at, end);
  if (code < 0) return -1;
  at += 4;
  if (code < 0xD800 || code > 0xDFFF) return code;
  if (code <= 0xDBFF && end - at >= 6 && at[0] == '\\' && at[1] == 'u') {
    const int32_t low = hex4(at + 2, end);
    if (low >= 0xDC00 && low <= 0xDFFF) {
      at += 6;
      return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
  }
  ++lone_surrogates;
  return replacement;
}

// The character that a one-letter escape stands for, or 0.
char simple_escape(char letter) noexcept {
  switch (letter) {
    case '"': return '"';
    case '\\': return '\\';
    case '/': return '/';
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return 0;
  }
}

}  // namespace

const char* json_run_end(const char* at, const char* end) noexcept {
#if defined(__x86_64__)
  static const bool available = __builtin_cpu_supports("avx2");
  if (available) return avx2_run_end(at, end);
#endif
  return scalar_run_end(at, end);
}

const char* json_copy_run(const char* at, const char* end, char* to) noexcept {
#if defined(__x86_64__)
  static const bool available = __builtin_cpu_supports("avx2");
  if (available) return avx2_copy_run(at, end, to);
#endif
  return scalar_copy_run(at, end, to);
}

Unescaped json_unescape(const char* at, const char* end, char* to) noexcept {
  Unescaped result;
  char* const start = to;
  for (;;) {
    const char* run = json_copy_run(at, end, to);
    to += run - at;
    at = run;
    result.end = at;
    if (at == end) {
      result.error = "unterminated string";
      break;
    }
    if (*at == '"') break;
    if (*at != '\\') {
      result.error = "control character in a string";
      break;
    }
    if (end - at < 2) {
      result.error = "unterminated string";
      break;
    }
    const char letter = at[1];
    if (letter == 'u') {
      at += 2;
      const int32_t code = unicode_escape(at, end, result.lone_surrogates);
      if (code < 0) {
        result.error = "invalid \\u escape";
        break;
      }
      to += put_utf8(static_cast<uint32_t>(code), to);
      continue;
    }
    const char plain = simple_escape(letter);
    if (plain == 0) {
      result.error = "invalid escape";
      break;
    }
    *to++ = plain;
    at += 2;
  }
  result.size = static_cast<size_t>(to - start);
  return result;
}

}  // namespace ettin
