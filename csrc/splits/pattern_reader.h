// The characters of a split expression, and what stands for a set of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "splits/expression.h"

namespace ettin {

// Every `bool` function returns false once it failed; `fail` keeps the reason.
class PatternReader {
 public:
  explicit PatternReader(std::string_view pattern);

  // What is wrong and where.
  std::string error() const { return reason_ + " at character " + std::to_string(std::min(at_, codes_.size()) + 1); }

 protected:
  static constexpr uint32_t kNothing = ~0u;  // the character behind the end

  bool fail(const char* reason) {
    reason_ = reason;
    return false;
  }
  size_t size() const { return codes_.size(); }
  bool at_end() const { return at_ >= codes_.size(); }
  uint32_t peek(size_t ahead = 0) const { return code(at_ + ahead); }
  uint32_t code(size_t at) const { return at < codes_.size() ? codes_[at] : kNothing; }
  bool take(std::string_view expected);
  bool number(uint32_t most, uint32_t& value);

  // One character or what stands for several; `special` ones mean something else in this place.
  bool character(CodePointSet& set, bool& single, std::string_view special);
  // What stands behind a '['.
  bool brackets(CodePointSet& set);

  size_t at_ = 0;

 private:
  bool escape(CodePointSet& set, bool& single);
  bool escaped(CodePointSet& set, uint32_t code, bool& single);  // of one character
  bool property(CodePointSet& set, bool all_but);

  std::vector<uint32_t> codes_;
  std::string reason_;
};

}  // namespace ettin
