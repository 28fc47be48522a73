// The inside of JSON strings: finding the end and undoing the escapes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ettin {

// First byte in [at, end) that ends a plain run of a string: a quote, a backslash or a control character; else `end`.
const char* json_run_end(const char* at, const char* end) noexcept;

// Copies the plain run at `at` to `to` and returns its end. `to` may be written up to 64 bytes past the run.
const char* json_copy_run(const char* at, const char* end, char* to) noexcept;

struct Unescaped {
  const char* end = nullptr;     // at the closing quote, or at the offending byte
  size_t size = 0;               // bytes written
  uint64_t lone_surrogates = 0;  // each written as U+FFFD
  const char* error = nullptr;   // null when the string is well formed
};

// Decodes the string whose first byte (after the quote) is `at` into `to`, which has room for the string and 64 bytes.
Unescaped json_unescape(const char* at, const char* end, char* to) noexcept;

}  // namespace ettin
