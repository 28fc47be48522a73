#include "splits/expression.h"

#include <algorithm>

#include "splits/pattern_reader.h"

namespace ettin {
namespace {

constexpr uint32_t kNone = ~0u;  // no node: reading failed
constexpr uint32_t kEndless = ~0u;
constexpr size_t kLongestPattern = 4096, kMostSets = 64, kMostRanges = 128, kMostSteps = 2000;
constexpr uint32_t kMostTimes = 64;
constexpr int kDeepest = 16;

// Pairs of letters for which case folding knows a single character, such as the ligature of "fi".
bool folds_together(uint32_t first, uint32_t second) {
  first |= 32;
  second |= 32;
  return (first == 's' && (second == 's' || second == 't')) ||
         (first == 'f' && (second == 'f' || second == 'i' || second == 'l'));
}

// Adds the other spellings of letters where case does not count; all of them are in ASCII.
void add_cases(CodePointSet& set) {
  const auto ranges = set.ranges;
  for (const auto& [first, last] : ranges) {
    for (uint32_t code = first; code <= last; ++code) {
      const uint32_t lower = code | 32;
      if (lower < 'a' || lower > 'z') continue;
      set.ranges.emplace_back(code ^ 32, code ^ 32);
      if (lower == 's') set.ranges.emplace_back(0x17F, 0x17F);
      if (lower == 'k') set.ranges.emplace_back(0x212A, 0x212A);
    }
  }
}

// Sorts the ranges and joins those that touch.
void normalize(CodePointSet& set) {
  std::sort(set.ranges.begin(), set.ranges.end());
  std::vector<std::pair<uint32_t, uint32_t>> joined;
  for (const auto& [first, last] : set.ranges) {
    if (!joined.empty() && first <= joined.back().second + 1)
      joined.back().second = std::max(joined.back().second, last);
    else
      joined.emplace_back(first, last);
  }
  set.ranges = joined;
}

struct Node {
  enum Kind : uint8_t { kSet, kLook, kSequence, kChoice, kRepeat };

  explicit Node(Kind kind) : kind(kind) {}

  Kind kind;
  bool negated = false;  // of a look
  bool empty = false;    // whether it may match nothing
  uint32_t set = 0, least = 0, most = 0;
  std::vector<uint32_t> parts;
};

// Reads an expression into nodes; every function returns the place of a node, or kNone once it failed.
class Parser : public PatternReader {
 public:
  Parser(std::string_view pattern, std::vector<CodePointSet>& sets) : PatternReader(pattern), sets_(sets) {}

  uint32_t parse() {
    if (size() > kLongestPattern) return none("it has more than 4,096 characters");
    const uint32_t root = choice(0);
    if (root == kNone) return kNone;
    if (!at_end()) return none("')' without '('");
    return nodes_[root].empty ? none("it may match nothing") : root;
  }

  const std::vector<Node>& nodes() const { return nodes_; }

 private:
  uint32_t none(const char* reason) {
    fail(reason);
    return kNone;
  }
  uint32_t add(Node node) {
    nodes_.push_back(std::move(node));
    return static_cast<uint32_t>(nodes_.size() - 1);
  }

  uint32_t choice(int depth) {
    if (depth > kDeepest) return none("groups nested too deeply");
    Node node(Node::kChoice);
    do {
      const uint32_t part = sequence(depth);
      if (part == kNone) return kNone;
      node.empty |= nodes_[part].empty;
      node.parts.push_back(part);
    } while (take("|"));
    return node.parts.size() == 1 ? node.parts[0] : add(node);
  }

  uint32_t sequence(int depth) {
    Node node(Node::kSequence);
    node.empty = true;
    while (!at_end() && peek() != '|' && peek() != ')') {
      const uint32_t part = repeated(depth);
      if (part == kNone) return kNone;
      node.empty &= nodes_[part].empty;
      node.parts.push_back(part);
    }
    return node.parts.size() == 1 ? node.parts[0] : add(node);
  }

  // An item with its quantifier.
  uint32_t repeated(int depth) {
    const uint32_t part = item(depth);
    if (part == kNone) return kNone;
    Node node(Node::kRepeat);
    if (!quantifier(node)) return kNone;
    if (node.most == 1 && node.least == 1) return part;
    if (nodes_[part].empty) return none("a quantifier behind what may match nothing");
    node.empty = node.least == 0;
    node.parts.push_back(part);
    return add(node);
  }

  bool quantifier(Node& node) {
    node.least = node.most = 1;
    if (take("?")) {
      node.least = 0;
    } else if (take("*")) {
      node.least = 0, node.most = kEndless;
    } else if (take("+")) {
      node.most = kEndless;
    } else if (take("{")) {
      if (!number(kMostTimes, node.least)) return false;
      node.most = node.least;
      if (take(",")) {
        node.most = kEndless;
        if (peek() != '}' && !number(kMostTimes, node.most)) return false;
      }
      if (!take("}")) return fail("a quantifier without '}'");
      if (node.most == 0 || node.least > node.most) return fail("a quantifier whose numbers make no sense");
    } else {
      return true;
    }
    const uint32_t next = peek();
    const bool another = next == '?' || next == '*' || next == '+' || next == '{';
    return !another || fail("a second quantifier: lazy and possessive ones are not reproduced");
  }

