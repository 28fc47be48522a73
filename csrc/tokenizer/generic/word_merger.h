// Merging of words that no cache holds, for one instruction set. Included like word_encoder.h, before it.

#if defined(ETTIN_AVX512) || defined(ETTIN_AVX2)
// Whether words that are not too long are merged in lanes.
inline bool merges_in_lanes(const BytePairModel& pairs) { return pairs.merges16() && !pairs.has_whole_words(); }
#endif

// Merges words and packs their ids for the caches. One a thread.
template <class Id>
class WordMerger {
 public:
  explicit WordMerger(const WordModel& model) : pairs_(model.pairs) {}

  // Ids as an entry of the cache: inside of it, or in the list of longer ones.
  WordIds<Id> pack(const uint32_t* ids, size_t count) {
    WordIds<Id> result{};
    result.count = static_cast<Id>(count);
    if (count <= WordIds<Id>::kCapacity) {
      for (size_t at = 0; at < count; ++at) result.ids[at] = static_cast<Id>(ids[at]);
      return result;
    }
    const size_t place = longer_.size();
    result.ids[0] = static_cast<Id>(sizeof(Id) == 2 ? place >> 16 : place);
    result.ids[1] = static_cast<Id>(place);
    append_ids(longer_, ids, count);
    return result;
  }
  // Where the ids of an entry with more than it holds are.
  const Id* longer(const WordIds<Id>& ids) const {
    return longer_.data() + (sizeof(Id) == 2 ? static_cast<size_t>(ids.ids[0]) << 16 | ids.ids[1] : ids.ids[0]);
  }
  size_t longer_size() const { return longer_.size(); }
  void clear_longer() { longer_.clear(); }

  // The ids of one word of any size, until the next call.
  const IdVector& merge(std::string_view word) {
    own_.clear();
#if defined(ETTIN_AVX512) || defined(ETTIN_AVX2)
    if (word.size() <= kScannedWord && !pairs_.has_whole_words()) {
      merge_by_scanning(pairs_, word, own_);
      return own_;
    }
#endif
    pairs_.encode(word, own_, scratch_);
    return own_;
  }

  // Calls `done(i, ids)` in any order for words of up to 15 bytes, `key(i)` being one.
  template <class Key, class Done>
  void merge_short(size_t count, Key&& key, Done&& done) {
    if (!count) return;
#if defined(ETTIN_AVX512) || defined(ETTIN_AVX2)
    const auto packed = [&](uint32_t at, const auto* tokens, size_t size) { done(at, pack_tokens(tokens, size)); };
    if (merges_in_lanes(pairs_)) {
      const auto text = [&](uint32_t at) { return key(at).text(); };
      return merge_in_lanes16<Numbers16>(*pairs_.merges16(), count, text, packed);
    }
#if defined(ETTIN_AVX512)
    if (!pairs_.has_whole_words()) return merge_in_lanes(pairs_, count, key, packed);
#endif
#endif
    for (uint32_t at = 0; at < count; ++at) {
      own_.clear();
      pairs_.encode(key(at).text(), own_, scratch_);
      done(at, pack(own_.data(), own_.size()));
    }
  }

  // The same for longer words, `text(i)` being one: calls `done(i, ids, count)`.
  template <class Text, class Done>
  void merge_long(size_t count, Text&& text, Done&& done) {
    in_lanes_.clear();
    for (uint32_t at = 0; at < count; ++at) {
#if defined(ETTIN_AVX512) || defined(ETTIN_AVX2)
      if (text(at).size() <= Numbers32::kCount && merges_in_lanes(pairs_)) {
        in_lanes_.push_back(at);
        continue;
      }
#endif
      const IdVector& ids = merge(text(at));
      done(at, ids.data(), ids.size());
    }
#if defined(ETTIN_AVX512) || defined(ETTIN_AVX2)
    if (in_lanes_.empty()) return;
    const auto lane_text = [&](uint32_t lane) { return text(in_lanes_[lane]); };
    merge_in_lanes16<Numbers32>(*pairs_.merges16(), in_lanes_.size(), lane_text,
                                [&](uint32_t lane, const uint16_t* tokens, size_t size) {
                                  uint32_t ids[Numbers32::kCount];
                                  for (size_t at = 0; at < size; ++at) ids[at] = pairs_.id(tokens[at]);
                                  done(in_lanes_[lane], ids, size);
                                });
#endif
  }

 private:
  template <class Token>
  WordIds<Id> pack_tokens(const Token* tokens, size_t count) {
    if constexpr (sizeof(Token) == 2 && sizeof(Id) == 2) {
      if (count <= WordIds<Id>::kCapacity) return ids_of_tokens(pairs_.ids16(), tokens, count);
    }
    uint32_t ids[16];
    for (size_t at = 0; at < count; ++at) ids[at] = pairs_.id(tokens[at]);
    return pack(ids, count);
  }

  const BytePairModel& pairs_;
  FreshVector<Id> longer_;
  IdVector own_;
  std::vector<uint32_t> in_lanes_;
  BytePairModel::Scratch scratch_;
};

// For each word of up to 15 bytes the id of the token that it becomes as a whole, or kNoRank.
inline std::vector<uint32_t> single_tokens(const BytePairModel& pairs, const std::vector<WordKey>& words) {
  std::vector<uint32_t> ids(words.size(), kNoRank);
#if defined(ETTIN_AVX512) || defined(ETTIN_AVX2)
  if (merges_in_lanes(pairs)) {
    const auto text = [&](uint32_t at) { return words[at].text(); };
    merge_in_lanes16<Numbers16>(*pairs.merges16(), words.size(), text,
                                [&](uint32_t at, const uint16_t* tokens, size_t size) {
                                  if (size == 1) ids[at] = pairs.id(tokens[0]);
                                });
    return ids;
  }
#endif
  IdVector own;
  BytePairModel::Scratch scratch;
  for (size_t at = 0; at < words.size(); ++at) {
    own.clear();
    pairs.encode(words[at].text(), own, scratch);
    if (own.size() == 1) ids[at] = own[0];
  }
  return ids;
}
