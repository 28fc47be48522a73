// Merging of several short words at once with AVX-512, so that the table look-ups of one word overlap with the others'.
// Included like word_encoder.h.

// MergeTable::rank without branches.
inline uint32_t rank_in_line(const MergeTable::Bucket& bucket, uint64_t key) {
  const __m512i keys = _mm512_srli_epi64(_mm512_load_si512(bucket.entries), MergeTable::kRankBits);
  const __mmask8 found = _mm512_cmpeq_epi64_mask(keys, _mm512_set1_epi64(static_cast<long long>(key)));
  const __m512i ranks =
      _mm512_and_si512(_mm512_load_si512(bucket.entries), _mm512_set1_epi64((1 << MergeTable::kRankBits) - 1));
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
    _mm512_store_si512(tokens,
                       _mm512_mask_set1_epi32(new_tokens, static_cast<__mmask16>(1u << at), static_cast<int>(token)));
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
