// 16 and 32 numbers of 16 bits in registers, for one instruction set. Included like word_encoder.h, for AVX-512 and
// AVX2 only.
//
// `lowest`: the least number. `first`: where a number stands first. `without`: drops the number behind place `at` and
// closes the gap; 0xFFFF moves in at the end. `put` and `put_before`: with another number at a place, or at the place
// before it, which is none for the first.

#if defined(ETTIN_AVX512)

struct Numbers16 {
  static constexpr size_t kCount = 16;
  using Vector = __m256i;
  static Vector load(const uint16_t* from) { return _mm256_load_si256(reinterpret_cast<const Vector*>(from)); }
  static void store(uint16_t* to, Vector numbers) { _mm256_store_si256(reinterpret_cast<Vector*>(to), numbers); }
  static Vector set(uint16_t number) { return _mm256_set1_epi16(static_cast<short>(number)); }
  static uint16_t lowest(Vector numbers) {
    const __m128i both = _mm_min_epu16(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
    return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(both)));
  }
  static uint32_t first(Vector numbers, uint16_t number) {
    return static_cast<uint32_t>(__builtin_ctz(_mm256_cmpeq_epi16_mask(numbers, set(number))));
  }
  static Vector without(Vector numbers, uint32_t at) {
    return _mm256_mask_compress_epi16(set(0xFFFF), static_cast<__mmask16>(~(2u << at)), numbers);
  }
  static Vector put(Vector numbers, uint32_t at, uint16_t number) {
    return _mm256_mask_set1_epi16(numbers, static_cast<__mmask16>(1u << at), static_cast<short>(number));
  }
  static Vector put_before(Vector numbers, uint32_t at, uint16_t number) {
    return _mm256_mask_set1_epi16(numbers, static_cast<__mmask16>((1u << at) >> 1), static_cast<short>(number));
  }
};

struct Numbers32 {
  static constexpr size_t kCount = 32;
  using Vector = __m512i;
  static Vector load(const uint16_t* from) { return _mm512_load_si512(from); }
  static void store(uint16_t* to, Vector numbers) { _mm512_store_si512(to, numbers); }
  static Vector set(uint16_t number) { return _mm512_set1_epi16(static_cast<short>(number)); }
  static uint16_t lowest(Vector numbers) {
    return Numbers16::lowest(_mm256_min_epu16(_mm512_castsi512_si256(numbers), _mm512_extracti64x4_epi64(numbers, 1)));
  }
  static uint32_t first(Vector numbers, uint16_t number) {
    return static_cast<uint32_t>(__builtin_ctz(_mm512_cmpeq_epi16_mask(numbers, set(number))));
  }
  static Vector without(Vector numbers, uint32_t at) {
    return _mm512_mask_compress_epi16(set(0xFFFF), ~(2u << at), numbers);
  }
  static Vector put(Vector numbers, uint32_t at, uint16_t number) {
    return _mm512_mask_set1_epi16(numbers, 1u << at, static_cast<short>(number));
  }
  static Vector put_before(Vector numbers, uint32_t at, uint16_t number) {
    return _mm512_mask_set1_epi16(numbers, (1u << at) >> 1, static_cast<short>(number));
  }
};

// The number of `ranks` where `marks` has a mark, or 0xFFFF; a mark occurs once at most.
inline uint16_t rank_of_mark(const uint16_t* marks, uint16_t mark, const uint16_t* ranks) {
  const __mmask16 found = _mm256_cmpeq_epi16_mask(Numbers16::load(marks), Numbers16::set(mark));
  const __m256i kept = _mm256_mask_compress_epi16(Numbers16::set(0xFFFF), found, Numbers16::load(ranks));
  return static_cast<uint16_t>(_mm256_cvtsi256_si32(kept));
}

// Ranks of 16 neighbouring pairs of bytes from `text` on, of which the first `pairs` (at most 16) exist; 0xFFFF
// follows. `by_pair` has them by left << 8 | right.
inline __m256i byte_pair_ranks(const uint16_t* by_pair, const char* text, uint32_t pairs) {
  const auto inside = static_cast<__mmask16>((1u << pairs) - 1);
  const __m512i left = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(inside, text));
  const __m512i right = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(inside, text + 1));
  const __m512i places = _mm512_or_si512(_mm512_slli_epi32(left, 8), right);
  return _mm512_cvtepi32_epi16(_mm512_mask_i32gather_epi32(_mm512_set1_epi32(-1), inside, places, by_pair, 2));
}

