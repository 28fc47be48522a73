// Words of 16 to 96 bytes seen before and their ids, per thread: contents and ids lie in two lists that are emptied
// when full.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "base/fresh_vector.h"
#include "base/huge_array.h"

namespace ettin {

template <class Id>
class LongWordCache {
 public:
  static constexpr size_t kLongest = 96;
  static constexpr uint16_t kPending = 0xFFFF;  // a count: the word has no ids yet

  struct Slot {  // all zeros when empty
    uint64_t hash;
    uint32_t text, ids;  // places in the lists; of a pending word `ids` is a number of the caller's
    uint16_t bytes, count;
  };

  LongWordCache() : slots_(kSlots) {}

  static uint64_t hash(std::string_view word) {
    uint64_t state = word.size() * kMultiplier, part;
    const char* at = word.data();
    for (size_t left = word.size(); left > 8; left -= 8, at += 8) {
      std::memcpy(&part, at, 8);
      state = (state ^ part) * kMultiplier;
      state ^= state >> 32;
    }
    std::memcpy(&part, word.data() + word.size() - 8, 8);
    state = (state ^ part) * kMultiplier;
    return state ^ state >> 29;
  }

  Slot& slot(uint64_t hash) { return slots_[hash >> (64 - kBits)]; }
  void prefetch(const Slot& slot) const {
    __builtin_prefetch(text_.data() + slot.text);
    __builtin_prefetch(ids_.data() + slot.ids);
  }
  bool holds(const Slot& slot, std::string_view word, uint64_t hash) const {
    return slot.hash == hash && slot.bytes == word.size() &&
           !std::memcmp(text_.data() + slot.text, word.data(), word.size());
  }
  const Id* ids(uint32_t place) const { return ids_.data() + place; }

  // Empties the lists when they might not take so many more words: places stay valid until the next call.
  void make_room(size_t words) {
    if (std::max(text_.size(), ids_.size()) + words * kLongest <= kListLimit) return;
    slots_.fill_bytes(0);
    text_.clear();
    ids_.clear();
  }

  // Enters a word whose ids come later.
  void enter(Slot& slot, std::string_view word, uint64_t hash, uint32_t number) {
    slot = {hash, static_cast<uint32_t>(text_.size()), number, static_cast<uint16_t>(word.size()), kPending};
    text_.insert(text_.end(), word.begin(), word.end());
  }

  // The ids of a word; returns their place.
  uint32_t finish(Slot& slot, uint64_t hash, uint32_t number, const uint32_t* ids, size_t count) {
    const auto place = static_cast<uint32_t>(ids_.size());
    append_ids(ids_, ids, count);
    const bool own = slot.hash == hash && slot.count == kPending && slot.ids == number;  // else another word took it
    if (own) slot.ids = place, slot.count = static_cast<uint16_t>(count);
    return place;
  }

 private:
  static constexpr int kBits = 16;
  static constexpr size_t kSlots = size_t{1} << kBits;
  static constexpr size_t kListLimit = 6 << 20;
  static constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15ull;

  HugeArray<Slot> slots_;
  std::vector<char> text_;
  FreshVector<Id> ids_;
};

}  // namespace ettin
