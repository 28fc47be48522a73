#include "corpus/id_scan.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "base/cpu.h"

#if defined(ETTIN_X86)
#include "base/crc32c_fold.h"
#endif

namespace ettin {
namespace {

constexpr size_t kNearBytes = 1 << 14;  // both passes over a piece find it in the first cache

template <typename Id>
uint32_t largest_of(const char* ids, size_t size) noexcept {
  Id top = 0;
  for (size_t i = 0; i < size; i += sizeof(Id)) {
    Id id;
    std::memcpy(&id, ids + i, sizeof(Id));
    top = std::max(top, id);
  }
  return top;
}

#if defined(ETTIN_X86)
const InstructionSet kIdScan = choose("id_scan", {InstructionSet::kAvx512Vbmi});

template <typename Id>
ETTIN_FOLD_TARGET uint32_t fold_ids(const char* ids, size_t size, uint32_t crc, uint32_t& largest) noexcept {
  __m512i tops[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
  crc = crc32c_fold(crc, ids, size, [&tops](const __m512i& next, size_t i) ETTIN_FOLD_TARGET {
    tops[i] = sizeof(Id) == 2 ? _mm512_max_epu16(tops[i], next) : _mm512_maskz_max_epu32(0xFFFF, tops[i], next);
  });
  char all[sizeof tops];
  std::memcpy(all, tops, sizeof tops);
  largest = std::max(largest, largest_of<Id>(all, sizeof all));
  return crc;
}
#endif

}  // namespace

void scan_ids_portable(const void* ids, size_t size, uint32_t itemsize, uint32_t& crc, uint32_t& largest) noexcept {
  const auto* from = static_cast<const char*>(ids);
  for (size_t at = 0; at < size; at += kNearBytes) {
    const size_t count = std::min(kNearBytes, size - at);
    crc = crc32c(crc, from + at, count);
    const uint32_t top =
        itemsize == 2 ? largest_of<uint16_t>(from + at, count) : largest_of<uint32_t>(from + at, count);
    largest = std::max(largest, top);
  }
}

void scan_ids(const void* ids, size_t size, uint32_t itemsize, uint32_t& crc, uint32_t& largest) noexcept {
#if defined(ETTIN_X86)
  if (size >= kFoldStep && kIdScan == InstructionSet::kAvx512Vbmi) {
    const auto* from = static_cast<const char*>(ids);
    crc = itemsize == 2 ? fold_ids<uint16_t>(from, size, crc, largest) : fold_ids<uint32_t>(from, size, crc, largest);
    const size_t done = size / kFoldStep * kFoldStep;
    ids = from + done;
    size -= done;
  }
#endif
  scan_ids_portable(ids, size, itemsize, crc, largest);
}

}  // namespace ettin
