// The word encoder for one instruction set. Included by portable.cpp, avx2.cpp and avx512.cpp inside namespaces of
// their own, after all other headers, with ETTIN_AVX512 or ETTIN_AVX2 defined where those may be used. Not for anybody
// else.

template <class Id>
class SetEncoder final : public WordEncoder {
 public:
  explicit SetEncoder(const WordModel& model) : model_(model), merger_(model) { fill_cache(); }

  void encode(std::string_view piece, IdVector& ids) override { encode_as(piece, ids); }
  void encode(std::string_view piece, NarrowIdVector& ids) override { encode_as(piece, ids); }
  std::vector<uint32_t> word_starts(std::string_view piece) override {
    if (model_.split) return starts_by(StreamSplitter(*model_.split, piece));
    return starts_by(Gpt2Splitter(piece, !model_.runs.ids.empty()));
  }

 private:
  using Ids = FreshVector<Id>;

  void encode_as(std::string_view piece, Ids& ids) {
    ids_ = &ids;
    while (!piece.empty()) {
      text_ = piece.data();
      size_ = piece.size();
      piece.remove_prefix(encode_text());
    }
  }

  // Ids of the other width.
  template <class Other>
  void encode_as(std::string_view piece, Other& ids) {
    staged_.clear();
    encode_as(piece, staged_);
    ids.insert(ids.end(), staged_.begin(), staged_.end());
  }

  static constexpr size_t kBatch = 1024, kGroup = 256;
  static constexpr size_t kMost = kBatch + kSplitTogether + 32;  // a batch ends with the block of text that exceeds it
  static constexpr size_t kWords = 2 * kBatch + kMost + 80;      // with parts of words
  static constexpr size_t kPlaces = 16;  // of a word's ids on the way out; longer lists go there by themselves
  static constexpr size_t kStep = 32;    // ids copied at once
  static constexpr size_t kAhead = 16;   // known words whose places are asked for in advance
  static constexpr size_t kLongerLimit = 4 << 20;
  static constexpr Id kRare = static_cast<Id>(~Id{0}), kPending = kRare - 1;  // counts of words without ids yet

  struct LongWord {
    uint64_t hash;
    uint32_t word;        // number in the batch
    uint32_t ids, count;  // in the cache; of a pending one `ids` is the number of the miss
  };
  struct LongIds {
    uint32_t ids, count;
  };
  struct Waiting {
    WordIds<Id> ids;     // found elsewhere, pending, rare, or more than an entry holds
    uint32_t word, out;  // number in the batch; place of its ids in out_
  };

  // Starts the cache with the words known from the model alone.
  void fill_cache() {
    merger_.clear_longer();
    const std::vector<KnownWord>& known = model_.known;
    for (size_t at = 0; at < known.size(); ++at) {
      if (at + kAhead < known.size()) __builtin_prefetch(&cache_.bucket(place_of(known[at + kAhead].key)), 1);
      cache_.insert(known[at].key, place_of(known[at].key), merger_.pack(&known[at].id, 1));
    }
    for (size_t size = kKeyBytes + 1; size <= model_.runs.longest(); ++size) {
      cache_.insert(run_key(size), place_of(run_key(size)), merger_.pack(&model_.runs.ids[size], 1));
    }
  }

  // How much of the text is encoded: all of it, or up to a place where splitting must start afresh.
  size_t encode_text() {
    const std::string_view text(text_, size_);
    if (model_.split) return encode_by(StreamSplitter(*model_.split, text));
    return encode_by(Gpt2Splitter(text, !model_.runs.ids.empty()));
  }

  template <class Splitter>
  std::vector<uint32_t> starts_by(Splitter splitter) {
    std::vector<uint32_t> starts;
    while (!splitter.done()) {
      if (!starts.empty()) starts_[0] = starts.back();  // a splitter may go back to the last word
      const size_t known = starts.empty() ? 0 : 1;
      const size_t words = splitter.append_starts(starts_, known, kBatch);
      starts.insert(starts.end(), starts_ + known, starts_ + words);
    }
    return starts;
  }

