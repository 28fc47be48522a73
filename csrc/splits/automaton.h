// Split expressions as one deterministic automaton over classes of code points.
//
// Before the last expression there may be runs, such as \p{N}{1,3}: they cut the text into zones, in whose pieces the
// last one works as if each were a text of its own. What no match covers is a gap: a word as long as its piece lasts
// and no match begins.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "splits/code_point_classes.h"
#include "splits/expression.h"

namespace ettin {

class SplitAutomaton {
 public:
  static constexpr size_t kMostStates = 600;
  static constexpr uint16_t kDead = 0, kFresh = 1;  // states: nothing can match any more; a piece begins

  // What the next character does. Where `match`, what was taken before it is a match; the last match counts.
  struct Move {
    uint16_t next;
    bool match;
    bool cut;  // the piece ends before the character
  };

  // False, with the reason in `error`. Of several expressions all but the last must be runs of different characters.
  bool build(const std::vector<SplitExpression>& expressions, std::string& error);

  // Whether matches cover every text.
  bool covers() const;

  const CodePointClasses& classes() const { return classes_; }
  size_t states() const { return moves_.size() / (classes_.size() + 1); }
  uint8_t end() const { return static_cast<uint8_t>(classes_.size()); }  // the class of the end of the text
  const Move& move(uint16_t state, uint8_t of_class) const { return moves_[state * (classes_.size() + 1) + of_class]; }
  // The state in which a search goes on within a piece whose `taken` last characters are of the zone of `of_class`.
  uint16_t gap_state(uint8_t of_class, uint32_t taken) const;
  // At most so many characters of its zone are in a piece; 0: any number.
  uint32_t zone_limit(uint8_t of_class) const { return zones_[zone_of_[of_class]].limit; }

 private:
  friend class SplitAutomatonBuilder;
  struct Zone {
    uint32_t set, limit;            // at most so many characters in a piece; 0: any number
    std::vector<uint16_t> resumed;  // by characters taken: the state to search on from
  };

  CodePointClasses classes_;
  std::vector<Zone> zones_;       // the last one: all other characters
  std::vector<uint8_t> zone_of_;  // by class
  std::vector<Move> moves_;
};

// Words one at a time, for any automaton and text in linear time.
class SplitScanner {
 public:
  SplitScanner(const SplitAutomaton& automaton, std::string_view text) : automaton_(automaton), text_(text) {}

  // The end of the word that begins at `begin`, where a word does begin.
  size_t word_end(size_t begin);

 private:
  // The end of the match that begins at `at`, or `at` when there is none.
  size_t match_end(uint16_t state, size_t at);
  uint8_t class_at(size_t at, size_t& next) const;

  const SplitAutomaton& automaton_;
  std::string_view text_;
  std::unordered_set<uint64_t> hopeless_;  // places and states from which no match is reached, of one place in 64
  std::vector<uint64_t> trail_;
};

}  // namespace ettin