// The bytes of a word as tokens, and the ranks of all its pairs. Of a short word 16 bytes may be read.
inline void start_word(Numbers16, const uint16_t* by_pair, std::string_view word, uint16_t* tokens, uint16_t* ranks) {
  const auto inside = static_cast<__mmask16>((1u << word.size()) - 1);
  Numbers16::store(tokens, _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(inside, word.data())));
  Numbers16::store(ranks, byte_pair_ranks(by_pair, word.data(), static_cast<uint32_t>(word.size()) - 1));
}
inline void start_word(Numbers32, const uint16_t* by_pair, std::string_view word, uint16_t* tokens, uint16_t* ranks) {
  const auto inside = static_cast<__mmask32>((uint64_t{1} << word.size()) - 1);
  Numbers32::store(tokens, _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(inside, word.data())));
  const auto pairs = static_cast<uint32_t>(word.size()) - 1;
  const uint32_t some = pairs < 16 ? pairs : 16;
  const __m256i low = byte_pair_ranks(by_pair, word.data(), some);
  const __m256i high = byte_pair_ranks(by_pair, word.data() + some, pairs - some);
  Numbers32::store(ranks, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}

#elif defined(ETTIN_AVX2)

// Loads from these tables are masks of places: one, or all from one on.
struct alignas(64) PlaceMasks {
  uint16_t one[96], from[96];
};
constexpr PlaceMasks make_place_masks() {
  PlaceMasks masks{};
  masks.one[32] = 0xFFFF;
  for (size_t at = 32; at < 96; ++at) masks.from[at] = 0xFFFF;
  return masks;
}
constexpr PlaceMasks kPlaceMasks = make_place_masks();
inline __m256i mask_at(const uint16_t* table, uint32_t place) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table + 32 - place));
}
inline __m256i all_ones() { return _mm256_set1_epi16(-1); }

struct Numbers16 {
  static constexpr size_t kCount = 16;
  using Vector = __m256i;
  static Vector load(const uint16_t* from) { return _mm256_load_si256(reinterpret_cast<const Vector*>(from)); }
  static void store(uint16_t* to, Vector numbers) { _mm256_store_si256(reinterpret_cast<Vector*>(to), numbers); }
  static uint16_t lowest(Vector numbers) {
    const __m128i both = _mm_min_epu16(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
    return static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_minpos_epu16(both)));
  }
  static uint32_t equal_bytes(Vector numbers, uint16_t number) {
    return static_cast<uint32_t>(
        _mm256_movemask_epi8(_mm256_cmpeq_epi16(numbers, _mm256_set1_epi16(static_cast<short>(number)))));
  }
  static uint32_t first(Vector numbers, uint16_t number) {
    return static_cast<uint32_t>(__builtin_ctz(equal_bytes(numbers, number))) / 2;
  }
  // The numbers one place further to the front, the first one of `behind` at the end.
  static Vector moved(Vector numbers, Vector behind) {
    return _mm256_alignr_epi8(_mm256_permute2x128_si256(numbers, behind, 0x21), numbers, 2);
  }
  static Vector without(Vector numbers, uint32_t at) {
    return _mm256_blendv_epi8(numbers, moved(numbers, all_ones()), mask_at(kPlaceMasks.from, at + 1));
  }
  static Vector put(Vector numbers, uint32_t at, uint16_t number) {
    return _mm256_blendv_epi8(numbers, _mm256_set1_epi16(static_cast<short>(number)), mask_at(kPlaceMasks.one, at));
  }
  static Vector put_before(Vector numbers, uint32_t at, uint16_t number) {
    const __m256i wanted = _mm256_set1_epi16(static_cast<short>(number));
    return _mm256_blendv_epi8(numbers, wanted, mask_at(kPlaceMasks.one + 1, at));
  }
};

