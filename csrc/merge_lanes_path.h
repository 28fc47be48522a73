// Merging of several short words at once with AVX-512, so that the table look-ups of one word overlap with the others'.
// Included like word_encoder_path.h.

// MergeTable::rank without branches.
inline uint32_t rank_in_line(const MergeTable::Bucket& bucket, uint64_t key) {
  const __m512i keys = _mm512_srli_epi64(_mm512_load_si512(bucket.entries), MergeTable::kRankBits);
  const __mmask8 found = _mm512_cmpeq_epi64_mask(keys, _mm512_set1_epi64(static_cast<long long>(key)));
  const __m512i ranks = _mm512_and_si512(_mm512_load_si512(bucket.entries), _mm512_set1_epi64((1 << MergeTable::kRankBits) - 1));
  const __m512i rank = _mm512_mask_compress_epi64(_mm512_set1_epi64(-1), found, ranks);
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm512_castsi512_si128(rank)));
}

// A word of up to 15 bytes on its way: its tokens, and the rank of each with its right neighbour.
struct alignas(64) MergeLane {
  uint32_t ranks[16];
  uint32_t tokens[16];
  uint64_t left_key, right_key;
  uint32_t size, word, at;

  void start(const BytePairModel& model, const WordKey& key, uint32_t number) {
    size = static_cast<uint32_t>(key.size());
    word = number;
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(&key)));
    const __m512i right = _mm512_alignr_epi32(_mm512_setzero_si512(), bytes, 1);
    const __m512i pairs = _mm512_or_si512(_mm512_slli_epi32(bytes, 8), right);
    const auto inside = static_cast<__mmask16>((1u << (size - 1)) - 1);
    const __m512i none = _mm512_set1_epi32(-1);
    _mm512_store_si512(tokens, bytes);
    _mm512_store_si512(ranks, _mm512_mask_i32gather_epi32(none, inside, pairs, model.byte_pair_ranks(), 4));
  }

  // First half of a merge: finds the pair, merges it, and asks memory for its new neighbours' ranks. False when no pair
  // is left.
  bool begin_step(const BytePairModel& model) {
    const __m512i old_ranks = _mm512_load_si512(ranks);
    const uint32_t lowest = _mm512_reduce_min_epu32(old_ranks);
    if (lowest == kNoRank) return false;
    at = __builtin_ctz(_mm512_cmpeq_epi32_mask(old_ranks, _mm512_set1_epi32(static_cast<int>(lowest))));
    const uint32_t token = model.merged(lowest);
    const auto kept = static_cast<__mmask16>(~(2u << at));
    --size;
    left_key = MergeTable::key(tokens[at ? at - 1 : 0], token);  // of no use at the start, and not stored there
    right_key = MergeTable::key(token, tokens[(at + 2) & 15]);
    __builtin_prefetch(&model.table().bucket(left_key));
    __builtin_prefetch(&model.table().bucket(right_key));
    const __m512i new_tokens = _mm512_maskz_compress_epi32(kept, _mm512_load_si512(tokens));
    _mm512_store_si512(tokens, _mm512_mask_set1_epi32(new_tokens, static_cast<__mmask16>(1u << at), static_cast<int>(token)));
    _mm512_store_si512(ranks, _mm512_mask_compress_epi32(_mm512_set1_epi32(-1), kept, old_ranks));
    return true;
  }

  // Second half: enters the ranks of the new pairs.
  void end_step(const BytePairModel& model) {
    const uint32_t left = rank_in_line(model.table().bucket(left_key), left_key);
    const uint32_t right = rank_in_line(model.table().bucket(right_key), right_key) | (at + 1 < size ? 0 : kNoRank);
    const auto here = static_cast<__mmask16>(1u << at), before = static_cast<__mmask16>((1u << at) >> 1);
    const __m512i with_right = _mm512_mask_set1_epi32(_mm512_load_si512(ranks), here, static_cast<int>(right));
    _mm512_store_si512(ranks, _mm512_mask_set1_epi32(with_right, before, static_cast<int>(left)));
  }
};

