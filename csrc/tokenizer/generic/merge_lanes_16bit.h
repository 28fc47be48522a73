// Merging of several words at once with 16-bit tokens and ranks, so that the look-ups of one word overlap with the
// others'. Included like word_encoder.h, behind numbers_16bit.h.

// A word of at most as many bytes as there are numbers, on its way: its tokens, and the rank of each with its right
// neighbour. Ranks are checked when their turn comes.
template <class Numbers>
struct alignas(64) Lane16 {
  static constexpr uint32_t kCount = Numbers::kCount;

  uint16_t ranks[kCount], tokens[kCount];
  uint64_t left_hash, right_hash;
  uint32_t size, word, at;

  void start(const Merges16& merges, std::string_view text, uint32_t number) {
    size = static_cast<uint32_t>(text.size());
    word = number;
    start_word(Numbers(), merges.byte_pair_ranks(), text, tokens, ranks);
  }

  // First half of a merge: finds the pair, merges it, and asks memory for its new neighbours' ranks. False when no pair
  // is left.
  bool begin_step(const Merges16& merges) {
    uint16_t lowest;
    for (;;) {
      const auto numbers = Numbers::load(ranks);
      lowest = Numbers::lowest(numbers);
      if (lowest == Merges16::kNoRank) return false;
      at = Numbers::first(numbers, lowest);
      if (__builtin_expect(merges.parts(lowest) == Merges16::pair(tokens[at], tokens[at + 1]), 1)) break;
      ranks[at] = Merges16::kNoRank;  // the mark was another pair's
    }
    const uint16_t token = merges.merged(lowest);
    --size;
    left_hash = merges.hash(Merges16::pair(tokens[at ? at - 1 : 0], token));  // of no use at the start
    right_hash = merges.hash(Merges16::pair(token, tokens[(at + 2) & (kCount - 1)]));
    __builtin_prefetch(&merges.line(left_hash));
    __builtin_prefetch(&merges.line(right_hash));
    Numbers::store(tokens, Numbers::put(Numbers::without(Numbers::load(tokens), at), at, token));
    Numbers::store(ranks, Numbers::without(Numbers::load(ranks), at));
    return true;
  }

  // Second half: enters the ranks of the new pairs.
  void end_step(const Merges16& merges) {
    const uint16_t left = rank_in_line(merges, left_hash);
    const uint16_t right = rank_in_line(merges, right_hash) | (at + 1 < size ? 0 : Merges16::kNoRank);
    const auto with_right = Numbers::put(Numbers::load(ranks), at, right);
    Numbers::store(ranks, Numbers::put_before(with_right, at, left));
  }

  static uint16_t rank_in_line(const Merges16& merges, uint64_t hash) {
    const Merges16::Line& line = merges.line(hash);
    return rank_of_mark(line.marks, Merges16::mark(hash), line.ranks);
  }
};

// Merges `count` words, of which `text(i)` is one, and calls `done(i, tokens, size)` for each, in any order.
template <class Numbers, class Text, class Done>
inline void merge_in_lanes16(const Merges16& merges, size_t count, Text&& text, Done&& done) {
  constexpr size_t kLanes = 16;
  Lane16<Numbers> lanes[kLanes];
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
