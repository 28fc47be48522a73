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

// The draws of 64 consecutive channels share 16 counters, as those of tokens do: channel i uses word i / 16 of counter
// first[0] + i % 16.
static void channel_draws(const uint32_t* first, const uint32_t* key, uint32_t* __restrict draws) {
  uint32_t c0[16], c1[16], c2[16], c3[16];
  for (uint32_t lane = 0; lane < 16; ++lane) {
    c0[lane] = first[0] + lane;
    c1[lane] = first[1];
    c2[lane] = first[2];
    c3[lane] = first[3];
  }
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int lane = 0; lane < 16; ++lane) {
      const uint64_t product0 = uint64_t{kPhiloxMultiplier0} * c0[lane];
      const uint64_t product1 = uint64_t{kPhiloxMultiplier1} * c2[lane];
      c0[lane] = static_cast<uint32_t>(product1 >> 32) ^ c1[lane] ^ k0;
      c1[lane] = static_cast<uint32_t>(product1);
      c2[lane] = static_cast<uint32_t>(product0 >> 32) ^ c3[lane] ^ k1;
      c3[lane] = static_cast<uint32_t>(product0);
    }
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  for (int lane = 0; lane < 16; ++lane) {
    draws[lane] = c0[lane];
    draws[16 + lane] = c1[lane];
    draws[32 + lane] = c2[lane];
    draws[48 + lane] = c3[lane];
  }
}

// output = x * scale where the draw is not below `dropped_below`, else 0.
static void drop(const uint32_t* __restrict draws, uint32_t dropped_below, float scale, const float* __restrict x,
                 float* __restrict output, size_t size) {
  for (size_t i = 0; i < size; ++i) output[i] = draws[i] < dropped_below ? 0.0f : x[i] * scale;
}

static void add(const float* __restrict x, float* __restrict output, size_t size) {
  for (size_t i = 0; i < size; ++i) output[i] += x[i];
}
