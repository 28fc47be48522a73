// Merging of one longer word by scanning all ranks for the lowest, with AVX-512 or AVX2: up to some hundred bytes that
// is faster than a queue. Included like word_encoder.h, behind numbers_16bit.h.

constexpr size_t kScannedWord = 512;

#if defined(ETTIN_AVX512)

constexpr size_t kScanStep = 16;
inline uint32_t lowest_rank(const uint32_t* ranks, size_t size) {
  __m512i lowest = _mm512_load_si512(ranks);
  for (size_t at = 16; at < size; at += 16) lowest = _mm512_min_epu32(lowest, _mm512_load_si512(ranks + at));
  return _mm512_reduce_min_epu32(lowest);
}
inline size_t place_of_rank(const uint32_t* ranks, uint32_t rank) {
  const __m512i wanted = _mm512_set1_epi32(static_cast<int>(rank));
  size_t at = 0;
  __mmask16 here;
  while (!(here = _mm512_cmpeq_epi32_mask(_mm512_load_si512(ranks + at), wanted))) at += 16;
  return at + static_cast<size_t>(__builtin_ctz(here));
}
inline void move_left(uint32_t* numbers, size_t at, size_t size) {
  for (; at < size; at += 16) _mm512_storeu_si512(numbers + at, _mm512_loadu_si512(numbers + at + 1));
}

#else

constexpr size_t kScanStep = 8;
inline __m256i load_ranks(const uint32_t* from) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(from)); }
inline uint32_t lowest_rank(const uint32_t* ranks, size_t size) {
  __m256i lowest = load_ranks(ranks);
  for (size_t at = 8; at < size; at += 8) lowest = _mm256_min_epu32(lowest, load_ranks(ranks + at));
  __m128i four = _mm_min_epu32(_mm256_castsi256_si128(lowest), _mm256_extracti128_si256(lowest, 1));
  four = _mm_min_epu32(four, _mm_shuffle_epi32(four, 0x4E));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_min_epu32(four, _mm_shuffle_epi32(four, 0xB1))));
}
inline size_t place_of_rank(const uint32_t* ranks, uint32_t rank) {
  const __m256i wanted = _mm256_set1_epi32(static_cast<int>(rank));
  size_t at = 0;
  int here;
  while (!(here = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(load_ranks(ranks + at), wanted))))) at += 8;
  return at + static_cast<size_t>(__builtin_ctz(static_cast<unsigned>(here)));
}
inline void move_left(uint32_t* numbers, size_t at, size_t size) {
  for (; at < size; at += 8) {
    const __m256i next = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers + at + 1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers + at), next);
  }
}

#endif

// The rank of a pair, from the smaller table where there is one.
inline uint32_t rank_of_pair(const BytePairModel& model, uint32_t left, uint32_t right) {
  const Merges16* merges = model.merges16();
  if (!merges) return model.rank(left, right);
  const uint32_t pair = Merges16::pair(left, right);
  const uint64_t hash = merges->hash(pair);
  const Merges16::Line& line = merges->line(hash);
  const uint16_t rank = rank_of_mark(line.marks, Merges16::mark(hash), line.ranks);
  return rank != Merges16::kNoRank && merges->parts(rank) == pair ? rank : kNoRank;
}

// Merging for one word of up to kScannedWord bytes; appends its ids.
inline void merge_by_scanning(const BytePairModel& model, std::string_view word, IdVector& ids) {
  alignas(64) uint32_t ranks[kScannedWord + 2 * kScanStep], tokens[kScannedWord + 2 * kScanStep];
  size_t size = word.size();
  for (size_t at = 0; at < size; ++at) tokens[at] = static_cast<uint8_t>(word[at]);
  for (size_t at = 0; at + 1 < size; ++at) ranks[at] = model.byte_pair_ranks()[tokens[at] << 8 | tokens[at + 1]];
  for (size_t at = size; at < size + 2 * kScanStep; ++at) tokens[at] = 0;
  for (size_t at = size - 1; at < size + 2 * kScanStep; ++at) ranks[at] = kNoRank;
  for (uint32_t rank; (rank = lowest_rank(ranks, size)) != kNoRank;) {
    const size_t best = place_of_rank(ranks, rank);
    tokens[best] = model.merged(rank);
    --size;
    move_left(tokens, best + 1, size);
    move_left(ranks, best + 1, size);
    ranks[size] = kNoRank;
    ranks[best] = best + 1 < size ? rank_of_pair(model, tokens[best], tokens[best + 1]) : kNoRank;
    if (best) ranks[best - 1] = rank_of_pair(model, tokens[best - 1], tokens[best]);
  }
  for (size_t at = 0; at < size; ++at) ids.push_back(model.id(tokens[at]));
}
