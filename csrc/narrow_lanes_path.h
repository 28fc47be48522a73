// Merging of several words at once with 16-bit tokens and ranks, so that the look-ups of one word overlap with the
// others'. Included like word_encoder_path.h, for AVX-512 only.

// 16 and 32 numbers of 16 bits in a register.
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
  static uint32_t equal(Vector numbers, uint16_t number) { return _mm256_cmpeq_epi16_mask(numbers, set(number)); }
  static Vector keep(uint32_t kept, Vector numbers) {
    return _mm256_mask_compress_epi16(set(0xFFFF), static_cast<__mmask16>(kept), numbers);
  }
  static Vector put(Vector numbers, uint32_t places, uint16_t number) {
    return _mm256_mask_set1_epi16(numbers, static_cast<__mmask16>(places), static_cast<short>(number));
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
  static uint32_t equal(Vector numbers, uint16_t number) { return _mm512_cmpeq_epi16_mask(numbers, set(number)); }
  static Vector keep(uint32_t kept, Vector numbers) { return _mm512_mask_compress_epi16(set(0xFFFF), kept, numbers); }
  static Vector put(Vector numbers, uint32_t places, uint16_t number) {
    return _mm512_mask_set1_epi16(numbers, places, static_cast<short>(number));
  }
};

// Ranks of 16 neighbouring pairs of bytes from `text` on, of which the first `pairs` (at most 16) exist.
inline __m256i byte_pair_ranks(const NarrowMerges& merges, const char* text, uint32_t pairs) {
  const auto inside = static_cast<__mmask16>((1u << pairs) - 1);
  const __m512i left = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(inside, text));
  const __m512i right = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(inside, text + 1));
  const __m512i places = _mm512_or_si512(_mm512_slli_epi32(left, 8), right);
  return _mm512_cvtepi32_epi16(
      _mm512_mask_i32gather_epi32(_mm512_set1_epi32(-1), inside, places, merges.byte_pair_ranks(), 2));
}

// A word of at most as many bytes as there are numbers, on its way: its tokens, and the rank of each with its right
// neighbour. Ranks are checked when their turn comes.
template <class Numbers>
struct alignas(64) NarrowLane {
  static constexpr uint32_t kCount = Numbers::kCount;

  uint16_t ranks[kCount], tokens[kCount];
  uint64_t left_hash, right_hash;
  uint32_t size, word, at;

  void start(const NarrowMerges& merges, std::string_view text, uint32_t number) {
    size = static_cast<uint32_t>(text.size());
    word = number;
    const uint32_t pairs = size - 1;
    if constexpr (kCount == 16) {
      const auto inside = static_cast<__mmask16>((1u << size) - 1);
      Numbers::store(tokens, _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(inside, text.data())));
      Numbers::store(ranks, byte_pair_ranks(merges, text.data(), pairs));
    } else {
      const auto inside = static_cast<__mmask32>((uint64_t{1} << size) - 1);
      Numbers::store(tokens, _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(inside, text.data())));
      const uint32_t first = pairs < 16 ? pairs : 16;
      const __m256i low = byte_pair_ranks(merges, text.data(), first);
      const __m256i high = byte_pair_ranks(merges, text.data() + first, pairs - first);
      Numbers::store(ranks, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
    }
  }

  // First half of a merge: finds the pair, merges it, and asks memory for its new neighbours' ranks. False when no pair
  // is left.
  bool begin_step(const NarrowMerges& merges) {
    uint16_t lowest;
    for (;;) {
      const auto numbers = Numbers::load(ranks);
      lowest = Numbers::lowest(numbers);
      if (lowest == NarrowMerges::kNoRank) return false;
      at = static_cast<uint32_t>(__builtin_ctz(Numbers::equal(numbers, lowest)));
      if (__builtin_expect(merges.parts(lowest) == NarrowMerges::pair(tokens[at], tokens[at + 1]), 1)) break;
      ranks[at] = NarrowMerges::kNoRank;  // the mark was another pair's
    }
    const uint16_t token = merges.merged(lowest);
    --size;
    left_hash = merges.hash(NarrowMerges::pair(tokens[at ? at - 1 : 0], token));  // of no use at the start
    right_hash = merges.hash(NarrowMerges::pair(token, tokens[(at + 2) & (kCount - 1)]));
    __builtin_prefetch(&merges.line(left_hash));
    __builtin_prefetch(&merges.line(right_hash));
    const uint32_t kept = ~(2u << at);
    Numbers::store(tokens, Numbers::put(Numbers::keep(kept, Numbers::load(tokens)), 1u << at, token));
    Numbers::store(ranks, Numbers::keep(kept, Numbers::load(ranks)));
    return true;
  }

  // Second half: enters the ranks of the new pairs.
  void end_step(const NarrowMerges& merges) {
    const uint16_t left = rank_in_line(merges, left_hash);
    const uint16_t right = rank_in_line(merges, right_hash) | (at + 1 < size ? 0 : NarrowMerges::kNoRank);
    const auto with_right = Numbers::put(Numbers::load(ranks), 1u << at, right);
    Numbers::store(ranks, Numbers::put(with_right, (1u << at) >> 1, left));
  }

  static uint16_t rank_in_line(const NarrowMerges& merges, uint64_t hash) {
    const NarrowMerges::Line& line = merges.line(hash);
    const uint32_t found = Numbers16::equal(Numbers16::load(line.marks), NarrowMerges::mark(hash));
    return static_cast<uint16_t>(_mm256_cvtsi256_si32(Numbers16::keep(found, Numbers16::load(line.ranks))));
  }
};

// Merges `count` words, of which `text(i)` is one, and calls `done(i, tokens, size)` for each, in any order.
template <class Numbers, class Text, class Done>
inline void merge_in_narrow_lanes(const NarrowMerges& merges, size_t count, Text&& text, Done&& done) {
  constexpr size_t kLanes = 16;
  NarrowLane<Numbers> lanes[kLanes];
  uint32_t next = 0;
  size_t active = 0;
  for (; active < kLanes && next < count; ++next) lanes[active++].start(merges, text(next), next);
  while (active) {
    for (size_t lane = 0; lane < active;) {
      if (lanes[lane].begin_step(merges)) {
        ++lane;
        continue;
      }
      done(lanes[lane].word, lanes[lane].tokens, lanes[lane].size);
      if (next < count) {
        lanes[lane].start(merges, text(next), next);
        ++next;
      } else if (lane < --active) {
        lanes[lane] = lanes[active];
      }
    }
    for (size_t lane = 0; lane < active; ++lane) lanes[lane].end_step(merges);
  }
}
