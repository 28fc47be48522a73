// The versions of the word encoder, one a file, and what they share.
#pragma once

#include <cstdint>
#include <memory>

#include "base/cpu.h"
#include "tokenizer/word_encoder.h"

namespace ettin {

enum AsciiBit : uint8_t { kLetterBit = 1, kNumberBit = 2, kOtherBit = 4, kSpaceBit = 8, kWhiteBit = 16 };
constexpr uint8_t kRealBits = kLetterBit | kNumberBit | kOtherBit;  // no white space

// Classes of the ASCII characters, a bit each.
struct AsciiClasses {
  uint8_t bits[128];
};

constexpr AsciiClasses make_ascii_classes() {
  AsciiClasses classes{};
  for (int byte = 0; byte < 128; ++byte) {
    const bool letter = (byte | 32) >= 'a' && (byte | 32) <= 'z', number = byte >= '0' && byte <= '9';
    const bool white = byte >= '\t' && byte <= '\r';
    classes.bits[byte] = letter        ? kLetterBit
                         : number      ? kNumberBit
                         : byte == ' ' ? kSpaceBit
                         : white       ? kWhiteBit
                                       : kOtherBit;
  }
  return classes;
}
constexpr AsciiClasses kAsciiClasses = make_ascii_classes();

// The numbers 0 to 63.
struct alignas(64) ByteNumbers {
  uint8_t bytes[64];
};

constexpr ByteNumbers make_byte_numbers() {
  ByteNumbers numbers{};
  for (int byte = 0; byte < 64; ++byte) numbers.bytes[byte] = static_cast<uint8_t>(byte);
  return numbers;
}
constexpr ByteNumbers kByteNumbers = make_byte_numbers();

// What there is of each version.
struct WordVersion {
  std::unique_ptr<WordEncoder> (*make)(const WordModel& model);
  // For each word of up to 15 bytes the id of the token that it becomes as a whole, or kNoRank.
  std::vector<uint32_t> (*single_tokens)(const BytePairModel& pairs, const std::vector<WordKey>& words);
};

extern const WordVersion portable_words;
#if defined(ETTIN_X86)
extern const WordVersion avx2_words, avx512_words;
#endif

}  // namespace ettin
