#include "kernels/pointwise.h"

#include <algorithm>
#include <cstdint>

#include "base/cpu.h"
#include "base/philox.h"
#include "base/threads.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-math-errno", "no-trapping-math")
#endif
#include "kernels/numbers.h"

namespace ettin {
namespace {

// Numbers handled together: as floats they stay in the first-level cache.
constexpr size_t kTile = 512;

namespace portable {
#include "kernels/generic/bfloat16.h"
#include "kernels/generic/pointwise.h"
}  // namespace portable
#if defined(ETTIN_X86)
ETTIN_BEGIN_TARGET(ETTIN_V3)
namespace avx2 {
#include "kernels/generic/bfloat16.h"
#include "kernels/generic/pointwise.h"
}  // namespace avx2
ETTIN_END_TARGET
ETTIN_BEGIN_TARGET(ETTIN_V4)
namespace avx512 {
#include "kernels/generic/bfloat16.h"
#include "kernels/generic/pointwise.h"
}  // namespace avx512
ETTIN_END_TARGET
#else
namespace avx2 = portable;
namespace avx512 = portable;
#endif

// The functions of one version.
struct Pointwise {
  decltype(&portable::read_bfloat16) read_bfloat16;
  decltype(&portable::write_bfloat16) write_bfloat16;
  decltype(&portable::gate) gate;
  decltype(&portable::ungate) ungate;
  decltype(&portable::turn<float>) turn_floats;
  decltype(&portable::turn<uint16_t>) turn_bfloat16;
  decltype(&portable::channel_draws) channel_draws;
  decltype(&portable::drop) drop;
  decltype(&portable::add) add;
};

const Pointwise kernel = [] {
  const InstructionSet chosen = choose("pointwise", {InstructionSet::kAvx2, InstructionSet::kAvx512});
  if (chosen == InstructionSet::kAvx512)
    return Pointwise{avx512::read_bfloat16,  avx512::write_bfloat16, avx512::gate, avx512::ungate, avx512::turn<float>,
                     avx512::turn<uint16_t>, avx512::channel_draws,  avx512::drop, avx512::add};
  if (chosen == InstructionSet::kAvx2)
    return Pointwise{avx2::read_bfloat16,  avx2::write_bfloat16, avx2::gate, avx2::ungate, avx2::turn<float>,
                     avx2::turn<uint16_t>, avx2::channel_draws,  avx2::drop, avx2::add};
  return Pointwise{portable::read_bfloat16, portable::write_bfloat16, portable::gate,
                   portable::ungate,        portable::turn<float>,    portable::turn<uint16_t>,
                   portable::channel_draws, portable::drop,           portable::add};
}();

// Numbers of a tensor as floats: where they lie, or converted into a buffer.
struct Reader {
  bool bfloat16;
  const float* read(const void* from, size_t offset, size_t size, float* buffer) const {
    if (!bfloat16) return static_cast<const float*>(from) + offset;
    kernel.read_bfloat16(static_cast<const uint16_t*>(from) + offset, buffer, size);
    return buffer;
  }
  float* target(void* to, size_t offset, float* buffer) const {
    return bfloat16 ? buffer : static_cast<float*>(to) + offset;
  }
  void write(const float* buffer, void* to, size_t offset, size_t size) const {
    if (bfloat16) kernel.write_bfloat16(buffer, static_cast<uint16_t*>(to) + offset, size);
  }
};

// Calls work(row, column, size) for every tile of the rows.
template <typename Work>
void each_tile(const GatedRows& rows, const Work& work) {
  in_parts(rows.rows, rows.threads, [&](size_t, size_t first, size_t last) {
    for (size_t row = first; row < last; ++row)
      for (size_t column = 0; column < rows.width; column += kTile)
        work(row, column, std::min(kTile, rows.width - column));
  });
}

void rotate_head(const Rotation& r, size_t token, size_t start) {
  const size_t half = r.head_size / 2;
  const float *cosine = r.cosine + token * half, *sine = r.sine + token * half;
  if (r.bfloat16) {
    auto* first = static_cast<uint16_t*>(r.projection) + start;
    kernel.turn_bfloat16(first, first + half, cosine, sine, half);
  } else {
    auto* first = static_cast<float*>(r.projection) + start;
    kernel.turn_floats(first, first + half, cosine, sine, half);
  }
}

}  // namespace

void rotate(const Rotation& rotation) {
  in_parts(rotation.tokens, rotation.threads, [&](size_t, size_t first, size_t last) {
    for (size_t token = first; token < last; ++token)
      for (size_t head = 0; head < rotation.heads; ++head) {
        const size_t start = (token * rotation.heads + head) * 3 * rotation.head_size;
        rotate_head(rotation, token, start);
        rotate_head(rotation, token, start + rotation.head_size);
      }
  });
}

void gated_gelu(const GatedRows& rows, void* output) {
  const Reader numbers{rows.bfloat16};
  each_tile(rows, [&](size_t row, size_t column, size_t size) {
    float one[kTile], other[kTile], result[kTile];
    const size_t at = row * 2 * rows.width + column, to = row * rows.width + column;
    const float* first = numbers.read(rows.gated, at, size, one);
    const float* second = numbers.read(rows.gated, at + rows.width, size, other);
    kernel.gate(first, second, numbers.target(output, to, result), size);
    numbers.write(result, output, to, size);
  });
}

void gated_gelu_backward(const GatedRows& rows, const void* gradient, void* gated_gradient) {
  const Reader numbers{rows.bfloat16};
  each_tile(rows, [&](size_t row, size_t column, size_t size) {
    float one[kTile], other[kTile], upstream[kTile], first_result[kTile], second_result[kTile];
    const size_t at = row * 2 * rows.width + column, beside = at + rows.width;
    const float* first = numbers.read(rows.gated, at, size, one);
    const float* second = numbers.read(rows.gated, beside, size, other);
    const float* from = numbers.read(gradient, row * rows.width + column, size, upstream);
    kernel.ungate(first, second, from, numbers.target(gated_gradient, at, first_result),
                  numbers.target(gated_gradient, beside, second_result), size);
    numbers.write(first_result, gated_gradient, at, size);
    numbers.write(second_result, gated_gradient, beside, size);
  });
}

void drop(const Dropout& dropout, const void* residual, const void* x, void* output) {
  constexpr size_t kGroup = 64, kCounters = 16;
  const Reader numbers{dropout.bfloat16};
  const uint32_t key[2] = {static_cast<uint32_t>(dropout.key), static_cast<uint32_t>(dropout.key >> 32)};
  in_parts(dropout.tokens, dropout.threads, [&](size_t, size_t first, size_t last) {
    uint32_t draws[kTile];
    float one[kTile], other[kTile], result[kTile];
    for (size_t token = first; token < last; ++token) {
      const uint64_t place = static_cast<uint64_t>(dropout.places[token]);
      for (size_t column = 0; column < dropout.channels; column += kTile) {
        const size_t size = std::min(kTile, dropout.channels - column), at = token * dropout.channels + column;
        for (size_t group = 0; group < size; group += kGroup) {
          const uint32_t counter[4] = {
              dropout.layer << 16 | static_cast<uint32_t>((column + group) / kGroup * kCounters),
              static_cast<uint32_t>(place), static_cast<uint32_t>(place >> 32), dropout.step};
          kernel.channel_draws(counter, key, draws + group);
        }
        float* target = numbers.target(output, at, result);
        kernel.drop(draws, dropout.dropped_below, dropout.scale, numbers.read(x, at, size, one), target, size);
        if (residual != nullptr) kernel.add(numbers.read(residual, at, size, other), target, size);
        numbers.write(result, output, at, size);
      }
    }
  });
}

}  // namespace ettin