  uint32_t item(int depth) {
    if (take("(")) return group(depth);
    CodePointSet set;
    const size_t begin = at_;
    if (take("[")) {
      if (!brackets(set)) return kNone;
    } else if (bool single; !character(set, single, "^$.*+?{")) {
      return kNone;
    }
    normalize(set);
    if (folds_) {
      const bool ascii = !set.negated && !set.categories && set.ranges.back().second < 0x80;
      if (!ascii) return none("more than ASCII characters inside (?i:)");
      if (at_ > begin + 1 && set.ranges.size() == 1 && set.ranges[0].first == set.ranges[0].second)
        return none("an escape or a class of one character inside (?i:)");
      if (begin && folds_together(code(begin - 1), code(begin)))
        return none("letters inside (?i:) for which Unicode has a ligature");
      add_cases(set);
    }
    Node node(Node::kSet);
    return enter(set, node.set) ? add(node) : kNone;
  }

  bool enter(CodePointSet& set, uint32_t& place) {
    normalize(set);
    place = static_cast<uint32_t>(std::find(sets_.begin(), sets_.end(), set) - sets_.begin());
    if (place < sets_.size()) return true;
    ranges_ += set.ranges.size();
    if (place == kMostSets || ranges_ > kMostRanges) return fail("too many different classes");
    sets_.push_back(set);
    return true;
  }

  uint32_t group(int depth) {
    if (folds_) return none("a group inside (?i:)");
    if (take("?!")) return look(true);
    if (take("?=")) return look(false);
    if (take("?i:")) {
      if (folded_end_ && folded_end_ + 4 == at_) return none("two groups (?i:) beside each other");
      folds_ = true;
    } else if (!take("?:") && peek() == '?') {
      return none("a group of an unknown kind");
    }
    const uint32_t inside = choice(depth + 1);
    if (inside == kNone) return kNone;
    if (!take(")")) return none("'(' without ')'");
    if (folds_) folded_end_ = at_;
    folds_ = false;
    return inside;
  }

  // (?!C) or (?=C), for one character.
  uint32_t look(bool negated) {
    Node node(Node::kLook);
    node.negated = negated;
    node.empty = true;
    CodePointSet set;
    bool single;
    const bool read = take("[") ? brackets(set) : character(set, single, "^$.*+?{(|)");
    if (!read || !enter(set, node.set)) return kNone;
    return take(")") ? add(node) : none("a look ahead at more than one character");
  }

  std::vector<CodePointSet>& sets_;
  std::vector<Node> nodes_;
  size_t ranges_ = 0, folded_end_ = 0;
  bool folds_ = false;
};

// Turns nodes into steps, from the end to the beginning.
class Compiler {
 public:
  Compiler(const std::vector<Node>& nodes, std::vector<SplitStep>& steps) : nodes_(nodes), steps_(steps) {}

  // False where there are too many steps.
  bool compile(uint32_t root, uint32_t& first) {
    first = steps_of(root, add({SplitStep::kMatch, false, 0, 0, 0}));
    return steps_.size() <= kMostSteps;
  }

 private:
  uint32_t add(SplitStep step) {
    if (steps_.size() <= kMostSteps) steps_.push_back(step);
    return static_cast<uint32_t>(steps_.size() - 1);
  }

  // The first step of a node that goes on at `next`.
  uint32_t steps_of(uint32_t place, uint32_t next) {
    if (steps_.size() > kMostSteps) return 0;
    const Node& node = nodes_[place];
    switch (node.kind) {
      case Node::kSet: return add({SplitStep::kTake, false, node.set, next, 0});
      case Node::kLook: return add({SplitStep::kLook, node.negated, node.set, next, 0});
      case Node::kRepeat: return repeat(node, next);
      case Node::kSequence:
        for (size_t at = node.parts.size(); at-- > 0;) next = steps_of(node.parts[at], next);
        return next;
      case Node::kChoice: break;
    }
    uint32_t first = steps_of(node.parts.back(), next);
    for (size_t at = node.parts.size() - 1; at-- > 0;) first = fork(steps_of(node.parts[at], next), first);
    return first;
  }

  uint32_t repeat(const Node& node, uint32_t next) {
    const uint32_t behind = next;
    if (node.most == kEndless) {
      next = fork(0, behind);
      const uint32_t inside = steps_of(node.parts[0], next);
      steps_[next].next = inside;
    } else {
      for (uint32_t time = node.least; time < node.most; ++time) next = fork(steps_of(node.parts[0], next), behind);
    }
    for (uint32_t time = 0; time < node.least; ++time) next = steps_of(node.parts[0], next);
    return next;
  }

  uint32_t fork(uint32_t first, uint32_t second) { return add({SplitStep::kFork, false, 0, first, second}); }

  const std::vector<Node>& nodes_;
  std::vector<SplitStep>& steps_;
};

}  // namespace

bool parse_split_expression(std::string_view pattern, SplitExpression& expression, std::string& error) {
  Parser parser(pattern, expression.sets);
  const uint32_t root = parser.parse();
  if (root == kNone) {
    error = parser.error();
    return false;
  }
  if (!Compiler(parser.nodes(), expression.steps).compile(root, expression.first)) {
    error = "it takes more than 2,000 steps";
    return false;
  }
  const Node& node = parser.nodes()[root];
  const bool repeats_set = node.kind == Node::kRepeat && parser.nodes()[node.parts[0]].kind == Node::kSet;
  expression.is_run = node.kind == Node::kSet || (repeats_set && node.least == 1);
  expression.run_limit = node.kind == Node::kSet ? 1 : node.most == kEndless ? 0 : node.most;
  return true;
}

}  // namespace ettin
