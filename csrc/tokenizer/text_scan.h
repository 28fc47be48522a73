// Looking for rare things in text, 64 bytes at a time where the machine can.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tokenizer/versions.h"

namespace ettin {

// A quick test for the first two bytes of a set of strings: it passes all of them and few others.
class PrefixFilter {
 public:
  void add(std::string_view content) {
    const auto first = static_cast<uint8_t>(content[0]);
    const auto bit = static_cast<uint8_t>(1u << (first % 8));
    mark(low_[0], high_[0], first, bit);
    for (int second = 0; second < 256; ++second) {
      const bool wanted = content.size() == 1 || second == static_cast<uint8_t>(content[1]);
      if (wanted) mark(low_[1], high_[1], static_cast<uint8_t>(second), bit);
    }
  }

  // By nibble of the first and of the second byte; a pair passes when the four have a bit in common.
  const uint8_t* low(int byte) const { return low_[byte]; }
  const uint8_t* high(int byte) const { return high_[byte]; }
  uint8_t test(int byte, uint8_t value) const { return low_[byte][value & 15] & high_[byte][value >> 4]; }

 private:
  static void mark(uint8_t* low, uint8_t* high, uint8_t byte, uint8_t bit) {
    low[byte & 15] |= bit;
    high[byte >> 4] |= bit;
  }

  alignas(16) uint8_t low_[2][16] = {}, high_[2][16] = {};
};

struct TextScan {
  // The first place at or after `at` where the filter passes, or the size of the text. A last byte passes on its own.
  size_t (*find_prefix)(std::string_view text, size_t at, const PrefixFilter& filter);
  // The first character at or after `at` that NFC may touch, or the size of the text.
  size_t (*find_normalizing)(std::string_view text, size_t at);
};

extern const TextScan portable_scan;
#if defined(ETTIN_X86)
extern const TextScan avx2_scan, avx512_scan;
#endif

// The scan for this machine.
const TextScan& text_scan();

}  // namespace ettin
