#include "splits/automaton.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "text/unicode.h"

namespace ettin {

// Finds the states: lists of steps in order of priority, the zone that the last character is of, and how many of it
// the piece has, where their number is limited.
class SplitAutomatonBuilder {
 public:
  SplitAutomatonBuilder(const SplitExpression& expression, SplitAutomaton& automaton)
      : expression_(expression), automaton_(automaton), classes_(automaton.classes_) {}

  bool build(std::string& error) {
    const uint32_t none = static_cast<uint32_t>(automaton_.zones_.size());
    number({{}, none, 0});
    number({{expression_.first}, none, 0});
    for (uint32_t zone = 0; zone < none; ++zone) {
      SplitAutomaton::Zone& known = automaton_.zones_[zone];
      for (uint32_t taken = 0; taken <= known.limit; ++taken) {
        known.resumed.push_back(number({{expression_.first}, zone, taken}));
      }
    }
    for (size_t at = 0; at < states_.size(); ++at) {
      if (states_.size() > SplitAutomaton::kMostStates) {
        error = "it takes more than 600 states";
        return false;
      }
      for (uint8_t of_class = 0; of_class <= automaton_.end(); ++of_class) {
        automaton_.moves_.push_back(move(State(states_[at]), of_class));
      }
    }
    return true;
  }

 private:
  struct State {
    std::vector<uint32_t> steps;
    uint32_t zone, taken;
    bool operator<(const State& other) const {
      return std::tie(steps, zone, taken) < std::tie(other.steps, other.zone, other.taken);
    }
  };

  uint16_t number(State state) {
    if (state.steps.empty()) state.zone = static_cast<uint32_t>(automaton_.zones_.size()), state.taken = 0;
    const auto added = numbers_.emplace(state, static_cast<uint16_t>(states_.size()));
    if (added.second) states_.push_back(std::move(state));
    return added.first->second;
  }

  SplitAutomaton::Move move(const State& state, uint8_t of_class) {
    const bool at_end = of_class == automaton_.end();
    const bool fresh = state.zone == automaton_.zones_.size();
    const uint32_t zone = at_end ? state.zone : automaton_.zone_of_[of_class];
    const uint32_t limit = at_end ? 0 : automaton_.zones_[zone].limit;
    const bool cut = at_end || (!fresh && (zone != state.zone || (limit && state.taken == limit)));
    State next{{}, zone, limit ? (fresh ? 1 : state.taken + 1) : 0};
    visited_.assign(expression_.steps.size(), false);
    bool match = false;
    for (const uint32_t step : state.steps) {
      if (match) break;
      follow(step, cut ? automaton_.end() : of_class, next.steps, match);
    }
    return {number(std::move(next)), match, cut};
  }

  // Follows a step, and what can be reached from it without a character, until a match or the taking of a character.
  void follow(uint32_t from, uint8_t of_class, std::vector<uint32_t>& taken, bool& match) {
    const auto has = [&](uint32_t set) { return of_class != automaton_.end() && classes_.in_set(of_class, set); };
    pending_.assign(1, from);
    while (!pending_.empty() && !match) {
      const uint32_t place = pending_.back();
      const SplitStep& step = expression_.steps[place];
      pending_.pop_back();
      if (visited_[place]) continue;
      visited_[place] = true;
      switch (step.kind) {
        case SplitStep::kMatch: match = true; break;
        case SplitStep::kLook:
          if (has(step.set) != step.negated) pending_.push_back(step.next);
          break;
        case SplitStep::kFork: pending_.insert(pending_.end(), {step.other, step.next}); break;
        case SplitStep::kTake:
          if (has(step.set) && std::find(taken.begin(), taken.end(), step.next) == taken.end())
            taken.push_back(step.next);
      }
    }
  }

