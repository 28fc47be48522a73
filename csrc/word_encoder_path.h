// The word encoder for one instruction set. Included by word_encoder_*.cpp inside a namespace of their own, after all
// other headers, with ETTIN_AVX512 or ETTIN_AVX2 defined where those may be used. Not a header for anybody else.

// Classes of 64 bytes, one bit a byte. Bytes of characters beyond ASCII are in `high` alone, their first ones in `lead`.
struct ByteMasks {
  uint64_t letter, number, other, space, white, apostrophe, high, lead;
};

#if defined(ETTIN_AVX512)

inline ByteMasks classify(const char* text) {
  const __m512i bytes = _mm512_loadu_si512(text);
  const __m512i classes = _mm512_permutex2var_epi8(_mm512_loadu_si512(kAsciiClasses.bits), bytes,
                                                   _mm512_loadu_si512(kAsciiClasses.bits + 64));
  const uint64_t high = _mm512_movepi8_mask(bytes);
  const auto having = [&](uint8_t bit) {
    return _mm512_mask_test_epi8_mask(~high, classes, _mm512_set1_epi8(static_cast<char>(bit)));
  };
  return {having(kLetterBit), having(kNumberBit),     having(kOtherBit), having(kSpaceBit),
          having(kWhiteBit),  having(kApostropheBit), high,
          _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(static_cast<char>(0xC0)))};
}

inline WordKey load_key(const char* text, size_t size, size_t) {
  const auto mask = static_cast<__mmask16>((1u << size) - 1);
  const __m128i length = _mm_slli_si128(_mm_cvtsi32_si128(static_cast<int>(size)), 15);
  WordKey key;
  _mm_store_si128(reinterpret_cast<__m128i*>(&key), _mm_or_si128(_mm_maskz_loadu_epi8(mask, text), length));
  return key;
}

#else

#if defined(ETTIN_AVX2)

struct Classes32 {
  uint32_t letter, number, space, white, apostrophe, high, lead;
};

inline Classes32 classify_half(const char* text) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text));
  const auto mask = [](__m256i value) { return static_cast<uint32_t>(_mm256_movemask_epi8(value)); };
  const auto below = [&](__m256i value, char limit) {  // unsigned value < limit
    return mask(_mm256_cmpeq_epi8(_mm256_min_epu8(value, _mm256_set1_epi8(limit)), value)) &
           ~mask(_mm256_cmpeq_epi8(value, _mm256_set1_epi8(limit)));
  };
  const auto minus = [&](__m256i value, char base) { return _mm256_sub_epi8(value, _mm256_set1_epi8(base)); };
  const auto equals = [&](char byte) { return mask(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte))); };
  return {below(minus(_mm256_or_si256(bytes, _mm256_set1_epi8(0x20)), 'a'), 26),
          below(minus(bytes, '0'), 10),
          equals(' '),
          below(minus(bytes, '\t'), 5),
          equals('\''),
          mask(bytes),
          mask(bytes) & ~below(bytes, static_cast<char>(0xC0))};
}

inline ByteMasks classify(const char* text) {
  const Classes32 low = classify_half(text), high = classify_half(text + 32);
  const auto join = [](uint32_t first, uint32_t second) { return static_cast<uint64_t>(second) << 32 | first; };
  ByteMasks masks{join(low.letter, high.letter), join(low.number, high.number), 0, join(low.space, high.space),
                  join(low.white, high.white), join(low.apostrophe, high.apostrophe), join(low.high, high.high),
                  join(low.lead, high.lead)};
  masks.other = ~(masks.letter | masks.number | masks.space | masks.white | masks.high);
  return masks;
}

#else

inline ByteMasks classify(const char* text) {
  ByteMasks masks{};
  for (int at = 0; at < 64; ++at) {
    const auto byte = static_cast<uint8_t>(text[at]);
    const uint64_t classes = byte < 0x80 ? kAsciiClasses.bits[byte] : 0;
    masks.letter |= (classes & 1) << at;
    masks.number |= (classes >> 1 & 1) << at;
    masks.other |= (classes >> 2 & 1) << at;
    masks.space |= (classes >> 3 & 1) << at;
    masks.white |= (classes >> 4 & 1) << at;
    masks.apostrophe |= (classes >> 5 & 1) << at;
    masks.high |= static_cast<uint64_t>(byte >> 7) << at;
    masks.lead |= static_cast<uint64_t>(byte >= 0xC0) << at;
  }
  return masks;
}