  template <class Splitter>
  size_t encode_by(Splitter splitter) {
    size_t words = 0;
    while (!splitter.done()) {
      words = splitter.append_starts(starts_, words, kBatch);
      if (words <= kBatch) break;
      const size_t done = encode_words(words - 1, splitter.high_end() > starts_[0]);
      if (done) return done;
      starts_[0] = starts_[words - 1];
      words = 1;
    }
    starts_[words] = static_cast<uint32_t>(size_);
    const size_t done = encode_words(words, splitter.high_end() > starts_[0]);
    return done ? done : size_;
  }

  // Encodes `count` words, of which the last ends at starts_[count]; `high`: some may have bytes beyond ASCII. 0, or
  // where splitting must start afresh.
  size_t encode_words(size_t count, bool high) {
    if (high && !model_.pairs.has_whole_words() && may_cut(count)) return encode_parts(count);
    begins_ = starts_;
    return encode_batch(count);
  }

  // Whether some word is long and not in ASCII.
  bool may_cut(size_t count) const {
    for (size_t begin = 0; begin < count; begin += kGroup) {
      const size_t end = std::min(begin + kGroup, count);
      uint32_t longest = 0;
      for (size_t at = begin; at < end; ++at) longest = std::max(longest, starts_[at + 1] - starts_[at]);
      if (longest <= kKeyBytes) continue;
      for (size_t at = begin; at < end; ++at) {
        const uint32_t size = starts_[at + 1] - starts_[at];
        if (size > kKeyBytes && has_high(text_ + starts_[at], size)) return true;
      }
    }
    return false;
  }

  // The same with long words cut where no token can span, so that their parts are words to the caches.
  size_t encode_parts(size_t count) {
    begins_ = parts_;
    size_t parts = 0;
    for (size_t at = 0; at < count; ++at) {
      const uint32_t begin = starts_[at], end = starts_[at + 1];
      parts_[parts++] = begin;
      if (__builtin_expect(end - begin <= kKeyBytes, 1)) continue;
      if (const size_t restart = cut_word(begin, end, parts)) return restart;
    }
    parts_[parts] = starts_[count];
    return encode_batch(parts);
  }

  // Appends the places where a word is cut; encodes what there is when there is too much.
  __attribute__((noinline)) size_t cut_word(uint32_t begin, uint32_t end, size_t& parts) {
    if (!has_high(text_ + begin, end - begin)) return 0;
    for (uint32_t at = begin + 2; at + 1 < end; ++at) {
      const bool boundary = !is_continuation(text_[at]) && (is_continuation(text_[at - 1]) || text_[at] & 0x80);
      if (!boundary || model_.pairs.may_join(text_ + at)) continue;
      parts_[parts++] = at;
      if (parts <= 2 * kBatch) continue;
      if (const size_t restart = encode_batch(parts - 1)) return restart;
      parts_[0] = at;
      parts = 1;
    }
    return 0;
  }

  // Whether a text of at least 8 bytes has a byte beyond ASCII.
  static bool has_high(const char* text, size_t size) {
    uint64_t all, part;
    std::memcpy(&all, text + size - 8, 8);
    for (size_t at = 0; at + 8 < size; at += 8) {
      std::memcpy(&part, text + at, 8);
      all |= part;
    }
    return all & 0x8080808080808080ull;
  }

  // The same for words that end where the next one of begins_ starts.
  size_t encode_batch(size_t count) {
    misses_ = long_words_ = waiting_ = 0;
    out_end_ = out_;
    for (size_t begin = 0; begin < count; begin += kGroup) {
      const size_t end = std::min(begin + kGroup, count);
      load_group(begin, end);
      find_group(begin, end);
    }
    encode_misses();
    if (long_words_) find_long_words();
    const size_t restart = write_ids();
    if (merger_.longer_size() > kLongerLimit) {
      cache_.clear();
      fill_cache();
    }
    return restart;
  }

