// Classes of bytes as masks, keys of words and their hashes, for one instruction set. Included like word_encoder.h.

// Classes of 64 bytes, one bit a byte. Bytes of characters beyond ASCII are in `high` alone, their first ones in
// `lead`.
struct ByteMasks {
  uint64_t letter, number, other, space, white, apostrophe, high, lead;
};

#if defined(ETTIN_AVX512)

// The classes of bytes in ASCII; anything for others.
inline __m512i ascii_classes(__m512i bytes) {
  return _mm512_permutex2var_epi8(_mm512_loadu_si512(kAsciiClasses.bits), bytes,
                                  _mm512_loadu_si512(kAsciiClasses.bits + 64));
}

inline ByteMasks classify(const char* text) {
  const __m512i bytes = _mm512_loadu_si512(text);
  const __m512i classes = ascii_classes(bytes);
  const uint64_t high = _mm512_movepi8_mask(bytes);
  const auto having = [&](uint8_t bit) {
    return _mm512_mask_test_epi8_mask(~high, classes, _mm512_set1_epi8(static_cast<char>(bit)));
  };
  return {having(kLetterBit),
          having(kNumberBit),
          having(kOtherBit),
          having(kSpaceBit),
          having(kWhiteBit),
          _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\'')),
          high,
          _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(static_cast<char>(0xC0)))};
}

inline WordKey load_key(const char* text, size_t size, size_t) {
  const auto inside = static_cast<__mmask16>(_bzhi_u32(0xFFFF, static_cast<uint32_t>(size)));
  WordKey key;
  _mm_store_si128(reinterpret_cast<__m128i*>(&key), _mm_mask_loadu_epi8(_mm_set1_epi8(-1), inside, text));
  return key;
}

#else

#if defined(ETTIN_AVX2)

struct Classes32 {
  uint32_t letter, number, space, white, apostrophe, high, lead;
};

inline Classes32 classify_half(const char* text) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text));
  const auto mask = [](__m256i value) { return static_cast<uint32_t>(_mm256_movemask_epi8(value)); };
  const auto below = [&](__m256i value, char limit) {  // unsigned value < limit
    return mask(_mm256_cmpeq_epi8(_mm256_min_epu8(value, _mm256_set1_epi8(limit)), value)) &
           ~mask(_mm256_cmpeq_epi8(value, _mm256_set1_epi8(limit)));
  };
  const auto minus = [&](__m256i value, char base) { return _mm256_sub_epi8(value, _mm256_set1_epi8(base)); };
  const auto equals = [&](char byte) { return mask(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte))); };
  return {below(minus(_mm256_or_si256(bytes, _mm256_set1_epi8(0x20)), 'a'), 26),
          below(minus(bytes, '0'), 10),
          equals(' '),
          below(minus(bytes, '\t'), 5),
          equals('\''),
          mask(bytes),
          mask(bytes) & ~below(bytes, static_cast<char>(0xC0))};
}

inline ByteMasks classify(const char* text) {
  const Classes32 low = classify_half(text), high = classify_half(text + 32);
  const auto join = [](uint32_t first, uint32_t second) { return static_cast<uint64_t>(second) << 32 | first; };
  ByteMasks masks{join(low.letter, high.letter), join(low.number, high.number), 0,
                  join(low.space, high.space),   join(low.white, high.white),   join(low.apostrophe, high.apostrophe),
                  join(low.high, high.high),     join(low.lead, high.lead)};
  masks.other = ~(masks.letter | masks.number | masks.space | masks.white | masks.high);
  return masks;
}

#else

inline ByteMasks classify(const char* text) {
  ByteMasks masks{};
  for (int at = 0; at < 64; ++at) {
    const auto byte = static_cast<uint8_t>(text[at]);
    const uint64_t classes = byte < 0x80 ? kAsciiClasses.bits[byte] : 0;
    masks.letter |= (classes & 1) << at;
    masks.number |= (classes >> 1 & 1) << at;
    masks.other |= (classes >> 2 & 1) << at;
    masks.space |= (classes >> 3 & 1) << at;
    masks.white |= (classes >> 4 & 1) << at;
    masks.apostrophe |= static_cast<uint64_t>(byte == '\'') << at;
    masks.high |= static_cast<uint64_t>(byte >> 7) << at;
    masks.lead |= static_cast<uint64_t>(byte >= 0xC0) << at;
  }
  return masks;
}

#endif

#if defined(ETTIN_AVX2)

// By size of a word: ones behind its bytes.
struct alignas(16) KeyPadding {
  uint8_t behind[kKeyBytes + 1][16];
};
constexpr KeyPadding make_key_padding() {
  KeyPadding padding{};
  for (size_t size = 0; size <= kKeyBytes; ++size) {
    for (size_t at = size; at < 16; ++at) padding.behind[size][at] = 0xFF;
  }
  return padding;
}
constexpr KeyPadding kKeyPadding = make_key_padding();

// `left`: bytes that may be read.
inline WordKey load_key(const char* text, size_t size, size_t left) {
  if (__builtin_expect(left < 16, 0)) return make_key(text, size);
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text));
  const __m128i padding = _mm_load_si128(reinterpret_cast<const __m128i*>(kKeyPadding.behind[size]));
  WordKey key;
  _mm_store_si128(reinterpret_cast<__m128i*>(&key), _mm_or_si128(bytes, padding));
  return key;
}

#else

// `left`: bytes that may be read.
inline WordKey load_key(const char* text, size_t size, size_t left) {
  if (left < 16) return make_key(text, size);
  WordKey key;
  std::memcpy(&key, text, 16);
  const uint64_t low = size >= 8 ? 0 : ~0ull << (8 * size);
  const uint64_t high = size <= 8 ? ~0ull : ~0ull << (8 * size - 64);
  return {key.low | low, key.high | high};
}

#endif

#endif

inline uint32_t hash_key(const WordKey& key) {
#if defined(ETTIN_AVX512) || defined(ETTIN_AVX2)
  return static_cast<uint32_t>(_mm_crc32_u64(_mm_crc32_u64(0, key.low), key.high));
#else
  const uint64_t mixed = (key.low * 0x9E3779B97F4A7C15ull ^ key.high) * 0xC2B2AE3D27D4EB4Full;
  return static_cast<uint32_t>(mixed >> 32);
#endif
}
