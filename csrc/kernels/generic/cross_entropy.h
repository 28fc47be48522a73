// Runs of logits. Compiled once for each instruction set: included inside a namespace, behind bfloat16.h.

// Partial results held at once: several of the widest registers, since each takes part in one operation at a time.
constexpr size_t kLanes = 64;

static float largest_of(const float* logits, const float* bias, size_t size, float start) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = start;
  const size_t even = size / kLanes * kLanes;
  for (size_t i = 0; i < even; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float value = logits[i + lane] + bias[i + lane];
      lanes[lane] = value > lanes[lane] ? value : lanes[lane];
    }
  for (size_t i = even; i < size; ++i) {
    const float value = logits[i] + bias[i];
    lanes[0] = value > lanes[0] ? value : lanes[0];
  }
  // By halves: lane after lane, each would wait for the one before.
  for (size_t half = kLanes / 2; half > 0; half /= 2)
    for (size_t lane = 0; lane < half; ++lane)
      lanes[lane] = lanes[lane + half] > lanes[lane] ? lanes[lane + half] : lanes[lane];
  return lanes[0];
}

static float exponential_sum(const float* logits, const float* bias, size_t size, float largest) {
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

static void probabilities(float* logits, const float* bias, size_t size, float log_sum) {
  for (size_t i = 0; i < size; ++i) logits[i] = exponential(logits[i] + bias[i] - log_sum);
}

static void add(const float* from, float* to, size_t size) {
  for (size_t i = 0; i < size; ++i) to[i] += from[i];
}
