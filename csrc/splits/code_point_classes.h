// The coarsest classes of code points that keep the members of some sets, and ASCII and the rest, apart.
#pragma once

#include <cstdint>
#include <vector>

#include "text/unicode.h"
#include "splits/expression.h"

namespace ettin {

class CodePointClasses {
 public:
  static constexpr size_t kMostClasses = 96;

  // False when there would be more than kMostClasses. At most 64 sets.
  bool build(const std::vector<CodePointSet>& sets);

  size_t size() const { return members_.size(); }
  uint8_t of(uint32_t code) const {
    return blocks_[index_[code / kUnicodeBlock] * kUnicodeBlock + code % kUnicodeBlock];
  }
  bool in_set(uint8_t of_class, uint32_t set) const { return members_[of_class] >> set & 1; }
  bool is_ascii(uint8_t of_class) const { return ascii_[of_class]; }

 private:
  std::vector<uint64_t> members_;  // by class, a bit a set
  std::vector<bool> ascii_;
  std::vector<uint16_t> index_;
  std::vector<uint8_t> blocks_;
};

}  // namespace ettin
