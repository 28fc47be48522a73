#include "kernels/cross_entropy.h"

#include <algorithm>
#include <vector>

#include "base/cpu.h"
#include "base/threads.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-math-errno", "no-trapping-math")
#endif
#include "kernels/numbers.h"

namespace ettin {
namespace {

// Columns handled together: their floats stay in the first-level cache between conversion and use.
constexpr size_t kTile = 2048;

namespace portable {
#include "kernels/generic/bfloat16.h"
#include "kernels/generic/cross_entropy.h"
}  // namespace portable
#if defined(ETTIN_X86)
ETTIN_BEGIN_TARGET(ETTIN_V3)
namespace avx2 {
#include "kernels/generic/bfloat16.h"
#include "kernels/generic/cross_entropy.h"
}  // namespace avx2
ETTIN_END_TARGET
ETTIN_BEGIN_TARGET(ETTIN_V4)
namespace avx512 {
#include "kernels/generic/bfloat16.h"
#include "kernels/generic/cross_entropy.h"
}  // namespace avx512
ETTIN_END_TARGET
#else
namespace avx2 = portable;
namespace avx512 = portable;
#endif

// The functions of one version.
struct CrossEntropy {
  decltype(&portable::read_bfloat16) read_bfloat16;
  decltype(&portable::write_bfloat16) write_bfloat16;
  decltype(&portable::largest_of) largest_of;
  decltype(&portable::exponential_sum) exponential_sum;
  decltype(&portable::probabilities) probabilities;
  decltype(&portable::add) add;
};

const CrossEntropy kernel = [] {
  const InstructionSet chosen = choose("cross_entropy", {InstructionSet::kAvx2, InstructionSet::kAvx512});
  if (chosen == InstructionSet::kAvx512)
    return CrossEntropy{avx512::read_bfloat16,   avx512::write_bfloat16, avx512::largest_of,
                        avx512::exponential_sum, avx512::probabilities,  avx512::add};
  if (chosen == InstructionSet::kAvx2)
    return CrossEntropy{avx2::read_bfloat16,   avx2::write_bfloat16, avx2::largest_of,
                        avx2::exponential_sum, avx2::probabilities,  avx2::add};
  return CrossEntropy{portable::read_bfloat16,   portable::write_bfloat16, portable::largest_of,
                      portable::exponential_sum, portable::probabilities,  portable::add};
}();

const float* tile_of(const LogitRows& rows, size_t row, size_t column, size_t size, float* buffer) {
  if (!rows.bfloat16) return static_cast<const float*>(rows.logits) + row * rows.columns + column;
  kernel.read_bfloat16(static_cast<const uint16_t*>(rows.logits) + row * rows.columns + column, buffer, size);
  return buffer;
}

template <typename Work>
void each_tile(size_t columns, const Work& work) {
  for (size_t column = 0; column < columns; column += kTile) work(column, std::min(kTile, columns - column));
}

// Column of the row's label here, or `columns` when it is elsewhere.
size_t label_column(const LogitRows& rows, size_t row) {
  const int64_t column = rows.labels[row] - rows.first_row;
  return column >= 0 && static_cast<size_t>(column) < rows.columns ? static_cast<size_t>(column) : rows.columns;
}

void statistics_of(const LogitRows& rows, size_t row, float* largest, float* sum, float* label) {
  float buffer[kTile];
  float top = -3.0e38f, total = 0.0f;
  each_tile(rows.columns, [&](size_t column, size_t size) {
    const float* logits = tile_of(rows, row, column, size, buffer);
    const float grown = kernel.largest_of(logits, rows.bias + column, size, top);
    total = total * exponential(top - grown) + kernel.exponential_sum(logits, rows.bias + column, size, grown);
    top = grown;
  });
  const size_t mine = label_column(rows, row);
  largest[row] = top;
  sum[row] = total;
  label[row] = mine < rows.columns ? *tile_of(rows, row, mine, 1, buffer) + rows.bias[mine] : 0.0f;
}

void gradients_of(const LogitRows& rows, size_t row, float log_sum, float* bias_gradient) {
  float buffer[kTile];
  const size_t mine = label_column(rows, row);
  each_tile(rows.columns, [&](size_t column, size_t size) {
    float* tile = const_cast<float*>(tile_of(rows, row, column, size, buffer));
    kernel.probabilities(tile, rows.bias + column, size, log_sum);
    if (mine >= column && mine < column + size) tile[mine - column] -= 1.0f;
    kernel.add(tile, bias_gradient + column, size);
    if (rows.bfloat16)
      kernel.write_bfloat16(tile, static_cast<uint16_t*>(rows.logits) + row * rows.columns + column, size);
  });
}

}  // namespace

void row_statistics(const LogitRows& rows, float* largest, float* sum, float* label) {
  in_parts(rows.rows, rows.threads, [&](size_t, size_t first, size_t last) {
    for (size_t row = first; row < last; ++row) statistics_of(rows, row, largest, sum, label);
  });
}

void row_gradients(const LogitRows& rows, const float* log_sum, float* bias_gradient) {
  std::vector<std::vector<float>> sums(threads_for(rows.rows, rows.threads), std::vector<float>(rows.columns, 0.0f));
  in_parts(rows.rows, rows.threads, [&](size_t part, size_t first, size_t last) {
    for (size_t row = first; row < last; ++row) gradients_of(rows, row, log_sum[row], sums[part].data());
  });
  for (const auto& sum : sums) kernel.add(sum.data(), bias_gradient, rows.columns);
}

}  // namespace ettin
