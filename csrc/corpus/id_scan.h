// One pass over stored ids: their checksum and the largest of them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ettin {

// Continues `crc` over `size` bytes of ids of `itemsize` bytes, 2 or 4, and raises `largest` to the largest of them.
// Negative ids come out above 2^31.
void scan_ids(const void* ids, size_t size, uint32_t itemsize, uint32_t& crc, uint32_t& largest) noexcept;

// The same in plain code; exposed so that tests compare the two.
void scan_ids_portable(const void* ids, size_t size, uint32_t itemsize, uint32_t& crc, uint32_t& largest) noexcept;

}  // namespace ettin
