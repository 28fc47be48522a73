// Small steps of the word encoder for one instruction set. Included like word_encoder.h.

// Writes all places of an entry, used or not, and its count behind them.
template <class Id>
inline void copy_ids(const void* ids, Id* out) {
  std::memcpy(out, ids, sizeof(WordIds<Id>));
}

template <class Id>
inline Id count_of(const void* ids) {
  Id count;
  std::memcpy(&count, static_cast<const char*>(ids) + offsetof(WordIds<Id>, count), sizeof(count));
  return count;
}

// The ids of up to seven tokens by a table for every 16-bit number; at least four tokens are looked up.
inline WordIds<uint16_t> ids_of_tokens(const uint16_t* by_token, const uint16_t* tokens, size_t count) {
  WordIds<uint16_t> result{};
  for (size_t at = 0; at < 4; ++at) result.ids[at] = by_token[tokens[at]];
  for (size_t at = 4; at < count; ++at) result.ids[at] = by_token[tokens[at]];
  result.count = static_cast<uint16_t>(count);
  return result;
}

// Appends the places of the bits of `mask`, counted from `base`; up to fifteen places more are written over.
#if defined(ETTIN_AVX512)
inline size_t append_bits(uint64_t mask, uint32_t base, uint32_t* out) {
  const auto count = static_cast<size_t>(__builtin_popcountll(mask));
  const __m512i places = _mm512_maskz_compress_epi8(mask, _mm512_load_si512(kByteNumbers.bytes));
  const __m512i from = _mm512_set1_epi32(static_cast<int>(base));
  const auto store = [&](size_t at, __m128i bytes) {
    _mm512_storeu_si512(out + at, _mm512_add_epi32(from, _mm512_cvtepu8_epi32(bytes)));
  };
  store(0, _mm512_castsi512_si128(places));
  if (count > 16) store(16, _mm512_extracti32x4_epi32(places, 1));
  if (count > 32) {
    store(32, _mm512_extracti32x4_epi32(places, 2));
    store(48, _mm512_extracti32x4_epi32(places, 3));
  }
  return count;
}
#else
inline size_t append_bits(uint64_t mask, uint32_t base, uint32_t* out) {
  const auto count = static_cast<size_t>(__builtin_popcountll(mask));
  for (size_t done = 0; done < count; done += 8) {
    for (size_t at = 0; at < 8; ++at) {
      out[done + at] = base + static_cast<uint32_t>(__builtin_ctzll(mask | 1ull << 63));
      mask &= mask - 1;
    }
  }
  return count;
}
#endif

// Where the ids of a key lie in its bucket; where it is in neither entry, at bytes that as ids would have a count of 0
// or above their capacity.
#if defined(ETTIN_AVX512) || defined(ETTIN_AVX2)

// By the halves of a bucket's two keys that are equal, as four bits. Where neither key is, the first one is taken for
// ids: all zeros in an empty entry, else with the padding of a key for their count.
struct IdPlaces {
  uint8_t of[16];
};
constexpr IdPlaces make_id_places() {
  IdPlaces places{};
  for (int equal = 0; equal < 16; ++equal) {
    places.of[equal] = static_cast<uint8_t>((equal & 3) == 3 ? 2 * sizeof(WordKey)
                                            : equal >= 12    ? 3 * sizeof(WordKey)
                                                             : 0);
  }
  return places;
}
constexpr IdPlaces kIdPlaces = make_id_places();

template <class Bucket>
inline const void* ids_of_key(const WordKey& key, const Bucket& bucket) {
  const __m256i twice = _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(&key)));
  const __m256i keys = _mm256_load_si256(reinterpret_cast<const __m256i*>(bucket.keys));
#if defined(ETTIN_AVX512)
  const uint32_t equal = _mm256_cmpeq_epi64_mask(twice, keys);
#else
  const auto equal = static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(twice, keys))));
#endif
  return reinterpret_cast<const char*>(&bucket) + kIdPlaces.of[equal];
}

#else

template <class Bucket>
inline const void* ids_of_key(const WordKey& key, const Bucket& bucket) {
  static constexpr WordKey none{0, 0};
  const void* found = bucket.find(key);
  return found ? found : &none;
}

#endif
