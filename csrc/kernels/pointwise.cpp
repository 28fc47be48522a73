#include "kernels/pointwise.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-math-errno", "no-trapping-math")
#endif

namespace ettin {
namespace {

// Numbers handled together: as floats they stay in the first-level cache.
constexpr size_t kTile = 512;

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

ETTIN_DISPATCH void widen(const uint16_t* half, float* full, size_t size) {
  for (size_t i = 0; i < size; ++i) full[i] = from_bits(static_cast<uint32_t>(half[i]) << 16);
}

// To the nearest bfloat16, ties to even.
ETTIN_DISPATCH void narrow(const float* full, uint16_t* half, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const uint32_t bits = to_bits(full[i]);
    half[i] = static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
  }
}

// e^x for x <= 0 within 2e-7 of its value; 0 below -87.
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

// Share of a normal distribution below x, within 1.5e-7 (Abramowitz and Stegun 7.1.26); `density` = exp(-x^2 / 2).
inline float share_below(float x, float density) {
  const float size = x > 0.0f ? x : -x;
  const float t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * size);
  float tail = 1.061405429f;
  tail = tail * t - 1.453152027f;
  tail = tail * t + 1.421413741f;
  tail = tail * t - 0.284496736f;
  tail = tail * t + 0.254829592f;
  tail = 0.5f * tail * t * density;
  return x > 0.0f ? 1.0f - tail : tail;
}

ETTIN_DISPATCH void gate(const float* __restrict first, const float* __restrict second, float* __restrict output,
                         size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const float x = first[i];
    output[i] = x * share_below(x, exponential(-0.5f * x * x)) * second[i];
  }
}

ETTIN_DISPATCH void ungate(const float* __restrict first, const float* __restrict second,
                           const float* __restrict gradient, float* __restrict first_gradient,
                           float* __restrict second_gradient, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const float x = first[i], density = exponential(-0.5f * x * x), below = share_below(x, density);
    first_gradient[i] = gradient[i] * second[i] * (below + x * density * 0.39894228f);
    second_gradient[i] = gradient[i] * x * below;
  }
}

ETTIN_DISPATCH void turn(float* __restrict first, float* __restrict second, const float* __restrict cosine,
                         const float* __restrict sine, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const float a = first[i], b = second[i], s = sine[i];
    first[i] = a * cosine[i] - b * s;
    second[i] = b * cosine[i] + a * s;
  }
}

// Numbers of a tensor as floats: where they lie, or widened into a buffer.
struct Reader {
  bool bfloat16;
  const float* read(const void* from, size_t offset, size_t size, float* buffer) const {
    if (!bfloat16) return static_cast<const float*>(from) + offset;
    widen(static_cast<const uint16_t*>(from) + offset, buffer, size);
    return buffer;
  }
  float* target(void* to, size_t offset, float* buffer) const {
    return bfloat16 ? buffer : static_cast<float*>(to) + offset;
  }
  void write(const float* buffer, void* to, size_t offset, size_t size) const {
    if (bfloat16) narrow(buffer, static_cast<uint16_t*>(to) + offset, size);
  }
};

// Calls work(first, last) for equal parts of [0, count), each on its own thread.
template <typename Work>
void share(size_t count, int threads, const Work& work) {
  const size_t parts = std::max<size_t>(1, std::min<size_t>(std::max(threads, 1), count));
  std::vector<std::thread> helpers;
  for (size_t part = 1; part < parts; ++part)
    helpers.emplace_back([&, part] { work(part * count / parts, (part + 1) * count / parts); });
  work(0, count / parts);
  for (auto& helper : helpers) helper.join();
}

// Calls work(row, column, size) for every tile of the rows.
template <typename Work>
void each_tile(const GatedRows& rows, const Work& work) {
  share(rows.rows, rows.threads, [&](size_t first, size_t last) {
    for (size_t row = first; row < last; ++row)
      for (size_t column = 0; column < rows.width; column += kTile)
        work(row, column, std::min(kTile, rows.width - column));
  });
}

void rotate_head(const Rotation& r, size_t token, size_t start) {
  const Reader numbers{r.bfloat16};
  const size_t half = r.head_size / 2;
  float one[kTile], other[kTile];
  for (size_t i = 0; i < half; i += kTile) {
    const size_t size = std::min(kTile, half - i), first = start + i, second = start + half + i;
    float* a = const_cast<float*>(numbers.read(r.projection, first, size, one));
    float* b = const_cast<float*>(numbers.read(r.projection, second, size, other));
    turn(a, b, r.cosine + token * half + i, r.sine + token * half + i, size);
    numbers.write(one, r.projection, first, size);
    numbers.write(other, r.projection, second, size);
  }
}

}  // namespace

void rotate(const Rotation& rotation) {
  share(rotation.tokens, rotation.threads, [&](size_t first, size_t last) {
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
    gate(first, second, numbers.target(output, to, result), size);
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
    ungate(first, second, from, numbers.target(gated_gradient, at, first_result),
           numbers.target(gated_gradient, beside, second_result), size);
    numbers.write(first_result, gated_gradient, at, size);
    numbers.write(second_result, gated_gradient, beside, size);
  });
}

}  // namespace ettin
