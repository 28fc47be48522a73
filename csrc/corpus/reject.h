// Why a record is not in the corpus. The numbers are stored in journals; names are those of the manifest.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ettin {

enum class Reject : uint8_t {
  kInvalidUtf8 = 0,
  kByteOrderMark = 1,
  kInvalidJson = 2,
  kMissingKey = 3,
  kNotAString = 4,
  kTooLong = 5,
  kSpecialToken = 6,
  kTruncated = 7,
  kTemplateSpecials = 8,
  kInvalidIds = 9,
  kRaggedRow = 10,
  kNone = 255,
};

constexpr size_t kRejectKinds = 11;

inline const char* reject_name(Reject kind) noexcept {
  constexpr const char* names[kRejectKinds] = {"invalid_utf8",      "byte_order_mark", "invalid_json",  "missing_key",
                                               "not_a_string",      "too_long",        "special_token", "truncated",
                                               "template_specials", "invalid_ids",     "ragged_row"};
  const auto number = static_cast<size_t>(kind);
  return number < kRejectKinds ? names[number] : "none";
}

}  // namespace ettin
