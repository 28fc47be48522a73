#include "splits/stream.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace ettin {
namespace {

constexpr size_t kMostRows = 4000;

// What is known of the text before a character.
struct Known {
  enum Kind : uint8_t {
    kStart,  // a word starts here
    kFirst,  // a word's first character was before, and nothing matches yet
    kOne,    // the last match ended before the last character, and may grow
    kMany,   // the last match, or the word's start, is farther away
    kLost,   // the table does not tell
  } kind;
  uint16_t state = SplitAutomaton::kFresh;
  uint8_t last = 0;      // class of the last character, of kFirst and kOne
  uint16_t resumed = 0;  // of kFirst: the state to search on from, should the character be a gap
  uint8_t taken = 0;     // of kFirst: characters that its piece has, as far as they count
  bool in_gap = false;   // of kFirst: whether it goes on with a gap, so that it has not been said to start a word
  uint16_t outer = 0;    // where the word is supposed: the state of the match before it, which may still grow

  bool operator<(const Known& other) const {
    const auto all = [](const Known& known) {
      return std::tie(known.kind, known.state, known.last, known.resumed, known.taken, known.in_gap, known.outer);
    };
    return all(*this) < all(other);
  }
};

struct Step {
  Known next;
  uint8_t flags;
};

class StreamBuilder {
 public:
  explicit StreamBuilder(const SplitAutomaton& automaton) : automaton_(automaton) {}

  // What a character of a class says; `of_class` may be the end of the text.
  Step step(const Known& known, uint8_t of_class) const {
    if (known.kind == Known::kLost) return {known, SplitStream::kLeaves};
    if (known.kind == Known::kStart) return begin(of_class);
    if (known.outer != SplitAutomaton::kDead) return suppose(known, of_class);
    const SplitAutomaton::Move& move = automaton_.move(known.state, of_class);
    const uint8_t pending = known.in_gap ? SplitStream::kStartsBefore : 0;
    if (pending && !automaton_.classes().is_ascii(known.last) && (move.match || move.next)) return lost();
    if (move.next != SplitAutomaton::kDead) return go_on(known, move, of_class, pending);
    if (move.match) return with(begin(of_class), pending);
    if (known.kind == Known::kFirst) return stay_in_gap(known, of_class);
    if (known.kind == Known::kMany || !automaton_.classes().is_ascii(known.last)) return lost();
    // The match ended before the last character, with which a word starts.
    return with(step(first(known.last), of_class), SplitStream::kStartsBefore);
  }

  // Leaves out what makes no difference: where the last match ended, when that is never asked.
  Known simplify(Known known) const {
    const bool first = known.kind == Known::kFirst && !known.in_gap;
    if (!first && known.kind != Known::kOne) return known;
    for (uint8_t of_class = 0; of_class <= automaton_.end(); ++of_class) {
      const SplitAutomaton::Move& move = automaton_.move(known.state, of_class);
      if (!move.match && (!first || move.next == SplitAutomaton::kDead)) return known;
    }
    Known simple{Known::kMany, known.state};
    simple.outer = known.outer;
    return simple;
  }

 private:
  // The number of characters that a piece has, up to where it no longer counts.
  uint8_t counted(uint8_t of_class, uint32_t taken) const {
    return static_cast<uint8_t>(std::min(taken, automaton_.zone_limit(of_class)));
  }
  static Step lost() { return {{Known::kLost}, SplitStream::kLeaves}; }
  static Step with(Step step, uint8_t flags) {
    step.flags |= flags;
    return step;
  }

  // A word of which the first character is read.
  Known first(uint8_t of_class) const {
    return {Known::kFirst, automaton_.move(SplitAutomaton::kFresh, of_class).next, of_class,
            automaton_.gap_state(of_class, 1), counted(of_class, 1)};
  }
  Step begin(uint8_t of_class) const {
    if (of_class == automaton_.end()) return {{Known::kStart}, 0};
    return {first(of_class), SplitStream::kStarts};
  }

  Step go_on(const Known& known, const SplitAutomaton::Move& move, uint8_t of_class, uint8_t pending) const {
    if (move.match) return {{Known::kOne, move.next, of_class}, pending};
    if (known.in_gap) return lost();
    if (known.kind == Known::kOne && automaton_.classes().is_ascii(known.last)) {
      Step step = this->step(first(known.last), of_class);
      step.next.outer = move.next;
      if (!step.flags) return with(step, SplitStream::kStartsBefore);
    }
    return {{Known::kMany, move.next}, 0};
  }

