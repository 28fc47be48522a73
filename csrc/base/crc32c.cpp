#include "base/crc32c.h"

#include <array>
#include <cstring>

#include "base/cpu.h"

#if defined(ETTIN_X86)
#include "base/crc32c_fold.h"
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace ettin {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78u;  // reflected
constexpr uint32_t kOne = 0x80000000u;         // x^0, reflected

struct Tables {
  std::array<std::array<uint32_t, 256>, 8> bytes{};
  std::array<uint32_t, 64> powers{};  // x^(2^k)
};

constexpr uint32_t multiply(uint32_t a, uint32_t b) noexcept {
  uint32_t product = 0;
  for (uint32_t bit = kOne; bit != 0; bit >>= 1) {
    if (a & bit) product ^= b;
    b = (b & 1) ? (b >> 1) ^ kPolynomial : b >> 1;
  }
  return product;
}

constexpr Tables make_tables() noexcept {
  Tables tables;
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value & 1) ? (value >> 1) ^ kPolynomial : value >> 1;
    tables.bytes[0][i] = value;
  }
  for (size_t k = 1; k < 8; ++k)
    for (size_t i = 0; i < 256; ++i) {
      const uint32_t last = tables.bytes[k - 1][i];
      tables.bytes[k][i] = (last >> 8) ^ tables.bytes[0][last & 255];
    }
  tables.powers[0] = kOne >> 1;
  for (size_t k = 1; k < 64; ++k) tables.powers[k] = multiply(tables.powers[k - 1], tables.powers[k - 1]);
  return tables;
}

const Tables tables = make_tables();

// x^(8 n) modulo the polynomial.
uint32_t byte_shift(uint64_t n) noexcept {
  uint32_t result = kOne;
  for (size_t k = 3; n != 0 && k < 64; ++k, n >>= 1)
    if (n & 1) result = multiply(tables.powers[k], result);
  return result;
}

#if defined(ETTIN_X86)
const InstructionSet kCrc32c = choose("crc32c", {InstructionSet::kSse42, InstructionSet::kAvx512Vbmi});

constexpr size_t kLane = 8192;  // three lanes hide the latency of the instruction

__attribute__((target("sse4.2"))) uint64_t one_lane(uint64_t crc, const char* data, size_t size) noexcept {
  uint64_t word = 0;
  for (; size >= 8; data += 8, size -= 8) {
    std::memcpy(&word, data, 8);
    crc = _mm_crc32_u64(crc, word);
  }
  for (; size != 0; ++data, --size) crc = _mm_crc32_u8(static_cast<uint32_t>(crc), static_cast<uint8_t>(*data));
  return crc;
}

__attribute__((target("sse4.2"))) uint32_t hardware(uint32_t crc, const char* data, size_t size) noexcept {
  static const uint32_t shift_one = byte_shift(kLane);
  static const uint32_t shift_two = byte_shift(2 * kLane);
  uint64_t a = crc ^ 0xFFFFFFFFu;
  for (; size >= 3 * kLane; data += 3 * kLane, size -= 3 * kLane) {
    uint64_t b = 0, c = 0, word_a = 0, word_b = 0, word_c = 0;
    for (size_t i = 0; i < kLane; i += 8) {
      std::memcpy(&word_a, data + i, 8);
      std::memcpy(&word_b, data + kLane + i, 8);
      std::memcpy(&word_c, data + 2 * kLane + i, 8);
      a = _mm_crc32_u64(a, word_a);
      b = _mm_crc32_u64(b, word_b);
      c = _mm_crc32_u64(c, word_c);
    }
    a = multiply(shift_two, static_cast<uint32_t>(a)) ^ multiply(shift_one, static_cast<uint32_t>(b)) ^ c;
  }
  return static_cast<uint32_t>(one_lane(a, data, size)) ^ 0xFFFFFFFFu;
}

ETTIN_FOLD_TARGET uint32_t fold_all(uint32_t crc, const char* data, size_t size) noexcept {
  return crc32c_fold(crc, data, size, [](const __m512i&, size_t) {});
}
#endif

}  // namespace

uint32_t crc32c_portable(uint32_t crc, const void* data, size_t size) noexcept {
  const auto* bytes = static_cast<const uint8_t*>(data);
  crc = ~crc;
  for (; size >= 8; bytes += 8, size -= 8) {
    uint32_t low = 0, high = 0;
    std::memcpy(&low, bytes, 4);
    std::memcpy(&high, bytes + 4, 4);
    low ^= crc;
    crc = tables.bytes[7][low & 255] ^ tables.bytes[6][(low >> 8) & 255] ^ tables.bytes[5][(low >> 16) & 255] ^
          tables.bytes[4][low >> 24] ^ tables.bytes[3][high & 255] ^ tables.bytes[2][(high >> 8) & 255] ^
          tables.bytes[1][(high >> 16) & 255] ^ tables.bytes[0][high >> 24];
  }
  for (; size != 0; ++bytes, --size) crc = (crc >> 8) ^ tables.bytes[0][(crc ^ *bytes) & 255];
  return ~crc;
}

uint32_t crc32c(uint32_t crc, const void* data, size_t size) noexcept {
#if defined(ETTIN_X86)
  const auto* from = static_cast<const char*>(data);
  if (size >= 2 * kFoldStep && kCrc32c == InstructionSet::kAvx512Vbmi) {
    crc = fold_all(crc, from, size);
    from += size / kFoldStep * kFoldStep;
    size %= kFoldStep;
  }
  if (kCrc32c != InstructionSet::kPortable) return hardware(crc, from, size);
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
  const auto* bytes = static_cast<const uint8_t*>(data);
  uint32_t value = ~crc;
  uint64_t word = 0;
  for (; size >= 8; bytes += 8, size -= 8) {
    std::memcpy(&word, bytes, 8);
    value = __crc32cd(value, word);
  }
  for (; size != 0; ++bytes, --size) value = __crc32cb(value, *bytes);
  return ~value;
#endif
  return crc32c_portable(crc, data, size);
}

const FoldFactors& fold_factors() noexcept {
  constexpr size_t distance = 256;  // bytes
  static const FoldFactors factors{uint64_t{byte_shift(distance + 4)} << 1, uint64_t{byte_shift(distance - 4)} << 1};
  return factors;
}

uint32_t crc32c_combine(uint32_t crc_a, uint32_t crc_b, uint64_t size_b) noexcept {
  return multiply(byte_shift(size_b), crc_a) ^ crc_b;
}

}  // namespace ettin
