// Words of up to 15 bytes seen before and their ids, per thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "base/huge_array.h"

namespace ettin {

// A word of up to 15 bytes, padded with 0xFF, which no UTF-8 text contains.
struct alignas(16) WordKey {
  uint64_t low, high;
  size_t size() const {
    const auto leading = [](uint64_t padding) { return static_cast<size_t>(__builtin_clzll(~padding)) / 8; };
    return ~high ? 16 - leading(high) : 8 - leading(low);
  }
  std::string_view text() const { return {reinterpret_cast<const char*>(this), size()}; }
  bool operator==(const WordKey& other) const { return ((low ^ other.low) | (high ^ other.high)) == 0; }
};
constexpr size_t kKeyBytes = 15;

inline WordKey make_key(const char* text, size_t size) {
  WordKey key{~uint64_t{0}, ~uint64_t{0}};
  std::memcpy(&key, text, size);
  return key;
}

// Ids of a word, in 16 bytes. `count` is never 0; above kCapacity the ids lie in an overflow list.
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
  struct alignas(64) Bucket {
    WordKey keys[2];  // zeros in an empty entry
    WordIds<Id> ids[2];
    bool full() const { return keys[1].high; }
    // The ids of a word, or null.
    const WordIds<Id>* find(const WordKey& key) const {
      return keys[0] == key ? &ids[0] : keys[1] == key ? &ids[1] : nullptr;
    }
  };

  ShortWordCache() : buckets_(kBuckets) {}

  // Where the bucket of a hash lies, in bytes.
  static uint32_t place(uint32_t hash) { return hash & kMask; }
  static uint32_t neighbour(uint32_t place) { return place ^ sizeof(Bucket); }
  Bucket& bucket(uint32_t place) const {
    return *reinterpret_cast<Bucket*>(reinterpret_cast<char*>(buckets_.data()) + place);
  }

  void clear() { buckets_.fill_bytes(0); }

  // The ids of a word in its bucket or the neighbour, or null.
  const WordIds<Id>* find(const WordKey& key, uint32_t place) const {
    const Bucket& own = bucket(place);
    const WordIds<Id>* found = own.find(key);
    return found || !own.full() ? found : bucket(neighbour(place)).find(key);
  }

  struct Entry {
    WordKey* key;
    WordIds<Id>* ids;
  };
  Entry insert(const WordKey& key, uint32_t place, const WordIds<Id>& ids) {
    Bucket* bucket = &this->bucket(place);
    Bucket& other = this->bucket(neighbour(place));
    if (bucket->full() && !other.full()) bucket = &other;
    const size_t at = bucket->keys[0].high ? 1 : 0;
    bucket->keys[at] = key;
    bucket->ids[at] = ids;
    return {&bucket->keys[at], &bucket->ids[at]};
  }

 private:
  static constexpr size_t kBuckets = size_t{1} << 18;
  static constexpr uint32_t kMask = (kBuckets - 1) * sizeof(Bucket);

  HugeArray<Bucket> buckets_;
};

}  // namespace ettin