  static uint32_t place_of(const WordKey& key) { return ShortWordCache<Id>::place(hash_key(key)); }

  // Keys of some words and their places in the cache, which are on their way from memory afterwards.
  void load_group(size_t begin, size_t end) {
    const char* text = text_;
    const uint32_t* begins = begins_;
    const ShortWordCache<Id>& cache = cache_;
    uint32_t next = begins[begin];
    for (size_t at = begin; at < end; ++at) {
      const uint32_t place = next, size = (next = begins[at + 1]) - place;
      WordKey& key = keys_[at - begin];
      key = __builtin_expect(size <= kKeyBytes, 1) ? load_key(text + place, size, size_ - place) : long_key(at, size);
      __builtin_prefetch(&cache.bucket(places_[at - begin] = place_of(key)));
    }
  }

  // A key that stands for a run of spaces with an id of its own; else one that no word has.
  static WordKey run_key(size_t size) { return {size, 1}; }
  static bool is_run_key(const WordKey& key) { return key.high == 1; }
  __attribute__((noinline)) WordKey long_key(size_t at, size_t size) {
    const std::string_view word(text_ + begins_[at], size);
    if (is_run(word.data(), size)) return size <= model_.runs.longest() ? run_key(size) : WordKey{1, 0};
    if (size <= LongWordCache<Id>::kLongest) {
      const uint64_t hash = LongWordCache<Id>::hash(word);
      __builtin_prefetch(&long_cache_.slot(hash));
      long_[long_words_++] = {hash, static_cast<uint32_t>(at), 0, 0};
    }
    return {1, 0};
  }

  // Writes the ids of words that their buckets hold to out_end_; the others wait.
  void find_group(size_t begin, size_t end) {
    const ShortWordCache<Id>& cache = cache_;
    const size_t first = waiting_;
    Id* out = out_end_;
    for (size_t at = begin; at < end; ++at) {
      const uint32_t place = places_[at - begin];
      const void* ids = ids_of_key(keys_[at - begin], cache.bucket(place));
      const Id count = count_of<Id>(ids);
      copy_ids(ids, out);
      if (__builtin_expect(count - 1u < WordIds<Id>::kCapacity, 1)) {
        out += count;
      } else {
        wait(at, place, out);
      }
    }
    out_end_ = out;
    for (size_t at = first; at < waiting_; ++at) {
      const size_t in_group = waits_[at].word - begin;
      waits_[at].ids = find_elsewhere(keys_[in_group], places_[in_group]);
    }
  }

  // Remembers a word whose ids belong to `out` and come later.
  void wait(size_t word, uint32_t place, const Id* out) {
    __builtin_prefetch(&cache_.bucket(ShortWordCache<Id>::neighbour(place)));
    Waiting& waiting = waits_[waiting_++];
    waiting.word = static_cast<uint32_t>(word);
    waiting.out = static_cast<uint32_t>(out - out_);
  }

  // What is known about a word that is long, rare, in the neighbour of its bucket, or nowhere yet.
  WordIds<Id> find_elsewhere(const WordKey& key, uint32_t place) {
    if (!key.high) {  // a long word
      WordIds<Id> rare{};
      rare.count = kRare;
      return rare;
    }
    const WordIds<Id>* found = cache_.find(key, place);
    return found ? *found : note_miss(key, place);
  }

  // Enters a word into the cache at once, as pending, so that it misses only once in a batch.
  WordIds<Id> note_miss(const WordKey& key, uint32_t place) {
    WordIds<Id> pending{};
    pending.ids[0] = static_cast<Id>(misses_);
    pending.count = kPending;
    missed_[misses_] = key;
    missed_entries_[misses_++] = cache_.insert(key, place, pending);
    return pending;
  }

