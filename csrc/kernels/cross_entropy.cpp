#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-math-errno", "no-trapping-math")
#endif

namespace ettin {
namespace {

// Partial results held at once: several of the widest registers, since each takes part in one operation at a time.
constexpr size_t kLanes = 64;
// Columns handled together: their floats stay in the first-level cache between conversion and use.
constexpr size_t kTile = 2048;

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ETTIN_DISPATCH __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ETTIN_DISPATCH
#endif

inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// e^x for x <= 0 within 2e-7 of its value; 0 below -87. Plain arithmetic, so that loops over it become vector code.
inline float exponential(float x) {
  const float bounded = x > -87.0f ? x : -87.0f;
  const float shifted = bounded * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const float power = shifted - 12582912.0f;
  const float rest = (bounded - power * 0.693359375f) + power * 2.12194440e-4f;
  float value = 1.3888889e-3f;
  value = value * rest + 8.3333333e-3f;
  value = value * rest + 4.1666667e-2f;
  value = value * rest + 1.6666667e-1f;
  value = value * rest + 0.5f;
  value = value * rest + 1.0f;
  value = value * rest + 1.0f;
  const float scale = from_bits((to_bits(shifted) - 0x4B400000u + 127u) << 23);
  return x > -87.0f ? value * scale : 0.0f;
}

ETTIN_DISPATCH void widen(const uint16_t* half, float* full, size_t size) {
  for (size_t i = 0; i < size; ++i) full[i] = from_bits(static_cast<uint32_t>(half[i]) << 16);
}

// Rounds to the nearest bfloat16, ties to even. Gradients are finite or the step is dropped, so NaN needs no care.
ETTIN_DISPATCH void narrow(const float* full, uint16_t* half, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const uint32_t bits = to_bits(full[i]);
    half[i] = static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
  }
}

ETTIN_DISPATCH float largest_of(const float* logits, const float* bias, size_t size, float start) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = start;
  const size_t even = size / kLanes * kLanes;
  for (size_t i = 0; i < even; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float value = logits[i + lane] + bias[i + lane];
      lanes[lane] = value > lanes[lane] ? value : lanes[lane];
    }
  for (size_t i = even; i < size; ++i) lanes[0] = std::max(lanes[0], logits[i] + bias[i]);
  return *std::max_element(lanes, lanes + kLanes);
}

ETTIN_DISPATCH float exponential_sum(const float* logits, const float* bias, size_t size, float largest) {
  float lanes[kLanes] = {};
  const size_t even = size / kLanes * kLanes;
  for (size_t i = 0; i < even; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] += exponential(logits[i + lane] + bias[i + lane] - largest);
  for (size_t i = even; i < size; ++i) lanes[0] += exponential(logits[i] + bias[i] - largest);
  float sum = 0.0f;
  for (float lane : lanes) sum += lane;
  return sum;
}

ETTIN_DISPATCH void probabilities(float* logits, const float* bias, size_t size, float log_sum) {
  for (size_t i = 0; i < size; ++i) logits[i] = exponential(logits[i] + bias[i] - log_sum);
}

ETTIN_DISPATCH void add(const float* from, float* to, size_t size) {
  for (size_t i = 0; i < size; ++i) to[i] += from[i];
}

const float* tile_of(const LogitRows& rows, size_t row, size_t column, size_t size, float* buffer) {
  if (!rows.bfloat16) return static_cast<const float*>(rows.logits) + row * rows.columns + column;
  widen(static_cast<const uint16_t*>(rows.logits) + row * rows.columns + column, buffer, size);
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
    const float grown = largest_of(logits, rows.bias + column, size, top);
    total = total * exponential(top - grown) + exponential_sum(logits, rows.bias + column, size, grown);
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
    probabilities(tile, rows.bias + column, size, log_sum);
    if (mine >= column && mine < column + size) tile[mine - column] -= 1.0f;
    add(tile, bias_gradient + column, size);
    if (rows.bfloat16) narrow(tile, static_cast<uint16_t*>(rows.logits) + row * rows.columns + column, size);
  });
}

// Calls work(part, first, last) for equal parts of the rows, each on its own thread.
template <typename Work>
void share(const LogitRows& rows, size_t parts, const Work& work) {
  std::vector<std::thread> helpers;
  for (size_t part = 1; part < parts; ++part)
    helpers.emplace_back([&, part] { work(part, part * rows.rows / parts, (part + 1) * rows.rows / parts); });
  work(0, 0, rows.rows / parts);
  for (auto& helper : helpers) helper.join();
}

size_t parts_of(const LogitRows& rows) {
  return std::max<size_t>(1, std::min<size_t>(std::max(rows.threads, 1), rows.rows));
}

}  // namespace

void row_statistics(const LogitRows& rows, float* largest, float* sum, float* label) {
  share(rows, parts_of(rows), [&](size_t, size_t first, size_t last) {
    for (size_t row = first; row < last; ++row) statistics_of(rows, row, largest, sum, label);
  });
}

void row_gradients(const LogitRows& rows, const float* log_sum, float* bias_gradient) {
  const size_t parts = parts_of(rows);
  std::vector<std::vector<float>> sums(parts, std::vector<float>(rows.columns, 0.0f));
  share(rows, parts, [&](size_t part, size_t first, size_t last) {
    for (size_t row = first; row < last; ++row) gradients_of(rows, row, log_sum[row], sums[part].data());
  });
  for (const auto& sum : sums) add(sum.data(), bias_gradient, rows.columns);
}

}  // namespace ettin
