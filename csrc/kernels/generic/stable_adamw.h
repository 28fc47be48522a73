// Runs of floats of an optimizer step. Compiled once for each instruction set: included inside a namespace.

// Partial sums held at once, so that the compiler can use the widest registers without reordering a sum.
constexpr size_t kLanes = 16;
// Floats added in single precision before the partial sums move to double.
constexpr size_t kRun = 1024;

static ETTIN_INLINE double add_lanes(const float* lanes) {
  double sum = 0.0;
  for (size_t i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

static double second_run(const float* __restrict gradient, float* __restrict second, size_t size, float beta,
                         float floor) {
  double sum = 0.0;
  const float rest = 1.0f - beta;
  for (size_t start = 0; start < size; start += kRun) {
    const size_t stop = size - start > kRun ? start + kRun : size;
    float ratios[kRun];
    for (size_t i = start; i < stop; ++i) {
      const float square = gradient[i] * gradient[i];
      const float moment = beta * second[i] + rest * square;
      second[i] = moment;
      ratios[i - start] = square / (moment > floor ? moment : floor);
    }
    const size_t size_here = stop - start, even = size_here / kLanes * kLanes;
    float lanes[kLanes] = {};
    for (size_t i = 0; i < even; i += kLanes)
      for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += ratios[i + lane];
    for (size_t i = even; i < size_here; ++i) lanes[i - even] += ratios[i];
    sum += add_lanes(lanes);
  }
  return sum;
}

static void apply_run(float* __restrict parameter, const float* __restrict gradient, float* __restrict first,
                      const float* __restrict second, size_t size, float beta, float epsilon, float rate, float keep) {
  const float rest = 1.0f - beta;
  for (size_t i = 0; i < size; ++i) {
    const float moment = beta * first[i] + rest * gradient[i];
    first[i] = moment;
    parameter[i] = keep * parameter[i] - rate * moment / (__builtin_sqrtf(second[i]) + epsilon);
  }
}

static double square_run(const float* gradient, size_t size) {
  double sum = 0.0;
  for (size_t start = 0; start < size; start += kRun) {
    const size_t stop = size - start > kRun ? start + kRun : size;
    const size_t even = start + (stop - start) / kLanes * kLanes;
    float lanes[kLanes] = {};
    for (size_t i = start; i < even; i += kLanes)
      for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += gradient[i + lane] * gradient[i + lane];
    for (size_t i = even; i < stop; ++i) lanes[i - even] += gradient[i] * gradient[i];
    sum += add_lanes(lanes);
  }
  return sum;
}