  void encode_misses() {
    size_t plain = 0;
    for (size_t at = 0; at < misses_; ++at) {
      if (is_run(missed_[at]))
        finish_miss(at, ids_of_run(missed_[at]));
      else
        plain_[plain++] = static_cast<uint32_t>(at);
    }
    const auto key = [&](uint32_t at) -> const WordKey& { return missed_[plain_[at]]; };
    merger_.merge_short(plain, key, [&](uint32_t at, const WordIds<Id>& ids) { finish_miss(plain_[at], ids); });
  }

  // Of an evicted run of spaces.
  WordIds<Id> ids_of_run(const WordKey& key) {
    return merger_.pack(&model_.runs.ids[is_run_key(key) ? key.low : key.size()], 1);
  }

  void finish_miss(size_t miss, const WordIds<Id>& ids) {
    missed_ids_[miss] = ids;
    const auto& entry = missed_entries_[miss];  // perhaps another word's by now
    if (*entry.key == missed_[miss]) *entry.ids = ids;
  }

  // Ids of the batch's long words, from their cache or by merging.
  void find_long_words() {
    long_cache_.make_room(long_words_);
    for (size_t at = 0; at < long_words_; ++at) long_cache_.prefetch(long_cache_.slot(long_[at].hash));
    size_t misses = 0;
    for (size_t at = 0; at < long_words_; ++at) {
      LongWord& word = long_[at];
      auto& slot = long_cache_.slot(word.hash);
      if (!long_cache_.holds(slot, long_text(word), word.hash)) {
        long_cache_.enter(slot, long_text(word), word.hash, static_cast<uint32_t>(misses));
        long_missed_[misses++] = static_cast<uint32_t>(at);
      }
      word.ids = slot.ids;
      word.count = slot.count;
    }
    const auto text = [&](uint32_t miss) { return long_text(long_[long_missed_[miss]]); };
    merger_.merge_long(misses, text,
                       [&](uint32_t miss, const uint32_t* ids, size_t count) { finish_long(miss, ids, count); });
  }

  void finish_long(size_t miss, const uint32_t* ids, size_t count) {
    const uint64_t hash = long_[long_missed_[miss]].hash;
    auto& slot = long_cache_.slot(hash);
    long_found_[miss] = {long_cache_.finish(slot, hash, static_cast<uint32_t>(miss), ids, count),
                         static_cast<uint32_t>(count)};
  }

  // Appends the ids of the batch: those written to out_, and between them those of the words that waited.
  size_t write_ids() {
    const Id* from = out_;
    const LongWord* next_long = long_;
    Id* to = open_ids();
    for (size_t at = 0; at < waiting_; ++at) {
      const Waiting& word = waits_[at];
      to = copy_steps(from, out_ + word.out, to);
      from = out_ + word.out;
      const WordIds<Id>& ids = word.ids.count == kPending ? missed_ids_[word.ids.ids[0]] : word.ids;
      if (ids.count <= WordIds<Id>::kCapacity) {
        to = std::copy(ids.ids, ids.ids + WordIds<Id>::kCapacity, to) - WordIds<Id>::kCapacity + ids.count;
        continue;
      }
      const bool is_long = next_long != long_ + long_words_ && next_long->word == word.word;
      const IdRange range = is_long ? long_ids(*next_long++) : short_ids(ids);
      if (range.count <= kPlaces) {
        to = std::copy(range.ids, range.ids + range.count, to);
        continue;
      }
      close_ids(to);
      const size_t restart = write_rare(range, word.word);
      if (restart) return restart;
      to = open_ids();
    }
    close_ids(copy_steps(from, out_end_, to));
    return 0;
  }

