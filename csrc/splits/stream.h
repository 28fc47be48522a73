// A split automaton as a table that is fast to follow: one look-up a character says where words start.
//
// A row knows enough of the characters before to say so at once or one character late. Where a match may still grow,
// such as a line end before indentation, a word is taken to start behind it until it does grow. What needs more than
// that leaves the table: SplitScanner finds the words there.
#pragma once

#include <cstdint>
#include <vector>

#include "splits/automaton.h"

namespace ettin {

class SplitStream {
 public:
  // What a character says. kRetracts: the last start was none, and counts before the others. kStartsBefore: a word
  // starts at the character before, which is in ASCII. kSupposes, of a row in column kEnd: the last start may turn out
  // none.
  enum Flag : uint8_t { kStarts = 1, kStartsBefore = 2, kRetracts = 4, kLeaves = 8, kDecodes = 16, kSupposes = 32 };

  // Columns of bytes: those in ASCII have the column of their class; those within a character change nothing; the first
  // ones of characters beyond ASCII say kDecodes: the column is that of the character.
  static constexpr uint8_t kInside = 0, kLead = 1, kEnd = 2, kCharacters = 3;

  // False where the table would be too large.
  bool build(const SplitAutomaton& automaton);

  const SplitAutomaton& automaton() const { return automaton_; }
  const uint16_t* next_rows() const { return next_.data(); }  // by place of a row + column
  const uint8_t* flags() const { return flags_.data(); }
  const uint8_t* byte_columns() const { return byte_columns_; }
  uint8_t column(uint32_t code) const { return columns_[automaton_.classes().of(code)]; }
  size_t cells() const { return next_.size(); }
  uint16_t first_row() const { return first_row_; }  // a word starts with the next character
  // The row behind the first character of a word.
  uint16_t row_behind(uint8_t column) const { return next_[first_row_ + column]; }
  // Whether a word starts at a character of `column` behind one of `before` whatever was before the two, so that the
  // text may be split from there on its own.
  bool always_starts(uint8_t before, uint8_t column) const { return always_starts_[before * width_ + column]; }

 private:
  void find_certain_starts();

  SplitAutomaton automaton_;
  std::vector<uint16_t> next_;
  std::vector<uint8_t> flags_, columns_;
  alignas(64) uint8_t byte_columns_[256];
  uint16_t first_row_ = 0;
  size_t width_ = 0;
  std::vector<bool> always_starts_;
};

}  // namespace ettin
