// The regular expressions by which tokenizers split text, parsed into programs. The subset: literals, classes, \s, \d
// and \p{..} of general categories, groups, alternatives, greedy quantifiers, (?i:..) around ASCII, and a look ahead at
// one character. What Oniguruma, the library's engine, makes of them is what a program does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ettin {

constexpr uint32_t kLastCodePoint = 0x10FFFF;

struct CodePointSet {
  uint32_t categories = 0;                            // a bit a Category
  std::vector<std::pair<uint32_t, uint32_t>> ranges;  // first and last
  bool negated = false;

  bool operator==(const CodePointSet& other) const {
    return categories == other.categories && ranges == other.ranges && negated == other.negated;
  }
};

// A step of a program. Where both ways of a fork lead to a match, that of `next` counts.
struct SplitStep {
  enum Kind : uint8_t { kTake, kFork, kLook, kMatch } kind;
  bool negated;          // of kLook: the next character must not be of the set; the end of the text is of none
  uint32_t set;          // of kTake and kLook
  uint32_t next, other;  // places of steps
};

struct SplitExpression {
  std::vector<CodePointSet> sets;
  std::vector<SplitStep> steps;
  uint32_t first = 0;  // place of the step to begin with
  // Whether it is a run of one set, C+ or C{1,n}, and n, or 0 for any length.
  bool is_run = false;
  uint32_t run_limit = 0;
};

// False, with the place and the reason in `error`, for an expression outside of the subset. `pattern`: valid UTF-8.
bool parse_split_expression(std::string_view pattern, SplitExpression& expression, std::string& error);

}  // namespace ettin
