// Words seen before and their ids, per thread: one table for words of up to 15 bytes, one for longer ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "huge_array.h"

namespace ettin {

// A word of up to 15 bytes, padded with zeros; the last byte is its length.
struct alignas(16) WordKey {
  uint64_t low, high;
  size_t size() const { return high >> 56; }
  bool operator==(const WordKey& other) const { return ((low ^ other.low) | (high ^ other.high)) == 0; }
};
constexpr size_t kKeyBytes = 15;

inline WordKey make_key(const char* text, size_t size) {
  WordKey key{0, 0};
  std::memcpy(&key, text, size);
  key.high |= static_cast<uint64_t>(size) << 56;
  return key;
}

// Ids of a word, in 16 bytes. `count` above kCapacity: they lie in an overflow list.
template <class Id>
struct alignas(16) WordIds {
  static constexpr size_t kCapacity = 16 / sizeof(Id) - 1;
  Id ids[kCapacity];
  Id count;
};

// Two entries a cache line. A new word takes an empty entry of its bucket, else of the bucket's neighbour, else the
// second entry of its bucket, so that early (frequent) words stay.
template <class Id>
class ShortWordCache {
 public:
  struct Entry {
    WordKey key;
    WordIds<Id> ids;
  };
  struct alignas(64) Bucket {
    Entry entries[2];
    bool full() const { return entries[1].key.high; }
  };
  static constexpr int kBits = 18;
  static constexpr uint32_t kMask = (1u << kBits) - 1;

  ShortWordCache() : buckets_(size_t{1} << kBits) {}

  Bucket& bucket(uint32_t hash) const { return buckets_[hash & kMask]; }

  void clear() { buckets_.fill_bytes(0); }

  // Where a word is that its own bucket may hold, or null.
  const Entry* find(const WordKey& key, uint32_t hash) const {
    for (const Entry& entry : bucket(hash).entries) {
      if (entry.key == key) return &entry;
    }
    return find_spilled(key, hash);
  }

  // Where a word is that its own bucket does not hold, or null.
  const Entry* find_spilled(const WordKey& key, uint32_t hash) const {
    if (!bucket(hash).full()) return nullptr;
    for (const Entry& entry : neighbour(hash).entries) {
      if (entry.key == key) return &entry;
    }
    return nullptr;
  }

  Entry& insert(const WordKey& key, uint32_t hash, const WordIds<Id>& ids) {
    Bucket& own = bucket(hash);
    Bucket& place = own.full() && !neighbour(hash).full() ? neighbour(hash) : own;
    Entry& entry = place.entries[place.entries[0].key.high ? 1 : 0];
    entry = {key, ids};
    return entry;
  }

 private:
  Bucket& neighbour(uint32_t hash) const { return buckets_[(hash & kMask) ^ 1]; }

  HugeArray<Bucket> buckets_;
};

// Words above 15 bytes: contents and ids lie in two lists that are emptied when full.
class LongWordCache {
 public:
  static constexpr size_t kLongest = 96;

  LongWordCache() : slots_(size_t{1} << kBits) {}

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

  // The ids of a word, or null with `count` 0.
  const uint32_t* find(std::string_view word, uint64_t hash, size_t& count) const {
    const Slot& slot = slots_[hash >> (64 - kBits)];
    if (slot.hash != hash || slot.bytes != word.size() ||
        std::memcmp(text_.data() + slot.text, word.data(), word.size())) {
      return nullptr;
    }
    count = slot.count;
    return ids_.data() + slot.ids;
  }

  void insert(std::string_view word, uint64_t hash, const uint32_t* ids, size_t count) {
    if (text_.size() + word.size() > kTextLimit || ids_.size() + count > kTextLimit) clear();
    slots_[hash >> (64 - kBits)] = {hash, static_cast<uint32_t>(text_.size()), static_cast<uint32_t>(ids_.size()),
                                    static_cast<uint16_t>(word.size()), static_cast<uint16_t>(count)};
    text_.insert(text_.end(), word.begin(), word.end());
    ids_.insert(ids_.end(), ids, ids + count);
  }

 private:
  static constexpr int kBits = 16;
  static constexpr size_t kTextLimit = 6 << 20;
  static constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15ull;
  struct Slot {
    uint64_t hash = 0;
    uint32_t text = 0, ids = 0;
    uint16_t bytes = 0, count = 0;
  };

  void clear() {
    slots_.assign(slots_.size(), Slot());
    text_.clear();
    ids_.clear();
  }

  std::vector<Slot> slots_;
  std::vector<char> text_;
  std::vector<uint32_t> ids_;
};

}  // namespace ettin
