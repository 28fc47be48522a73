// CRC-32C (Castagnoli, RFC 3720): checksum of every input and output of a corpus. Combinable, so pieces are
// checked in parallel and joined in order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ettin {

// Checksum of `size` bytes that follow bytes with checksum `crc` (0 at the start).
uint32_t crc32c(uint32_t crc, const void* data, size_t size) noexcept;

// Checksum of A followed by B, from the checksum of each and the length of B. O(log size_b).
uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t size_b) noexcept;

// The table-driven form that machines without the instruction use; exposed so that tests compare the two.
uint32_t crc32c_portable(uint32_t crc, const void* data, size_t size) noexcept;

// x^2080 and x^2016 modulo the polynomial, as carry-less multiplication of reflected numbers needs them.
struct FoldFactors {
  uint64_t low, high;
};
const FoldFactors& fold_factors() noexcept;

}  // namespace ettin
