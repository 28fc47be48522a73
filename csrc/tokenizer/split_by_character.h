// Cuts text into words exactly as the split patterns of byte-level tokenizers do. Portable version, character by
// character.
#pragma once

#include <cstddef>
#include <string_view>

#include "tokenizer/file.h"
#include "text/unicode.h"

namespace ettin {

// The characters of a text with their classes, one after another. Valid UTF-8 only.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : text_(text.data()), size_(text.size()) {}

  bool at_end(size_t at) const { return at >= size_; }
  char byte(size_t at) const { return at < size_ ? text_[at] : '\0'; }

  // Class of the character at `at` (which must be inside the text); `next` becomes the position after it.
  CharacterClass kind(size_t at, size_t& next) const {
    size_t length;
    const uint32_t code = utf8_decode(text_ + at, length);
    next = at + length;
    return static_cast<CharacterClass>(property(code) & kClassMask);
  }

  bool is(size_t at, CharacterClass wanted, size_t& next) const { return at < size_ && kind(at, next) == wanted; }

  // End of the run of characters of class `wanted` that starts at `at`.
  size_t run(size_t at, CharacterClass wanted) const {
    for (size_t next; is(at, wanted, next);) at = next;
    return at;
  }

 private:
  const char* text_;
  size_t size_;
};

// End of "'s", "'re" and the like at `at` ("'" itself), or `at` when there is none.
inline size_t contraction_end(const Cursor& text, size_t at, bool any_case) {
  auto lower = [any_case](char byte) {
    return any_case && byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte | 32) : byte;
  };
  const char first = lower(text.byte(at + 1)), second = lower(text.byte(at + 2));
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
    return at + 3;
  const bool long_s = any_case && text.byte(at + 1) == '\xC5' && text.byte(at + 2) == '\xBF';  // U+017F folds to s
  return long_s ? at + 3 : at;
}

// What \s+(?!\S)|\s+ matches in a run of white space [at, end): all of it at the end of the text, else all but its last
// character, else that one.
inline size_t space_end(const Cursor& text, size_t at, size_t end) {
  if (text.at_end(end)) return end;
  size_t last = at, next = at;
  for (size_t position = at; position < end; position = next) {
    last = position;
    text.kind(position, next);
  }
  return last > at ? last : end;
}

inline size_t gpt2_word_end(const Cursor& text, size_t at) {
  if (text.byte(at) == '\'') {
    const size_t end = contraction_end(text, at, false);
    if (end > at) return end;
  }
  size_t next, after;
  CharacterClass kind = text.kind(at, next);
  if (text.byte(at) == ' ' && !text.at_end(next)) {
    const CharacterClass follows = text.kind(next, after);
    if (follows != kSpace) return text.run(after, follows);
  }
  if (kind != kSpace) return text.run(next, kind);
  return space_end(text, at, text.run(next, kSpace));
}

// The cl100k family; `digits` is the longest group of numbers.
inline size_t cl100k_word_end(const Cursor& text, size_t at, int digits) {
  const char byte = text.byte(at);
  if (byte == '\'') {
    const size_t end = contraction_end(text, at, true);
    if (end > at) return end;
  }
  size_t next, after;
  const CharacterClass kind = text.kind(at, next);
  if (kind == kLetter) return text.run(next, kLetter);
  if (kind != kNumber && byte != '\r' && byte != '\n' && text.is(next, kLetter, after)) return text.run(after, kLetter);
  if (kind == kNumber) {
    for (int taken = 1; taken < digits && text.is(next, kNumber, after); ++taken) next = after;
    return next;
  }
  if (kind == kOther || (byte == ' ' && text.is(next, kOther, after))) {
    size_t end = text.run(next, kOther);
    while (text.byte(end) == '\r' || text.byte(end) == '\n') ++end;
    return end;
  }
  const size_t end = text.run(next, kSpace);
  for (size_t last = end; last > at; --last) {
    if (text.byte(last - 1) == '\r' || text.byte(last - 1) == '\n') return last;
  }
  return space_end(text, at, end);
}

// Calls `sink(begin, end)` for every word of `text`, in order. Words are never empty and cover the text.
template <class Sink>
void split_words(std::string_view text, Split split, Sink&& sink) {
  const Cursor cursor(text);
  for (size_t at = 0; at < text.size();) {
    const size_t end = split == Split::kGpt2     ? gpt2_word_end(cursor, at)
                       : split == Split::kCl100k ? cl100k_word_end(cursor, at, 3)
                                                 : cl100k_word_end(cursor, at, 1);
    sink(at, end);
    at = end;
  }
}

}  // namespace ettin
