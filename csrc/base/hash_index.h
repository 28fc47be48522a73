// Finds the entries of an array by the hash of their keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ettin {

// Open addressing in one block of memory, sized once: no allocation and one cache line for most entries.
class HashIndex {
 public:
  static constexpr uint32_t kNone = ~0u;

  explicit HashIndex(size_t entries = 0) { reserve(entries); }

  // Forgets everything; then holds up to `entries`, which must be below 2^31.
  void reserve(size_t entries) {
    size_t size = 2;
    while (size < 2 * entries) size *= 2;
    slots_.assign(size, Slot{0, kNone});
  }

  // The entry with this hash for which `same(entry)` holds, or kNone.
  template <class Same>
  uint32_t find(uint64_t hash, Same&& same) const {
    return slots_[place(hash, same)].entry;
  }

  // The same, but where there is none `entry` takes the place and is returned.
  template <class Same>
  uint32_t find_or_add(uint64_t hash, uint32_t entry, Same&& same) {
    Slot& slot = slots_[place(hash, same)];
    if (slot.entry == kNone) slot = {static_cast<uint32_t>(hash >> 32), entry};
    return slot.entry;
  }

 private:
  struct Slot {
    uint32_t mark;
    uint32_t entry;
  };

  template <class Same>
  size_t place(uint64_t hash, Same&& same) const {
    const auto mark = static_cast<uint32_t>(hash >> 32);
    const size_t last = slots_.size() - 1;
    size_t at = hash & last;
    while (slots_[at].entry != kNone && !(slots_[at].mark == mark && same(slots_[at].entry))) at = (at + 1) & last;
    return at;
  }

  std::vector<Slot> slots_;  // a power of two, at least half of them empty
};

}  // namespace ettin
