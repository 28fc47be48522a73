// Byte-pair encoding of one word: repeatedly merges the pair of lowest rank, leftmost first.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer_file.h"

namespace ettin {

constexpr uint32_t kNoRank = ~0u;

// Rank and result of every merge, by its two tokens; open addressing. Immutable after construction.
class MergeTable {
 public:
  struct Found {
    uint32_t rank, merged;
  };

  explicit MergeTable(const std::vector<Merge>& merges);

  Found find(uint32_t left, uint32_t right) const {
    const uint64_t key = static_cast<uint64_t>(left) << 32 | right;
    for (size_t at = slot(key);; at = (at + 1) & mask_) {
      const Entry& entry = entries_[at];
      if (entry.key == key) return {entry.rank, entry.merged};
      if (entry.key == kEmpty) return {kNoRank, 0};
    }
  }

 private:
  static constexpr uint64_t kEmpty = ~0ull;
  struct Entry {
    uint64_t key = kEmpty;
    uint32_t rank = kNoRank, merged = 0;
  };

  size_t slot(uint64_t key) const { return (key * 0x9E3779B97F4A7C15ull) >> shift_; }

  std::vector<Entry> entries_;
  size_t mask_;
  int shift_;
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
  void encode(std::string_view word, std::vector<uint32_t>& ids, Scratch& scratch) const;

 private:
  void merge_short(std::vector<uint32_t>& ids, Scratch& scratch) const;
  void merge_long(std::vector<uint32_t>& ids, Scratch& scratch) const;

  MergeTable merges_;
  uint32_t byte_tokens_[256];
  bool ignore_merges_;
  size_t longest_token_ = 0;
  std::unordered_map<std::string, uint32_t> whole_words_;  // for ignore_merges
};

}  // namespace ettin
