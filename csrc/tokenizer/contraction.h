// The endings "'s", "'re" and the like, which the split pattern of GPT-2 makes words.
#pragma once

#include <cstddef>
#include <string_view>

namespace ettin {

// End of the ending at `at` ("'" itself), or `at` when there is none.
inline size_t contraction_end(std::string_view text, size_t at) {
  const char first = at + 1 < text.size() ? text[at + 1] : '\0', second = at + 2 < text.size() ? text[at + 2] : '\0';
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  const bool longer =
      (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
  return longer ? at + 3 : at;
}

}  // namespace ettin
