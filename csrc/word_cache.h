// Words of up to 15 bytes seen before and their ids, per thread.
#pragma once

#include <cstdint>
#include <cstring>

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

}  // namespace ettin
