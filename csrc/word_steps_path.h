// Small steps of the word encoder for one instruction set. Included like word_encoder_path.h.

// Writes all places of an entry, used or not: one or two instructions.
inline void copy_ids(const WordIds<uint16_t>& ids, uint32_t* out) {
#if defined(ETTIN_AVX512) || defined(ETTIN_AVX2)
  const __m128i narrow = _mm_load_si128(reinterpret_cast<const __m128i*>(&ids));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_cvtepu16_epi32(narrow));
#else
  for (size_t at = 0; at < WordIds<uint16_t>::kCapacity; ++at) out[at] = ids.ids[at];
#endif
}
inline void copy_ids(const WordIds<uint32_t>& ids, uint32_t* out) { std::memcpy(out, &ids, sizeof(ids)); }

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

// Which of the two entries of a bucket a key has.
template <class Entry>
inline void compare_keys(const WordKey& key, const Entry* entries, bool& first, bool& second) {
#if defined(ETTIN_AVX512)
  const __m512i twice = _mm512_broadcast_i64x2(_mm_load_si128(reinterpret_cast<const __m128i*>(&key)));
  const uint32_t differs = _mm512_cmpneq_epi64_mask(twice, _mm512_load_si512(entries));
  first = !(differs & 3);
  second = !(differs & 0x30);
#else
  first = key == entries[0].key;
  second = key == entries[1].key;
#endif
}