#endif

// `left`: bytes that may be read.
inline WordKey load_key(const char* text, size_t size, size_t left) {
  if (left < 16) return make_key(text, size);
  WordKey key;
  std::memcpy(&key, text, 16);
  const uint64_t low = size >= 8 ? ~0ull : (1ull << (8 * size)) - 1;
  const uint64_t high = size <= 8 ? 0 : (1ull << (8 * size - 64)) - 1;
  return {key.low & low, (key.high & high) | static_cast<uint64_t>(size) << 56};
}

#endif

inline uint32_t hash_key(const WordKey& key) {
#if defined(ETTIN_AVX512) || defined(ETTIN_AVX2)
  return static_cast<uint32_t>(_mm_crc32_u64(_mm_crc32_u64(0, key.low), key.high));
#else
  const uint64_t mixed = (key.low * 0x9E3779B97F4A7C15ull ^ key.high) * 0xC2B2AE3D27D4EB4Full;
  return static_cast<uint32_t>(mixed >> 32);
#endif
}

inline bool same_key(const WordKey& a, const WordKey& b) { return ((a.low ^ b.low) | (a.high ^ b.high)) == 0; }

// Finds where words start, 64 bytes at a time, by arithmetic on masks of classes: the pattern of GPT-2.
// Runs of two and more spaces are words of their own, and end the text before them, when they are added tokens.
class Gpt2Splitter {
 public:
  Gpt2Splitter(std::string_view text, bool runs) : text_(text.data()), size_(text.size()), runs_(runs) {}

  bool done() const { return base_ >= size_; }
  size_t base() const { return base_; }

  // Bit i: a word starts at base() + i. Moves on to the next block.
  uint64_t next() {
    char tail[64];
    const char* block = text_ + base_;
    uint64_t valid = ~0ull;
    if (size_ - base_ < 64) {
      std::memset(tail, 0, sizeof(tail));
      std::memcpy(tail, block, size_ - base_);
      block = tail;
      valid = (1ull << (size_ - base_)) - 1;
    }
    ByteMasks masks = classify(block);
    masks.other &= valid;
    uint64_t lone_starts = 0;  // white space beyond ASCII that starts a word because no white space follows
    if (masks.high | spill_) lone_starts = add_high(masks);
    const uint64_t starts = word_starts(masks, lone_starts, valid);
    base_ += 64;
    return starts;
  }

 private:
  // Puts characters beyond ASCII into the masks of their classes.
  uint64_t add_high(ByteMasks& masks) {
    uint64_t lone = 0, by_class[4] = {0, 0, 0, 0};
    by_class[spill_class_] = spill_;
    spill_ = 0;
    for (uint64_t leads = masks.lead; leads; leads &= leads - 1) {
      const int at = __builtin_ctzll(leads);
      size_t length;
      const uint32_t code = utf8_decode(text_ + base_ + at, length);
      const auto kind = static_cast<CharacterClass>(property(code) & kClassMask);
      const uint64_t bits = (1ull << length) - 1;
      by_class[kind] |= bits << at;
      if (at + length > 64) {
        spill_ = bits >> (64 - at);
        spill_class_ = kind;
      }
      if (kind == kSpace && is_real(base_ + at + length)) lone |= 1ull << at;
    }
    masks.letter |= by_class[kLetter];
    masks.number |= by_class[kNumber];
    masks.other |= by_class[kOther];
    masks.white |= by_class[kSpace];
    return lone;
  }

  // Whether there is a character at `at` and it is not white space.
  bool is_real(size_t at) const {
    if (at >= size_) return false;
    size_t length;
    return (property(utf8_decode(text_ + at, length)) & kClassMask) != kSpace;
  }

