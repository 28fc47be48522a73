// The word encoder for one instruction set. Included by word_encoder_*.cpp inside a namespace of their own, after all
// other headers, with ETTIN_AVX512 or ETTIN_AVX2 defined where those may be used. Not a header for anybody else.

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

template <class Id>
class PathEncoder final : public WordEncoder {
 public:
  explicit PathEncoder(const WordModel& model) : model_(model) { fill_cache(); }

  void encode(std::string_view piece, std::vector<uint32_t>& ids) override {
    ids_ = &ids;
    while (!piece.empty()) {
      text_ = piece.data();
      size_ = piece.size();
      piece.remove_prefix(model_.split == Split::kGpt2 ? encode_by_masks() : encode_by_characters());
    }
  }

 private:
  static constexpr size_t kBatch = 1024, kGroup = 128;
  static constexpr size_t kMost = kBatch + 80;  // a batch ends with the block of text that exceeds it
  static constexpr size_t kOverflowLimit = 4 << 20;
  static constexpr Id kRare = static_cast<Id>(~Id{0}), kPending = kRare - 1;  // counts of words without ids yet

  // Starts the cache with the words known from the model alone.
  void fill_cache() {
    overflow_.clear();
    for (const KnownWord& word : model_.known) cache_.insert(word.key, hash_key(word.key), pack(&word.id, 1));
  }

  // Both return how much of the text they encoded: all of it, or up to a place where splitting must start afresh.
  size_t encode_by_masks() {
    Gpt2Splitter splitter(std::string_view(text_, size_), !model_.runs.ids.empty());
    size_t words = 0;
    while (!splitter.done()) {
      const auto base = static_cast<uint32_t>(splitter.base());
      words += append_bits(splitter.next(), base, starts_ + words);
      if (words <= kBatch) continue;
      const size_t done = encode_words(words - 1);
      if (done) return done;
      starts_[0] = starts_[words - 1];
      words = 1;
    }
    starts_[words] = static_cast<uint32_t>(size_);
    const size_t done = encode_words(words);
    return done ? done : size_;
  }

  size_t encode_by_characters() {
    size_t words = 0;
    split_words(std::string_view(text_, size_), model_.split, [&](size_t begin, size_t) {
      starts_[words++] = static_cast<uint32_t>(begin);
      if (words <= kBatch) return;
      encode_words(words - 1);
      starts_[0] = starts_[words - 1];
      words = 1;
    });
    starts_[words] = static_cast<uint32_t>(size_);
    encode_words(words);
    return size_;
  }

  // Encodes `count` words, of which the last ends at starts_[count]. 0, or where splitting must start afresh.
  size_t encode_words(size_t count) {
    misses_ = 0;
    for (size_t begin = 0; begin < count; begin += kGroup) {
      const size_t end = std::min(begin + kGroup, count);
      load_group(begin, end);
      find_group(begin, end);
    }
    encode_misses();
    const size_t restart = write_ids(count);
    if (overflow_.size() > kOverflowLimit) {
      cache_.clear();
      fill_cache();
    }
    return restart;
  }

  // Keys and hashes of some words; their places in the cache are on their way from memory afterwards.
  void load_group(size_t begin, size_t end) {
    for (size_t at = begin; at < end; ++at) {
      const uint32_t place = starts_[at], size = starts_[at + 1] - place;
      if (size > kKeyBytes) {
        hashes_[at - begin] = 0;
        keys_[at - begin] = {1, 0};  // a key that no word has
        continue;
      }
      keys_[at - begin] = load_key(text_ + place, size, size_ - place);
      hashes_[at - begin] = hash_key(keys_[at - begin]);
      __builtin_prefetch(&cache_.bucket(hashes_[at - begin]));
    }
  }

  void find_group(size_t begin, size_t end) {
    for (size_t at = begin; at < end; ++at) {
      const WordKey key = keys_[at - begin];
      const auto& entries = cache_.bucket(hashes_[at - begin]).entries;
      const bool first = key == entries[0].key, second = key == entries[1].key;
      words_[at] = entries[!first].ids;
      if (__builtin_expect(!(first | second), 0)) find_elsewhere(at, key, hashes_[at - begin]);
    }
  }