struct Numbers32 {
  static constexpr size_t kCount = 32;
  struct Vector {
    __m256i low, high;
  };
  static Vector load(const uint16_t* from) { return {Numbers16::load(from), Numbers16::load(from + 16)}; }
  static void store(uint16_t* to, const Vector& numbers) {
    Numbers16::store(to, numbers.low);
    Numbers16::store(to + 16, numbers.high);
  }
  static uint16_t lowest(const Vector& numbers) {
    return Numbers16::lowest(_mm256_min_epu16(numbers.low, numbers.high));
  }
  static uint32_t first(const Vector& numbers, uint16_t number) {
    const uint64_t high = Numbers16::equal_bytes(numbers.high, number);
    return static_cast<uint32_t>(__builtin_ctzll(high << 32 | Numbers16::equal_bytes(numbers.low, number))) / 2;
  }
  static Vector without(const Vector& numbers, uint32_t at) {
    const __m256i low = Numbers16::moved(numbers.low, numbers.high), high = Numbers16::moved(numbers.high, all_ones());
    return {_mm256_blendv_epi8(numbers.low, low, mask_at(kPlaceMasks.from, at + 1)),
            _mm256_blendv_epi8(numbers.high, high, mask_at(kPlaceMasks.from + 16, at + 1))};
  }
  static Vector put(const Vector& numbers, uint32_t at, uint16_t number) {
    const __m256i wanted = _mm256_set1_epi16(static_cast<short>(number));
    return {_mm256_blendv_epi8(numbers.low, wanted, mask_at(kPlaceMasks.one, at)),
            _mm256_blendv_epi8(numbers.high, wanted, mask_at(kPlaceMasks.one + 16, at))};
  }
  static Vector put_before(const Vector& numbers, uint32_t at, uint16_t number) {
    const __m256i wanted = _mm256_set1_epi16(static_cast<short>(number));
    return {_mm256_blendv_epi8(numbers.low, wanted, mask_at(kPlaceMasks.one + 1, at)),
            _mm256_blendv_epi8(numbers.high, wanted, mask_at(kPlaceMasks.one + 17, at))};
  }
};

inline uint16_t rank_of_mark(const uint16_t* marks, uint16_t mark, const uint16_t* ranks) {
  const __m256i found = _mm256_cmpeq_epi16(Numbers16::load(marks), _mm256_set1_epi16(static_cast<short>(mark)));
  return Numbers16::lowest(_mm256_or_si256(Numbers16::load(ranks), _mm256_xor_si256(found, all_ones())));
}

// `left` and `right`: the bytes of 16 neighbouring pairs.
inline __m256i byte_pair_ranks(const uint16_t* by_pair, __m128i left, __m128i right) {
  const auto eight = [&](__m128i a, __m128i b) {
    const __m256i places = _mm256_or_si256(_mm256_slli_epi32(_mm256_cvtepu8_epi32(a), 8), _mm256_cvtepu8_epi32(b));
    const __m256i two = _mm256_i32gather_epi32(reinterpret_cast<const int*>(by_pair), places, 2);
    return _mm256_and_si256(two, _mm256_set1_epi32(0xFFFF));
  };
  const __m256i low = eight(left, right), high = eight(_mm_srli_si128(left, 8), _mm_srli_si128(right, 8));
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xD8);
}

inline void start_word(Numbers16, const uint16_t* by_pair, std::string_view word, uint16_t* tokens, uint16_t* ranks) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(word.data()));
  const __m256i found = byte_pair_ranks(by_pair, bytes, _mm_srli_si128(bytes, 1));
  Numbers16::store(tokens, _mm256_cvtepu8_epi16(bytes));
  Numbers16::store(ranks, _mm256_or_si256(found, mask_at(kPlaceMasks.from, static_cast<uint32_t>(word.size()) - 1)));
}
inline void start_word(Numbers32, const uint16_t* by_pair, std::string_view word, uint16_t* tokens, uint16_t* ranks) {
  alignas(16) char padded[48] = {};
  std::memcpy(padded, word.data(), word.size());
  const auto pairs = static_cast<uint32_t>(word.size()) - 1;
  for (uint32_t at = 0; at < 32; at += 16) {
    const __m128i left = _mm_load_si128(reinterpret_cast<const __m128i*>(padded + at));
    const __m128i right = _mm_loadu_si128(reinterpret_cast<const __m128i*>(padded + at + 1));
    const __m256i found = byte_pair_ranks(by_pair, left, right);
    Numbers16::store(tokens + at, _mm256_cvtepu8_epi16(left));
    Numbers16::store(ranks + at, _mm256_or_si256(found, mask_at(kPlaceMasks.from + at, pairs)));
  }
}

#endif