  uint64_t word_starts(const ByteMasks& masks, uint64_t lone_starts, uint64_t valid) {
    const uint64_t letter = masks.letter, number = masks.number, other = masks.other;
    uint64_t run = 0;
    if (runs_) {
      const uint64_t next_space = base_ + 64 < size_ && text_[base_ + 64] == ' ';
      run = masks.space & ((masks.space << 1 | carry_.space) | (masks.space >> 1 | next_space << 63));
    }
    const uint64_t glue = masks.space & ~run, white = glue | masks.white;
    const uint64_t real = letter | number | other;
    const auto first = [](uint64_t mask, uint64_t carry) { return mask & ~(mask << 1 | carry); };
    uint64_t starts = first(letter, carry_.letter) | first(number, carry_.number) | first(other, carry_.other);
    starts &= ~(glue << 1 | carry_.glue);
    starts |= first(white, carry_.white) | first(run, carry_.run) | lone_starts;
    // The last character of two and more of white space, when something follows.
    const uint64_t trailing = white & (white << 1 | carry_.white) & ~masks.high;
    uint64_t followed = real >> 1;
    if (trailing >> 63) followed |= static_cast<uint64_t>(is_real(base_ + 64)) << 63;
    starts |= trailing & followed;
    starts = (starts & ~carry_.clear) | carry_.set;
    carry_ = {letter >> 63, number >> 63, other >> 63, masks.space >> 63, glue >> 63, white >> 63, run >> 63, 0, 0};
    for (uint64_t marks = masks.apostrophe & starts; marks; marks &= marks - 1) {
      contraction(__builtin_ctzll(marks), starts);
    }
    return starts & valid;
  }

  // "'s" and the like at a word's start: a word ends behind it, and none starts within it.
  void contraction(int at, uint64_t& starts) {
    const size_t mark = base_ + at;
    const Cursor cursor(std::string_view(text_, size_));
    const int length = static_cast<int>(contraction_end(cursor, mark, false) - mark);
    if (!length) return;
    const int inside = at + 1, behind = at + length;
    if (inside < 64) starts &= ~(1ull << inside);
    else carry_.clear |= 1ull << (inside - 64);
    if (behind < 64) starts |= 1ull << behind;
    else if (mark + length < size_) carry_.set |= 1ull << (behind - 64);
  }

  struct Carry {  // of the last byte of the block before; the last two change starts of the next block
    uint64_t letter, number, other, space, glue, white, run, clear, set;
  };

  const char* text_;
  size_t size_, base_ = 0;
  bool runs_;
  Carry carry_{};
  uint64_t spill_ = 0;  // bytes of a character that reach into the next block
  CharacterClass spill_class_ = kOther;
};

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

// Appends the places of the bits of `mask`, counted from `base`; up to seven places more are written over.
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
  static constexpr size_t kMost = kBatch + 72;  // a batch ends with the block of text that exceeds it
  static constexpr size_t kOverflowLimit = 4 << 20;
  static constexpr Id kRare = static_cast<Id>(~Id{0}), kPending = kRare - 1;  // counts of words without ids yet

  // Starts the cache with the words known from the model alone.
  void fill_cache() {
    cache_.clear();
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
    if (overflow_.size() > kOverflowLimit) fill_cache();
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
      const auto& bucket = cache_.bucket(hashes_[at - begin]);
      const bool first = same_key(key, bucket.entries[0].key), second = same_key(key, bucket.entries[1].key);
      words_[at] = (first ? bucket.entries[0] : bucket.entries[1]).ids;
      if (__builtin_expect(first | second, 1)) continue;
      words_[at].count = kRare;
      if (key.high) note_miss(at, key, hashes_[at - begin]);
    }
  }

  // Enters a word into the cache at once, as pending, so that it misses only once in a batch.
  void note_miss(size_t at, const WordKey& key, uint32_t hash) {
    missed_[misses_] = key;
    missed_hashes_[misses_] = hash;
    WordIds<Id> pending{};
    pending.ids[0] = static_cast<Id>(misses_++);
    pending.count = kPending;
    words_[at] = pending;
    cache_.insert(key, hash, pending);
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
    auto& bucket = cache_.bucket(missed_hashes_[miss]);
    for (auto& entry : bucket.entries) {
      if (same_key(entry.key, missed_[miss])) entry.ids = ids;
    }
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
    const auto& bucket = cache_.bucket(hash);
    WordIds<Id> ids;
    if (same_key(key, bucket.entries[0].key)) {
      ids = bucket.entries[0].ids;
    } else if (same_key(key, bucket.entries[1].key)) {
      ids = bucket.entries[1].ids;
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
  uint32_t starts_[kMost], hashes_[kGroup], missed_hashes_[kMost], plain_[kMost];
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
