// Runs of numbers of the pointwise parts of a layer. Compiled once for each instruction set: included inside a
// namespace, behind bfloat16.h.

// Share of a normal distribution below x, within 1.5e-7 (Abramowitz and Stegun 7.1.26); `density` = exp(-x^2 / 2).
static ETTIN_INLINE float share_below(float x, float density) {
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

static void gate(const float* __restrict first, const float* __restrict second, float* __restrict output, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const float x = first[i];
    output[i] = x * share_below(x, exponential(-0.5f * x * x)) * second[i];
  }
}

static void ungate(const float* __restrict first, const float* __restrict second, const float* __restrict gradient,
                   float* __restrict first_gradient, float* __restrict second_gradient, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const float x = first[i], density = exponential(-0.5f * x * x), below = share_below(x, density);
    first_gradient[i] = gradient[i] * second[i] * (below + x * density * 0.39894228f);
    second_gradient[i] = gradient[i] * x * below;
  }
}

template <typename Number>
static void turn(Number* __restrict first, Number* __restrict second, const float* __restrict cosine,
                 const float* __restrict sine, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    const float a = as_float(first[i]), b = as_float(second[i]), s = sine[i];
    put(first + i, a * cosine[i] - b * s);
    put(second + i, b * cosine[i] + a * s);
  }
}
