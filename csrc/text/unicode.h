// Unicode as the `tokenizers` library knows it: character classes, NFC data, UTF-8 coding of valid text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace ettin {

enum CharacterClass : uint8_t { kOther = 0, kLetter = 1, kNumber = 2, kSpace = 3 };
constexpr uint8_t kClassMask = 3;
constexpr uint8_t kWordFlag = 4;        // \w: stops an added token with single_word from matching
constexpr uint8_t kNormalizesFlag = 8;  // NFC may change, reorder or compose this character
constexpr uint8_t kRebuildsFlag = 16;   // ... by more than reordering

// General categories, in the order of the tables. The control characters that are white space have one of their own.
enum Category : uint8_t {
  // clang-format off
  kLu, kLl, kLt, kLm, kLo, kMn, kMc, kMe, kNd, kNl, kNo, kPc, kPd, kPs, kPe, kPi, kPf, kPo,
  kSm, kSc, kSk, kSo, kZs, kZl, kZp, kCc, kCf, kCo, kCn, kWhiteControl,
  // clang-format on
  kCategories,
};

constexpr size_t kUnicodeBlock = 128;    // code points of a block of the tables
constexpr size_t kUnicodeBlocks = 8704;  // blocks of all code points

extern const uint16_t property_index[kUnicodeBlocks];
extern const uint8_t property_blocks[28800];
extern const uint16_t category_index[kUnicodeBlocks];
extern const uint8_t category_blocks[];
extern const uint16_t combining_index[8704];
extern const uint8_t combining_blocks[9728];
extern const size_t decomposition_count;
extern const uint32_t decomposition_keys[];
extern const uint16_t decomposition_offsets[];
extern const uint32_t decomposition_values[];
extern const size_t composition_count;
extern const uint64_t composition_pairs[];  // first << 32 | second, ascending
extern const uint32_t composition_values[];

inline uint8_t property(uint32_t code) { return property_blocks[property_index[code >> 7] * 128 + (code & 127)]; }
inline Category category(uint32_t code) {
  return static_cast<Category>(category_blocks[category_index[code >> 7] * 128 + (code & 127)]);
}
inline uint8_t combining_class(uint32_t code) {
  return combining_blocks[combining_index[code >> 7] * 128 + (code & 127)];
}

// Bytes of the character that starts with `lead`; `lead` must start a character of valid UTF-8.
inline size_t utf8_length(uint8_t lead) { return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

// The character at `text`, which must be valid UTF-8; `length` becomes its number of bytes.
inline uint32_t utf8_decode(const char* text, size_t& length) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text);
  const uint32_t lead = bytes[0];
  if (lead < 0x80) return length = 1, lead;
  if (lead < 0xE0) return length = 2, (lead & 31) << 6 | (bytes[1] & 63u);
  if (lead < 0xF0) return length = 3, (lead & 15) << 12 | (bytes[1] & 63u) << 6 | (bytes[2] & 63u);
  return length = 4, (lead & 7) << 18 | (bytes[1] & 63u) << 12 | (bytes[2] & 63u) << 6 | (bytes[3] & 63u);
}

inline bool is_continuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

// Position of the character that ends before `position` (> 0) in valid UTF-8.
inline size_t utf8_previous(const char* text, size_t position) {
  do --position;
  while (is_continuation(text[position]));
  return position;
}

inline void utf8_append(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
  } else if (code < 0x10000) {
    out += {static_cast<char>(0xE0 | code >> 12), static_cast<char>(0x80 | (code >> 6 & 63)),
            static_cast<char>(0x80 | (code & 63))};
  } else {
    out += {static_cast<char>(0xF0 | code >> 18), static_cast<char>(0x80 | (code >> 12 & 63)),
            static_cast<char>(0x80 | (code >> 6 & 63)), static_cast<char>(0x80 | (code & 63))};
  }
}

// First bytes of UTF-8 of the characters with kNormalizesFlag, all of which are above U+007F.
struct alignas(64) NormalizingStarts {
  uint8_t leads[64];     // 0xFF when some such character starts with 0xC0 + i
  uint64_t seconds[64];  // bit j: some such character starts with 0xC0 + i, 0x80 + j

  // Of a first byte of 0xC0 and above and the byte after it.
  bool has(char lead, char second) const { return seconds[lead & 63] >> (second & 63) & 1; }
};
extern const NormalizingStarts kNormalizingStarts;

// Normalizes valid UTF-8 to NFC. False when `text` is NFC already (then `out` is untouched), else `out` holds the
// result. Costs about one read of the text where nothing changes; only the changed stretches are rebuilt.
bool normalize_nfc(std::string_view text, std::string& out);

}  // namespace ettin