// Merges `count` words, of which `key(i)` is one, and calls `done(i, tokens, size)` for each, in any order.
template <class Key, class Done>
inline void merge_in_lanes(const BytePairModel& model, size_t count, Key&& key, Done&& done) {
  constexpr size_t kLanes = 12;
  MergeLane lanes[kLanes];
  uint32_t next = 0;
  size_t active = 0;
  for (; active < kLanes && next < count; ++next) lanes[active++].start(model, key(next), next);
  while (active) {
    for (size_t lane = 0; lane < active;) {
      if (lanes[lane].begin_step(model)) {
        ++lane;
        continue;
      }
      done(lanes[lane].word, lanes[lane].tokens, lanes[lane].size);
      if (next < count) {
        lanes[lane].start(model, key(next), next);
        ++next;
      } else if (lane < --active) {
        lanes[lane] = lanes[active];
      }
    }
    for (size_t lane = 0; lane < active; ++lane) lanes[lane].end_step(model);
  }
}

constexpr size_t kWideWord = 64;

// The rank of a pair, from the smaller table where there is one.
inline uint32_t rank_of_pair(const BytePairModel& model, uint32_t left, uint32_t right) {
  const NarrowMerges* narrow = model.narrow();
  if (!narrow) return model.rank(left, right);
  const uint32_t pair = NarrowMerges::pair(left, right);
  const uint64_t hash = narrow->hash(pair);
  const NarrowMerges::Line& line = narrow->line(hash);
  const uint16_t rank = rank_of_mark(line.marks, NarrowMerges::mark(hash), line.ranks);
  return rank != NarrowMerges::kNoRank && narrow->parts(rank) == pair ? rank : kNoRank;
}

// Merging for one word of up to 64 bytes; appends its ids.
inline void merge_wide(const BytePairModel& model, std::string_view word, IdVector& ids) {
  alignas(64) uint32_t ranks[kWideWord + 32], tokens[kWideWord + 32];
  size_t size = word.size();
  for (size_t at = 0; at < size; ++at) tokens[at] = static_cast<uint8_t>(word[at]);
  for (size_t at = 0; at + 1 < size; ++at) ranks[at] = model.byte_pair_ranks()[tokens[at] << 8 | tokens[at + 1]];
  for (size_t at = size - 1; at < kWideWord + 32; ++at) ranks[at] = kNoRank;
  for (;;) {
    __m512i lowest = _mm512_load_si512(ranks);
    for (size_t at = 16; at < size; at += 16) lowest = _mm512_min_epu32(lowest, _mm512_load_si512(ranks + at));
    const uint32_t rank = _mm512_reduce_min_epu32(lowest);
    if (rank == kNoRank) break;
    const __m512i wanted = _mm512_set1_epi32(static_cast<int>(rank));
    size_t best = 0;
    __mmask16 here;
    while (!(here = _mm512_cmpeq_epi32_mask(_mm512_load_si512(ranks + best), wanted))) best += 16;
    best += __builtin_ctz(here);
    tokens[best] = model.merged(rank);
    --size;
    for (size_t at = best + 1; at < size; at += 16) {  // moves all behind the pair one place to the left
      const __m512i next_tokens = _mm512_loadu_si512(tokens + at + 1), next_ranks = _mm512_loadu_si512(ranks + at + 1);
      _mm512_storeu_si512(tokens + at, next_tokens);
      _mm512_storeu_si512(ranks + at, next_ranks);
    }
    ranks[size] = kNoRank;
    ranks[best] = best + 1 < size ? rank_of_pair(model, tokens[best], tokens[best + 1]) : kNoRank;
    if (best) ranks[best - 1] = rank_of_pair(model, tokens[best - 1], tokens[best]);
  }
  for (size_t at = 0; at < size; ++at) ids.push_back(model.id(tokens[at]));
}