  const SplitExpression& expression_;
  SplitAutomaton& automaton_;
  const CodePointClasses& classes_;
  std::vector<State> states_;
  std::map<State, uint16_t> numbers_;
  std::vector<bool> visited_;
  std::vector<uint32_t> pending_;
};

bool SplitAutomaton::build(const std::vector<SplitExpression>& expressions, std::string& error) {
  std::vector<CodePointSet> sets;
  for (const SplitExpression& expression : expressions) {
    const bool last = &expression == &expressions.back();
    if (!last && !expression.is_run) {
      error = "before the last Split only runs of one class, such as \\p{N}{1,3}, are reproduced";
      return false;
    }
    if (!last) zones_.push_back({static_cast<uint32_t>(sets.size()), expression.run_limit, {}});
    if (!last) sets.insert(sets.end(), expression.sets.begin(), expression.sets.end());
  }
  SplitExpression main = expressions.back();
  for (SplitStep& step : main.steps) step.set += static_cast<uint32_t>(sets.size());
  sets.insert(sets.end(), main.sets.begin(), main.sets.end());
  if (sets.size() > 64 || !classes_.build(sets)) {
    error = "it takes too many different classes";
    return false;
  }
  for (uint8_t of_class = 0; of_class < classes_.size(); ++of_class) {
    const auto inside = [&](const Zone& zone) { return classes_.in_set(of_class, zone.set); };
    if (std::count_if(zones_.begin(), zones_.end(), inside) > 1) {
      error = "Splits one after another that share characters are not reproduced";
      return false;
    }
    const auto zone = std::find_if(zones_.begin(), zones_.end(), inside);
    zone_of_.push_back(static_cast<uint8_t>(zone - zones_.begin()));
  }
  zones_.push_back({0, 0, {}});
  if (!SplitAutomatonBuilder(main, *this).build(error)) return false;
  for (uint8_t of_class = 0; of_class < classes_.size(); ++of_class) {
    // A word that begins inside of a counted piece would have to know the count.
    if (zones_[zone_of_[of_class]].limit < 2) continue;
    const uint16_t begun = move(kFresh, of_class).next;
    for (uint8_t next = 0; next <= end(); ++next) {
      const bool stays = next == end() || zone_of_[next] == zone_of_[of_class];
      const Move& follows = move(begun, next);
      if (stays && (follows.match || follows.next != kDead)) {
        error = "a Split into groups whose groups the next Split cuts again is not reproduced";
        return false;
      }
    }
  }
  return true;
}

uint16_t SplitAutomaton::gap_state(uint8_t of_class, uint32_t taken) const {
  const Zone& zone = zones_[zone_of_[of_class]];
  return zone.resumed[std::min(taken, zone.limit)];
}

bool SplitAutomaton::covers() const {
  std::vector<bool> seen(states());
  std::vector<uint16_t> pending{kFresh};  // states in which nothing has matched yet
  while (!pending.empty()) {
    const uint16_t state = pending.back();
    pending.pop_back();
    for (uint8_t of_class = 0; of_class <= end(); ++of_class) {
      const Move& made = move(state, of_class);
      if (made.match || (state == kFresh && of_class == end())) continue;
      if (made.next == kDead) return false;
      if (!seen[made.next]) pending.push_back(made.next);
      seen[made.next] = true;
    }
  }
  return true;
}

uint8_t SplitScanner::class_at(size_t at, size_t& next) const {
  if (at >= text_.size()) return next = at, automaton_.end();
  size_t length;
  const uint32_t code = utf8_decode(text_.data() + at, length);
  next = at + length;
  return automaton_.classes().of(code);
}

size_t SplitScanner::match_end(uint16_t state, size_t at) {
  constexpr size_t kPlaces = 64;
  size_t found = at;
  trail_.clear();
  for (size_t next;; at = next) {
    const SplitAutomaton::Move& move = automaton_.move(state, class_at(at, next));
    if (move.match) found = at, trail_.clear();
    if (move.next == SplitAutomaton::kDead) break;
    state = move.next;
    if (at / kPlaces == next / kPlaces) continue;
    const uint64_t key = static_cast<uint64_t>(next) * SplitAutomaton::kMostStates + state;
    if (hopeless_.count(key)) break;
    trail_.push_back(key);
  }
  hopeless_.insert(trail_.begin(), trail_.end());
  return found;
}

size_t SplitScanner::word_end(size_t begin) {
  const size_t end = match_end(SplitAutomaton::kFresh, begin);
  if (end > begin) return end;
  size_t at, next;
  uint8_t of_class = class_at(begin, at);
  for (uint32_t taken = 1; at < text_.size(); at = next, ++taken) {
    const uint16_t state = automaton_.gap_state(of_class, taken);
    of_class = class_at(at, next);
    if (automaton_.move(state, of_class).cut || match_end(state, at) > at) break;
  }
  return at;
}

}  // namespace ettin
