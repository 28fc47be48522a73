// Why a record is not in the corpus. The numbers are stored in journals; names are those of the manifest.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ettin {

enum class Reject : uint8_t {
  invalid_utf8 = 0,
  byte_order_mark = 1,
  invalid_json = 2,
  missing_key = 3,
  not_a_string = 4,
  too_long = 5,
  special_token = 6,
  truncated = 7,
  template_specials = 8,
  invalid_ids = 9,
  none = 255,
};

constexpr size_t reject_kinds = 10;

inline const char* reject_name(Reject kind) noexcept {
  constexpr const char* names[reject_kinds] = {
      "invalid_utf8", "byte_order_mark", "invalid_json", "missing_key",       "not_a_string",
      "too_long",     "special_token",   "truncated",    "template_specials", "invalid_ids"};
  const auto number = static_cast<size_t>(kind);
  return number < reject_kinds ? names[number] : "none";
}

}  // namespace ettin
