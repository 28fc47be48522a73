// Vectors of kLanes floats and small matrix products on them. Included inside a namespace that defines kLanes (floats
// of a vector) and kTileVectors (vectors of a row of a product that stay in registers), where the compiler may use
// them.

using Vector = float __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
using Bits = int32_t __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
using HalfBits = uint16_t __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));

// Unrolled early, so that arrays of sums become registers.
#if defined(__clang__)
#define ETTIN_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ETTIN_UNROLL _Pragma("GCC unroll 8")
#endif

static ETTIN_INLINE Vector load(const float* from) { return *reinterpret_cast<const Vector*>(from); }
static ETTIN_INLINE void store(float* to, Vector x) { *reinterpret_cast<Vector*>(to) = x; }
static ETTIN_INLINE Vector all(float x) { return x - Vector{}; }
static ETTIN_INLINE Vector larger(Vector a, Vector b) { return a > b ? a : b; }

static ETTIN_INLINE Vector load(const uint16_t* from) {
  const HalfBits half = *reinterpret_cast<const HalfBits*>(from);
  return reinterpret_cast<Vector>(__builtin_convertvector(half, Bits) << 16);
}

// As to_bfloat16.
static ETTIN_INLINE void store(uint16_t* to, Vector x) {
  const Bits bits = reinterpret_cast<Bits>(x);
  const Bits rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  *reinterpret_cast<HalfBits*>(to) = __builtin_convertvector(rounded, HalfBits);
}

// 2^x within 2e-7 of its value for x <= 0; 2^-126 below.
static ETTIN_INLINE Vector power_of_two(Vector x) {
  x = larger(x, all(-126.0f));
  const Vector shifted = x + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const Vector rest = x - (shifted - 12582912.0f);
  Vector value = all(1.535336188e-4f);
  value = value * rest + 1.339887440e-3f;
  value = value * rest + 9.618437357e-3f;
  value = value * rest + 5.550332471e-2f;
  value = value * rest + 2.402264791e-1f;
  value = value * rest + 6.931472029e-1f;
  value = value * rest + 1.0f;
  return reinterpret_cast<Vector>(reinterpret_cast<Bits>(value) + (reinterpret_cast<Bits>(shifted) << 23));
}

// The vector with lanes i and i ^ distance exchanged.
template <int Distance>
static ETTIN_INLINE Vector exchanged(Vector x) {
  Bits lanes;
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lane ^ Distance;
#if defined(__clang__)
  Vector moved;
  for (int lane = 0; lane < kLanes; ++lane) moved[lane] = x[lane ^ Distance];
  return moved;
#else
  return __builtin_shuffle(x, lanes);
#endif
}

static ETTIN_INLINE float sum_of(Vector x) {
  if constexpr (kLanes > 8) x += exchanged<8>(x);
  if constexpr (kLanes > 4) x += exchanged<4>(x);
  x += exchanged<2>(x);
  return (x + exchanged<1>(x))[0];
}

static ETTIN_INLINE float largest_of(Vector x) {
  if constexpr (kLanes > 8) x = larger(x, exchanged<8>(x));
  if constexpr (kLanes > 4) x = larger(x, exchanged<4>(x));
  x = larger(x, exchanged<2>(x));
  return larger(x, exchanged<1>(x))[0];
}

// One matrix product target = left x right, or target += left x right.
struct Product {
  const float* left;
  int64_t left_row, left_step;  // strides of the rows of the result and of the summed index
  const float* right;
  int64_t right_step;
  float* target;
  int64_t target_row;
  int64_t steps;
};

template <int Rows, int Columns, bool Add>
static void product_tile(const Product& p, int64_t row, int64_t column) {
  const float* left = p.left + row * p.left_row;
  const float* right = p.right + column;
  float* target = p.target + row * p.target_row + column;
  Vector sums[Rows][Columns];
  ETTIN_UNROLL
  for (int r = 0; r < Rows; ++r) ETTIN_UNROLL
  for (int c = 0; c < Columns; ++c) sums[r][c] = Add ? load(target + r * p.target_row + c * kLanes) : Vector{};
  for (int64_t step = 0; step < p.steps; ++step) {
    Vector across[Columns];
    ETTIN_UNROLL
    for (int c = 0; c < Columns; ++c) across[c] = load(right + c * kLanes);
    ETTIN_UNROLL
    for (int r = 0; r < Rows; ++r) {
      const Vector down = all(left[r * p.left_row]);
      ETTIN_UNROLL
      for (int c = 0; c < Columns; ++c) sums[r][c] += down * across[c];
    }
    left += p.left_step;
    right += p.right_step;
  }
  ETTIN_UNROLL
  for (int r = 0; r < Rows; ++r) ETTIN_UNROLL
  for (int c = 0; c < Columns; ++c) store(target + r * p.target_row + c * kLanes, sums[r][c]);
}

// Rows of a tile of a product: 6 x kTileVectors sums and kTileVectors + 1 operands fill the registers.
constexpr int kTileRows = 6;

template <int Columns, bool Add>
static void product_rows(const Product& p, int64_t row, int64_t rows, int64_t column) {
  switch (rows) {
    case 1: return product_tile<1, Columns, Add>(p, row, column);
    case 2: return product_tile<2, Columns, Add>(p, row, column);
    case 3: return product_tile<3, Columns, Add>(p, row, column);
    case 4: return product_tile<4, Columns, Add>(p, row, column);
    case 5: return product_tile<5, Columns, Add>(p, row, column);
    default: return product_tile<6, Columns, Add>(p, row, column);
  }
}

// Some rows, at most kTileRows, and columns [first, last), multiples of kLanes.
template <bool Add>
static void multiply(const Product& p, int64_t row, int64_t rows, int64_t first, int64_t last) {
  for (; first < last; first += kTileVectors * kLanes) {
    const int64_t left = (last - first) / kLanes;
    if (left >= kTileVectors)
      product_rows<kTileVectors, Add>(p, row, rows, first);
    else if (left == 1)
      product_rows<1, Add>(p, row, rows, first);
    else if (left == 2)
      product_rows<2, Add>(p, row, rows, first);
    else
      product_rows<3, Add>(p, row, rows, first);
  }
}
