// Text scanning for one instruction set; included like word_encoder.h.

inline size_t find_prefix_simply(std::string_view text, size_t at, const PrefixFilter& filter) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  for (; at < text.size(); ++at) {
    const uint8_t first = filter.test(0, bytes[at]);
    if (first && (at + 1 == text.size() || first & filter.test(1, bytes[at + 1]))) return at;
  }
  return at;
}

inline size_t find_normalizing_simply(std::string_view text, size_t at) {
  while (at < text.size()) {
    const auto lead = static_cast<uint8_t>(text[at]);
    if (lead >= 0xC0 && kNormalizingStarts.has(text[at], text[at + 1])) {
      size_t length;
      if (property(utf8_decode(text.data() + at, length)) & kNormalizesFlag) return at;
    }
    at += utf8_length(lead);
  }
  return at;
}

#if defined(ETTIN_AVX512)

constexpr size_t kWidth = 64;
using Bytes = __m512i;
inline Bytes load(const char* text) { return _mm512_loadu_si512(text); }
inline Bytes table(const uint8_t* nibbles) {
  return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(nibbles)));
}
inline Bytes look_up(Bytes bytes, Bytes low, Bytes high) {
  const Bytes nibble = _mm512_set1_epi8(15);
  return _mm512_and_si512(_mm512_shuffle_epi8(low, _mm512_and_si512(bytes, nibble)),
                          _mm512_shuffle_epi8(high, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble)));
}
inline uint64_t common(Bytes a, Bytes b) { return _mm512_test_epi8_mask(a, b); }
// First bytes of characters that NFC may touch, and of others.
inline uint64_t may_normalize(Bytes bytes) {
  const uint64_t leads = _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(static_cast<char>(0xC0)));
  if (!leads) return 0;
  return leads & _mm512_movepi8_mask(_mm512_permutexvar_epi8(bytes, _mm512_load_si512(kNormalizingStarts.leads)));
}

#elif defined(ETTIN_AVX2)

constexpr size_t kWidth = 32;
using Bytes = __m256i;
inline Bytes load(const char* text) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text)); }
inline Bytes table(const uint8_t* nibbles) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(nibbles)));
}
inline Bytes look_up(Bytes bytes, Bytes low, Bytes high) {
  const Bytes nibble = _mm256_set1_epi8(15);
  return _mm256_and_si256(_mm256_shuffle_epi8(low, _mm256_and_si256(bytes, nibble)),
                          _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi16(bytes, 4), nibble)));
}
inline uint64_t common(Bytes a, Bytes b) {
  const Bytes none = _mm256_cmpeq_epi8(_mm256_and_si256(a, b), _mm256_setzero_si256());
  return static_cast<uint32_t>(~_mm256_movemask_epi8(none));
}
// First bytes of characters that NFC may touch, and of others. Below U+0300, whose first byte is 0xCC, it touches none.
inline uint64_t may_normalize(Bytes bytes) {
  const Bytes wanted = _mm256_set1_epi8(static_cast<char>(0xCC));
  return static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(bytes, wanted), bytes)));
}

#endif

#if defined(ETTIN_AVX512) || defined(ETTIN_AVX2)

inline size_t find_prefix(std::string_view text, size_t at, const PrefixFilter& filter) {
  const Bytes low[2] = {table(filter.low(0)), table(filter.low(1))};
  const Bytes high[2] = {table(filter.high(0)), table(filter.high(1))};
  for (; at + kWidth + 1 <= text.size(); at += kWidth) {
    const Bytes first = look_up(load(text.data() + at), low[0], high[0]);
    const uint64_t hits = common(first, look_up(load(text.data() + at + 1), low[1], high[1]));
    if (hits) return at + __builtin_ctzll(hits);
  }
  return find_prefix_simply(text, at, filter);
}

inline size_t find_normalizing(std::string_view text, size_t at) {
  for (; at + kWidth <= text.size(); at += kWidth) {
    for (uint64_t leads = may_normalize(load(text.data() + at)); leads; leads &= leads - 1) {
      const char* place = text.data() + at + __builtin_ctzll(leads);
      size_t length;
      if (!kNormalizingStarts.has(place[0], place[1])) continue;
      if (property(utf8_decode(place, length)) & kNormalizesFlag) return place - text.data();
    }
  }
  while (at < text.size() && is_continuation(text[at])) ++at;
  return find_normalizing_simply(text, at);
}

#else

inline size_t find_prefix(std::string_view text, size_t at, const PrefixFilter& filter) {
  return find_prefix_simply(text, at, filter);
}
inline size_t find_normalizing(std::string_view text, size_t at) { return find_normalizing_simply(text, at); }

#endif