  // A word that its bucket does not hold: in the neighbour of a full bucket, or nowhere yet.
  __attribute__((noinline)) void find_elsewhere(size_t at, const WordKey& key, uint32_t hash) {
    if (!key.high) {  // a long word
      words_[at].count = kRare;
    } else if (const auto* entry = cache_.find_spilled(key, hash)) {
      words_[at] = entry->ids;
    } else {
      note_miss(at, key, hash);
    }
  }

  // Enters a word into the cache at once, as pending, so that it misses only once in a batch.
  void note_miss(size_t at, const WordKey& key, uint32_t hash) {
    WordIds<Id> pending{};
    pending.ids[0] = static_cast<Id>(misses_);
    pending.count = kPending;
    words_[at] = pending;
    missed_[misses_] = key;
    missed_entries_[misses_++] = &cache_.insert(key, hash, pending);
  }

  void encode_misses() {
#if defined(ETTIN_AVX512)
    size_t plain = 0;  // misses that merging alone decides
    for (size_t at = 0; at < misses_; ++at) {
      const auto* word = reinterpret_cast<const char*>(&missed_[at]);
      const bool special = model_.pairs.has_whole_words() || is_run(word, missed_[at].size());
      if (special) finish_miss(at, encode_short(missed_[at]));
      else plain_[plain++] = static_cast<uint32_t>(at);
    }
    merge_in_lanes(model_.pairs, missed_, plain_, plain, [&](uint32_t miss, const uint32_t* tokens, size_t count) {
      uint32_t ids[16];
      for (size_t at = 0; at < count; ++at) ids[at] = model_.pairs.id(tokens[at]);
      finish_miss(miss, pack(ids, count));
    });
#else
    for (size_t at = 0; at < misses_; ++at) finish_miss(at, encode_short(missed_[at]));
#endif
  }

  void finish_miss(size_t miss, const WordIds<Id>& ids) {
    missed_ids_[miss] = ids;
    auto& entry = *missed_entries_[miss];  // perhaps another word's by now
    if (entry.key == missed_[miss]) entry.ids = ids;
  }

  size_t write_ids(size_t count) {
    constexpr size_t kCapacity = WordIds<Id>::kCapacity;
    uint32_t* out = out_;
    for (size_t at = 0; at < count; ++at) {
      const WordIds<Id>* ids = &words_[at];
      if (__builtin_expect(ids->count > kCapacity, 0)) {
        if (ids->count == kPending) ids = &missed_ids_[ids->ids[0]];
        if (ids->count > kCapacity) {
          ids_->insert(ids_->end(), out_, out);
          out = out_;
          const size_t restart = write_rare(*ids, at);
          if (restart) return restart;
          continue;
        }
      }
      copy_ids(*ids, out);
      out += ids->count;
    }
    ids_->insert(ids_->end(), out_, out);
    return 0;
  }

  // A long word, or a short one with more ids than an entry holds.
  __attribute__((noinline)) size_t write_rare(const WordIds<Id>& ids, size_t word) {
    const uint32_t begin = starts_[word], size = starts_[word + 1] - begin;
    if (size > kKeyBytes) return encode_long(begin, size);
    const uint32_t* from = overflow_.data() + overflow_place(ids);
    ids_->insert(ids_->end(), from, from + ids.count);
    return 0;
  }

  static size_t overflow_place(const WordIds<Id>& ids) {
    return sizeof(Id) == 2 ? static_cast<size_t>(ids.ids[0]) << 16 | ids.ids[1] : ids.ids[0];
  }

  // Merging for a word of up to 15 bytes that was not in the cache.
  WordIds<Id> encode_short(const WordKey& key) {
    const auto* word = reinterpret_cast<const char*>(&key);
    if (is_run(word, key.size())) return pack(&model_.runs.ids[key.size()], 1);
    fresh_.clear();
    model_.pairs.encode(std::string_view(word, key.size()), fresh_, scratch_);
    return pack(fresh_.data(), fresh_.size());
  }

  bool is_run(const char* word, size_t size) const {
    return !model_.runs.ids.empty() && size > 1 && word[0] == ' ' && word[1] == ' ';
  }