  // Makes room for the batch behind the ids so far; `close_ids` gives back what was not used.
  Id* open_ids() {
    const size_t before = ids_->size();
    ids_->resize(before + (out_end_ - out_) + waiting_ * kPlaces + kStep);
    return ids_->data() + before;
  }
  // Copies ids of out_, and writes over up to kStep places more.
  static Id* copy_steps(const Id* from, const Id* end, Id* to) {
    for (const Id* at = from; at < end; at += kStep) std::memcpy(to + (at - from), at, kStep * sizeof(Id));
    return to + (end - from);
  }
  void close_ids(const Id* end) { ids_->resize(end - ids_->data()); }

  struct IdRange {
    const Id* ids;
    size_t count;
  };
  static constexpr size_t kUnknown = ~size_t{0};  // the count of a word that no cache takes

  IdRange long_ids(const LongWord& word) const {
    const bool fresh = word.count == LongWordCache<Id>::kPending;
    const uint32_t place = fresh ? long_found_[word.ids].ids : word.ids;
    return {long_cache_.ids(place), fresh ? long_found_[word.ids].count : word.count};
  }
  // Of a short word with more ids than an entry holds.
  IdRange short_ids(const WordIds<Id>& ids) const {
    if (ids.count == kRare) return {nullptr, kUnknown};
    return {merger_.longer(ids), ids.count};
  }

  __attribute__((noinline)) size_t write_rare(const IdRange& range, size_t word) {
    if (range.count != kUnknown) {
      const size_t before = ids_->size();
      ids_->resize(before + range.count);
      std::copy(range.ids, range.ids + range.count, ids_->data() + before);
      return 0;
    }
    const uint32_t begin = begins_[word], size = begins_[word + 1] - begin;
    if (is_run(text_ + begin, size)) return encode_run(begin, size);
    const IdVector& ids = merger_.merge(std::string_view(text_ + begin, size));
    append_ids(*ids_, ids.data(), ids.size());
    return 0;
  }

  std::string_view long_text(const LongWord& word) const {
    const uint32_t begin = begins_[word.word];
    return {text_ + begin, begins_[word.word + 1] - begin};
  }

  bool is_run(const WordKey& key) const { return is_run_key(key) || is_run(key.text().data(), key.size()); }
  bool is_run(const char* word, size_t size) const {
    return !model_.runs.ids.empty() && size > 1 && word[0] == ' ' && word[1] == ' ';
  }

  // A run of spaces longer than all that have an id. A single space left over belongs to what follows: splitting starts
  // there.
  size_t encode_run(uint32_t begin, uint32_t size) {
    const size_t longest = model_.runs.longest();
    size_t left = size;
    for (; left >= longest; left -= longest) ids_->push_back(static_cast<Id>(model_.runs.ids[longest]));
    if (left > 1) ids_->push_back(static_cast<Id>(model_.runs.ids[left]));
    return left == 1 ? begin + size - 1 : 0;
  }

  const WordModel& model_;
  WordMerger<Id> merger_;
  ShortWordCache<Id> cache_;
  LongWordCache<Id> long_cache_;
  Ids* ids_ = nullptr;
  const char* text_ = nullptr;
  const uint32_t* begins_ = nullptr;  // of the words of the batch: starts_ or parts_
  size_t size_ = 0, misses_ = 0, long_words_ = 0, waiting_ = 0;
  uint32_t starts_[kMost], parts_[kWords + 1], places_[kGroup], plain_[kWords];
  LongWord long_[kWords];
  LongIds long_found_[kWords];
  uint32_t long_missed_[kWords];
  typename ShortWordCache<Id>::Entry missed_entries_[kWords];
  WordKey keys_[kGroup], missed_[kWords];
  WordIds<Id> missed_ids_[kWords];
  Waiting waits_[kWords];
  Id out_[kWords * WordIds<Id>::kCapacity + kStep];
  Id* out_end_ = out_;
  Ids staged_;
};

inline std::unique_ptr<WordEncoder> make(const WordModel& model) {
  if (model.vocabulary_size <= 65536) return std::make_unique<SetEncoder<uint16_t>>(model);
  return std::make_unique<SetEncoder<uint32_t>>(model);
}
