// Byte-pair encoding of one word: repeatedly merges the pair of lowest rank, leftmost first.
//
// Inside, tokens have numbers of their own: 0 to 255 are the bytes, 256 + r is what the merge of rank r makes (the
// lowest such rank where several merges make the same token). Ranks count only merges that some text can reach.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/fresh_vector.h"
#include "base/huge_array.h"
#include "tokenizer/merges_16bit.h"
#include "tokenizer/file.h"

namespace ettin {

constexpr uint32_t kNoRank = ~0u;

// Rank of every merge by its two tokens: buckets of eight entries, a cache line each, none of which overflows, so that
// one line answers every question. Immutable after construction.
class MergeTable {
 public:
  struct alignas(64) Bucket {
    uint64_t entries[8];  // left, right, rank: 21, 21 and 22 bits; the first empty one ends the bucket
  };
  static constexpr int kRankBits = 22;
  static constexpr uint64_t kEmpty = ~0ull;

  void build(const std::vector<Merge>& merges);

  static uint64_t key(uint32_t left, uint32_t right) { return static_cast<uint64_t>(left) << 21 | right; }
  const Bucket& bucket(uint64_t key) const { return (*buckets_)[(key * multiplier_) >> shift_]; }

  uint32_t rank(uint32_t left, uint32_t right) const {
    const uint64_t wanted = key(left, right);
    for (const uint64_t entry : bucket(wanted).entries) {
      if (entry >> kRankBits == wanted) return entry & ((1u << kRankBits) - 1);
      if (entry == kEmpty) break;
    }
    return kNoRank;
  }

 private:
  bool fill(const std::vector<Merge>& merges);

  std::unique_ptr<HugeArray<Bucket>> buckets_;
  uint64_t multiplier_ = 0x9E3779B97F4A7C15ull;
  int shift_ = 0;
};

// The model: tokens of single bytes, merges, and the vocabulary for `ignore_merges`. Immutable, shared by threads.
class BytePairModel {
 public:
  explicit BytePairModel(const TokenizerFile& file);

  // Appends the ids of one word of any length. `scratch` is per thread.
  struct Scratch {
    std::vector<uint32_t> tokens, ranks, previous, next;
    std::vector<std::pair<uint32_t, uint32_t>> queue;
  };
  void encode(std::string_view word, IdVector& ids, Scratch& scratch) const;

  // The parts of the algorithm, for encoders that do it their own way.
  const uint32_t* byte_pair_ranks() const { return byte_pair_ranks_.data(); }  // by left << 8 | right
  uint32_t rank(uint32_t left, uint32_t right) const { return merges_.rank(left, right); }
  const MergeTable& table() const { return merges_; }
  // The merges in 16-bit numbers, or null when there are too many.
  const Merges16* merges16() const { return merges16_.get(); }
  // Ids by tokens, where merges16() is not null and ids have 16 bits: for every number of 16 bits.
  const uint16_t* ids16() const { return ids16_.data(); }
  uint32_t merged(uint32_t rank) const { return one_merge_each_ ? rank + 256 : merged_[rank]; }
  uint32_t id(uint32_t token) const { return ids_[token]; }

  // The id of a word that is a token as a whole and bypasses merging, or kNoRank.
  uint32_t whole_word(std::string_view word) const {
    if (word.size() > longest_whole_word_) return kNoRank;
    const auto found = whole_words_.find(std::string(word));
    return found == whole_words_.end() ? kNoRank : found->second;
  }
  bool has_whole_words() const { return longest_whole_word_ > 0; }

  // Whether some token can span the place between text[-1] and text[0]; two bytes on either side are read.
  bool may_join(const char* text) const {
    const auto* bytes = reinterpret_cast<const uint8_t*>(text);
    const uint32_t pair = bytes[-1] << 8 | bytes[0];
    if (pair_joints_[pair >> 6] >> (pair & 63) & 1) return true;
    const uint32_t quad = joint_slot(bytes[-2], bytes[-1], bytes[0], bytes[1]);
    return quad_joints_[quad >> 6] >> (quad & 63) & 1;
  }

 private:
  static constexpr int kJointBits = 18;
  static uint32_t joint_slot(uint8_t a, uint8_t b, uint8_t c, uint8_t d) {
    return ((static_cast<uint32_t>(a) << 24 | b << 16 | c << 8 | d) * 0x9E3779B1u) >> (32 - kJointBits);
  }

  void number_tokens(const TokenizerFile& file);
  void note_whole_words(const TokenizerFile& file);
  void merge(std::string_view word, IdVector& ids, Scratch& scratch) const;
  void note_joints(const TokenizerFile& file, const std::vector<Merge>& merges);
  void merge_short(IdVector& ids, Scratch& scratch) const;
  void merge_long(IdVector& ids, Scratch& scratch) const;

  MergeTable merges_;
  std::unique_ptr<const Merges16> merges16_;
  std::vector<uint32_t> byte_pair_ranks_;
  std::vector<uint32_t> merged_;  // token made by each rank
  std::vector<uint32_t> ids_;     // id in the file of each token
  std::vector<uint16_t> ids16_;
  std::vector<uint64_t> pair_joints_, quad_joints_;
  bool one_merge_each_ = true;
  size_t longest_whole_word_ = 0;
  std::unordered_map<std::string, uint32_t> whole_words_;  // of ignore_merges, as far as merging gives other ids
};

}  // namespace ettin