  WordIds<Id> pack(const uint32_t* ids, size_t count) {
    WordIds<Id> result{};
    result.count = static_cast<Id>(count);
    if (count <= WordIds<Id>::kCapacity) {
      for (size_t at = 0; at < count; ++at) result.ids[at] = static_cast<Id>(ids[at]);
      return result;
    }
    const size_t place = overflow_.size();
    result.ids[0] = static_cast<Id>(sizeof(Id) == 2 ? place >> 16 : place);
    result.ids[1] = static_cast<Id>(place);
    overflow_.insert(overflow_.end(), ids, ids + count);
    return result;
  }

  size_t encode_long(uint32_t begin, uint32_t size) {
    if (is_run(text_ + begin, size)) return encode_run(begin, size);
    const std::string_view word(text_ + begin, size);
    const bool kept = size <= LongWordCache::kLongest;
    const uint64_t hash = kept ? LongWordCache::hash(word) : 0;
    size_t count = 0;
    if (const uint32_t* ids = kept ? long_cache_.find(word, hash, count) : nullptr) {
      ids_->insert(ids_->end(), ids, ids + count);
      return 0;
    }
    const size_t before = ids_->size();
    model_.pairs.has_whole_words() ? model_.pairs.encode(word, *ids_, scratch_) : encode_in_parts(word);
    if (kept) long_cache_.insert(word, hash, ids_->data() + before, ids_->size() - before);
    return 0;
  }

  // Cuts a word where no token can span, and encodes the parts.
  void encode_in_parts(std::string_view word) {
    size_t begin = 0;
    for (size_t at = 2; at + 1 < word.size(); ++at) {
      const bool boundary = !is_continuation(word[at]) && (is_continuation(word[at - 1]) || word[at] & 0x80);
      if (!boundary || model_.pairs.may_join(word.data() + at)) continue;
      encode_part(word.substr(begin, at - begin));
      begin = at;
    }
    encode_part(word.substr(begin));
  }

  void encode_part(std::string_view part) {
#if defined(ETTIN_AVX512)
    if (part.size() > kKeyBytes && part.size() <= kWideWord) return merge_wide(model_.pairs, part, *ids_);
#endif
    if (part.size() > kKeyBytes) return model_.pairs.encode(part, *ids_, scratch_);
    const WordKey key = make_key(part.data(), part.size());
    const uint32_t hash = hash_key(key);
    WordIds<Id> ids;
    if (const auto* entry = cache_.find(key, hash)) {
      ids = entry->ids;
    } else {
      ids = encode_short(key);
      cache_.insert(key, hash, ids);
    }
    if (ids.count > WordIds<Id>::kCapacity) {
      const uint32_t* from = overflow_.data() + overflow_place(ids);
      ids_->insert(ids_->end(), from, from + ids.count);
    } else {
      ids_->insert(ids_->end(), ids.ids, ids.ids + ids.count);
    }
  }

  // A run of spaces longer than an entry. A single space left over belongs to what follows: splitting starts there.
  size_t encode_run(uint32_t begin, uint32_t size) {
    const size_t longest = model_.runs.longest();
    size_t left = size;
    for (; left >= longest; left -= longest) ids_->push_back(model_.runs.ids[longest]);
    if (left > 1) ids_->push_back(model_.runs.ids[left]);
    return left == 1 ? begin + size - 1 : 0;
  }

  const WordModel& model_;
  ShortWordCache<Id> cache_;
  LongWordCache long_cache_;
  std::vector<uint32_t>* ids_ = nullptr;
  const char* text_ = nullptr;
  size_t size_ = 0, misses_ = 0;
  uint32_t starts_[kMost], hashes_[kGroup], plain_[kMost];
  typename ShortWordCache<Id>::Entry* missed_entries_[kMost];
  WordKey keys_[kGroup], missed_[kMost];
  WordIds<Id> words_[kMost], missed_ids_[kMost];
  uint32_t out_[kMost * 8 + 8];
  std::vector<uint32_t> overflow_, fresh_;
  BytePairModel::Scratch scratch_;
};

inline std::unique_ptr<WordEncoder> make(const WordModel& model) {
  if (model.vocabulary_size <= 65536) return std::make_unique<PathEncoder<uint16_t>>(model);
  return std::make_unique<PathEncoder<uint32_t>>(model);
}