  // A character behind the start of a word that is one only if the match before it does not grow.
  Step suppose(Known known, uint8_t of_class) const {
    const SplitAutomaton::Move& outer = automaton_.move(known.outer, of_class);
    known.outer = SplitAutomaton::kDead;
    Step inner = step(known, of_class);
    if (outer.next == SplitAutomaton::kDead && !outer.match) return inner;
    if (outer.next == SplitAutomaton::kDead) return with(begin(of_class), SplitStream::kRetracts);
    if (outer.match) return {{Known::kOne, outer.next, of_class}, SplitStream::kRetracts};
    if (inner.flags) return with(lost(), SplitStream::kRetracts);
    inner.next.outer = outer.next;
    return inner;
  }

  // The last character is a gap, and so may be the next one.
  Step stay_in_gap(const Known& known, uint8_t of_class) const {
    const SplitAutomaton::Move& move = automaton_.move(known.resumed, of_class);
    if (of_class == automaton_.end() || move.cut) return begin(of_class);
    const uint8_t taken = counted(of_class, known.taken + 1u);
    return {{Known::kFirst, move.next, of_class, automaton_.gap_state(of_class, taken), taken, true}, 0};
  }

  const SplitAutomaton& automaton_;
};

// Numbers columns of equal content alike: `column_of` by class, and `columns` in the order of their numbers.
void join_columns(const std::vector<std::vector<uint32_t>>& contents, std::vector<uint8_t>& column_of,
                  std::vector<size_t>& columns) {
  std::map<std::vector<uint32_t>, uint8_t> numbers;
  for (size_t of_class = 0; of_class < contents.size(); ++of_class) {
    const auto number = static_cast<uint8_t>(columns.size() + SplitStream::kCharacters);
    const auto added = numbers.emplace(contents[of_class], number);
    if (added.second) columns.push_back(of_class);
    column_of.push_back(added.first->second);
  }
}

}  // namespace

bool SplitStream::build(const SplitAutomaton& automaton) {
  automaton_ = automaton;
  const StreamBuilder builder(automaton_);
  std::vector<Known> rows{{Known::kStart}};
  std::map<Known, uint32_t> numbers{{rows[0], 0}};
  // By class: what every row makes of it, as row and flags.
  std::vector<std::vector<uint32_t>> contents(automaton_.end() + 1u);
  for (size_t row = 0; row < rows.size(); ++row) {
    if (rows.size() > kMostRows) return false;
    for (uint8_t of_class = 0; of_class <= automaton_.end(); ++of_class) {
      const Step step = builder.step(rows[row], of_class);
      const Known next = builder.simplify(step.next);
      const auto added = numbers.emplace(next, static_cast<uint32_t>(rows.size()));
      if (added.second) rows.push_back(next);
      contents[of_class].push_back(added.first->second << 8 | step.flags);
    }
  }
  std::vector<std::vector<uint32_t>> of_characters(contents.begin(), contents.end() - 1);
  std::vector<size_t> classes;
  join_columns(of_characters, columns_, classes);
  const size_t width = width_ = classes.size() + kCharacters;
  if (rows.size() * width > 0xFFFF) return false;
  for (size_t row = 0; row < rows.size(); ++row) {
    const auto add = [&](uint32_t content) {
      next_.push_back(static_cast<uint16_t>((content >> 8) * width));
      flags_.push_back(static_cast<uint8_t>(content));
    };
    add(static_cast<uint32_t>(row << 8));
    add(static_cast<uint32_t>(row << 8 | kDecodes));
    add(contents.back()[row] | (rows[row].outer ? kSupposes : 0));
    for (const size_t of_class : classes) add(contents[of_class][row]);
  }
  for (uint32_t byte = 0; byte < 256; ++byte) {
    byte_columns_[byte] = byte < 0x80 ? column(byte) : byte < 0xC0 ? kInside : kLead;
  }
  find_certain_starts();
  return true;
}

void SplitStream::find_certain_starts() {
  always_starts_.assign(width_ * width_, true);
  for (size_t row = 0; row < next_.size(); row += width_) {
    for (size_t before = kCharacters; before < width_; ++before) {
      if (flags_[row + before] & kLeaves) continue;
      for (size_t column = kCharacters; column < width_; ++column) {
        const size_t place = next_[row + before] + column, fresh = first_row_ + column;
        const bool starts = flags_[place] == kStarts && next_[place] == next_[fresh];
        if (!starts) always_starts_[before * width_ + column] = false;
      }
    }
  }
}

}  // namespace ettin
