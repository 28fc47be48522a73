#include "text/json_string.h"

#include <cstring>

#include "base/cpu.h"

#if defined(ETTIN_X86)
#include <immintrin.h>
#endif

namespace ettin {
namespace {

bool ends_run(char byte) noexcept { return byte == '"' || byte == '\\' || static_cast<uint8_t>(byte) < 0x20; }

const char* scalar_run_end(const char* at, const char* end) noexcept {
  while (at != end && !ends_run(*at)) ++at;
  return at;
}

const char* scalar_copy_run(const char* at, const char* end, char* to) noexcept {
  while (at != end && !ends_run(*at)) *to++ = *at++;
  return at;
}

#if defined(ETTIN_X86)
const InstructionSet kRuns = choose("json_runs", {InstructionSet::kAvx2});
const InstructionSet kUnescape = choose("json_unescape", {InstructionSet::kAvx512Vbmi});

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

// What a letter after a backslash stands for; 0 where it is not a simple escape.
struct alignas(64) SimpleEscapes {
  char of[128];
};
constexpr SimpleEscapes make_kSimpleEscapes() {
  SimpleEscapes escapes{};
  escapes.of['"'] = '"', escapes.of['\\'] = '\\', escapes.of['/'] = '/';
  escapes.of['b'] = '\b', escapes.of['f'] = '\f', escapes.of['n'] = '\n', escapes.of['r'] = '\r',
  escapes.of['t'] = '\t';
  return escapes;
}
constexpr SimpleEscapes kSimpleEscapes = make_kSimpleEscapes();

// Backslashes that start an escape, when none reaches into the block: every other one of a run.
uint64_t escape_starts(uint64_t backslashes) noexcept {
  uint64_t starts = 0;
  for (uint64_t left = backslashes; left != 0;) {
    const uint64_t first = left & (~left + 1);
    starts |= first;
    left &= ~(first | first << 1);
  }
  return starts;
}

// Decodes whole blocks of 64 bytes, simple escapes included; stops at a quote, at anything else, or near the end.
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt,bmi,bmi2"))) void avx512_unescape(
    const char*& at, const char* end, char*& to) noexcept {
  const __m512i low_table = _mm512_load_si512(kSimpleEscapes.of),
                high_table = _mm512_load_si512(kSimpleEscapes.of + 64);
  while (end - at >= 64) {
    const __m512i bytes = _mm512_loadu_si512(at);
    const uint64_t backslashes = _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\\'));
    uint64_t stops =
        _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('"')) | _mm512_cmplt_epu8_mask(bytes, _mm512_set1_epi8(0x20));
    if ((backslashes | stops) == 0) {
      _mm512_storeu_si512(to, bytes);
      at += 64;
      to += 64;
      continue;
    }
    const uint64_t adjacent = backslashes & backslashes << 1;
    const uint64_t starts = adjacent != 0 ? escape_starts(backslashes) : backslashes;
    const uint64_t letters = starts << 1;
    const __m512i plain = _mm512_permutex2var_epi8(low_table, bytes, high_table);
    const uint64_t simple = _mm512_mask_test_epi8_mask(~_mm512_movepi8_mask(bytes), plain, plain);
    const uint64_t other = letters & ~simple;                         // escapes that are not simple
    stops = (stops & ~letters) | other >> 1 | (starts & 1ull << 63);  // the last one's letter is in the next block
    const uint64_t inside = stops != 0 ? (stops & (~stops + 1)) - 1 : ~0ull;
    const uint64_t kept = inside & ~starts;
    const __m512i text = _mm512_mask_blend_epi8(letters, bytes, plain);
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi8(kept, text));
    at += __builtin_popcountll(inside);
    to += __builtin_popcountll(kept);
    if ((stops & ~(1ull << 63)) != 0) return;
    if (stops != 0 && (starts >> 63) == 0) return;
  }
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

constexpr uint32_t kReplacement = 0xFFFD;

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
  return kReplacement;
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
#if defined(ETTIN_X86)
  if (kRuns == InstructionSet::kAvx2) return avx2_run_end(at, end);
#endif
  return scalar_run_end(at, end);
}

const char* json_copy_run(const char* at, const char* end, char* to) noexcept {
#if defined(ETTIN_X86)
  if (kRuns == InstructionSet::kAvx2) return avx2_copy_run(at, end, to);
#endif
  return scalar_copy_run(at, end, to);
}

namespace {

// Decodes what it can at `at` fast.
void json_unescape_blocks([[maybe_unused]] const char*& at, [[maybe_unused]] const char* end,
                          [[maybe_unused]] char*& to) noexcept {
#if defined(ETTIN_X86)
  if (kUnescape == InstructionSet::kAvx512Vbmi) avx512_unescape(at, end, to);
#endif
}

}  // namespace

Unescaped json_unescape(const char* at, const char* end, char* to) noexcept {
  Unescaped result;
  char* const start = to;
  for (;;) {
    json_unescape_blocks(at, end, to);
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
