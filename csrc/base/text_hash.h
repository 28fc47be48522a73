// A 32-bit hash of the text ids of a document: equal texts of one tokenizer have equal hashes, however they are stored.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ettin {

inline uint64_t mix64(uint64_t x) noexcept {  // finalizer of SplitMix64
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// Four interleaved multiplicative lanes: lane j takes the ids at positions j, j + 4, ... of the document.
class TextHash {
 public:
  // Adds the ids id_at(0), ..., id_at(count - 1). All calls but the last must add a multiple of four ids.
  template <typename IdAt>
  void add_ids(size_t count, const IdAt& id_at) noexcept {
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
      for (size_t lane = 0; lane < 4; ++lane) step(lane, id_at(i + lane));
    for (size_t lane = 0; i + lane < count; ++lane) step(lane, id_at(i + lane));
    length_ += count;
  }

  uint32_t finish() const noexcept {
    uint64_t all = length_;
    for (const uint64_t lane : lanes_) all = mix64(all ^ lane);
    return static_cast<uint32_t>(all >> 32);
  }

 private:
  void step(size_t lane, uint32_t id) noexcept { lanes_[lane] = (lanes_[lane] ^ id) * 0x9FB21C651E98DF25ull; }

  uint64_t lanes_[4] = {1, 2, 3, 4};
  uint64_t length_ = 0;
};

// Whether a document belongs to the held-out side: the hash is keyed once more, so that the share is even.
inline bool is_held_out(uint32_t text_hash, uint64_t key, uint64_t below) noexcept {
  return (mix64(key ^ text_hash) >> 32) < below;
}

}  // namespace ettin
