// UTF-8 validation (RFC 3629: no surrogates, no overlong forms, nothing above U+10FFFF).
#pragma once

#include <cstddef>

namespace ettin {

// Offset of the first byte that is not part of valid UTF-8, or `size` when all of it is valid.
size_t utf8_valid_prefix(const char* data, size_t size) noexcept;

}  // namespace ettin
