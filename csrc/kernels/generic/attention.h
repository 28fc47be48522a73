// Attention of one head of one segment: tiles of queries and keys, with the softmax carried along.
// Only tiles within reach are computed. Included inside a namespace, behind vectors.h.

constexpr float kMasked = -1e30f;
constexpr float kLog2E = 1.44269504f, kLn2 = 0.69314718f;

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// What each query of the segment sees; the bounds never decrease from query to query.
struct Sight {
  int64_t diagonal, left, right, keys;

  explicit Sight(const AttentionPart& part)
      : diagonal(part.segment.diagonal),
        left(part.segment.left < 0 ? INT64_C(1) << 40 : part.segment.left),
        right(part.segment.right < 0 ? INT64_C(1) << 40 : part.segment.right),
        keys(part.segment.keys) {}

  int64_t first(int64_t query) const { return most(0, least(keys, query + diagonal - left)); }
  int64_t last(int64_t query) const { return most(0, least(keys, query + diagonal + right + 1)); }
};

// Some queries against some keys.
struct Tile {
  Sight sight;
  int64_t query, rows;  // first query in the segment
  int64_t key;          // first key in the segment

  int64_t first(int64_t row) const { return least(kTileKeys, most(0, sight.first(query + row) - key)); }
  int64_t last(int64_t row) const { return most(0, least(kTileKeys, sight.last(query + row) - key)); }
  // Whole vectors that hold the keys of the rows [row, row + count).
  int64_t first_column(int64_t row) const { return first(row) / kLanes * kLanes; }
  int64_t last_column(int64_t row, int64_t count) const { return round_up(last(row + count - 1), kLanes); }
  // Every row sees all keys.
  bool whole() const { return first(rows - 1) == 0 && last(0) == kTileKeys; }
  // Rows that see a key of [low, high): [first_row, last_row).
  int64_t first_row(int64_t low) const { return most(0, key + low - sight.diagonal - sight.right - query); }
  int64_t last_row(int64_t high) const { return least(rows, key + high - sight.diagonal + sight.left - query); }
};

static inline int64_t padded(const AttentionPart& part) {
  return round_up(static_cast<int64_t>(part.problem.head_size), kHeadStep);
}

// Rows of a tensor as scaled floats, each filled up with zeros to `size`.
template <typename Number>
static void pack(const Number* from, int64_t token, int64_t tokens, int64_t used, int64_t size, float scale,
                 float* to) {
  const int64_t even = used / kLanes * kLanes;
  for (int64_t t = 0; t < tokens; ++t, from += token, to += size) {
    for (int64_t i = 0; i < even; i += kLanes) store(to + i, load(from + i) * scale);
    for (int64_t i = even; i < used; ++i) to[i] = as_float(from[i]) * scale;
    for (int64_t i = used; i < size; ++i) to[i] = 0.0f;
  }
}

template <typename Number>
static void unpack(const float* from, int64_t size, int64_t tokens, int64_t used, float scale, Number* to,
                   int64_t token) {
  const int64_t even = used / kLanes * kLanes;
  for (int64_t t = 0; t < tokens; ++t, from += size, to += token) {
    for (int64_t i = 0; i < even; i += kLanes) store(to + i, load(from + i) * scale);
    for (int64_t i = even; i < used; ++i) put(to + i, from[i] * scale);
  }
}

static void zero(float* from, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(from + i, Vector{});
}

// Rows [tokens][size] to tiles [size][kTileKeys], in squares that fit the first-level cache's lines.
static void transpose(const float* rows, int64_t tokens, int64_t size, float* columns) {
  constexpr int64_t kSquare = 16;
  for (int64_t tile = 0; tile < tokens; tile += kTileKeys, rows += kTileKeys * size, columns += kTileKeys * size)
    for (int64_t key = 0; key < kTileKeys; key += kSquare)
      for (int64_t i = 0; i < size; i += kSquare)
        for (int64_t column = i; column < i + kSquare; ++column)
          for (int64_t row = key; row < key + kSquare; ++row)
            columns[column * kTileKeys + row] = rows[row * size + column];
}

template <typename Number>
static void pack_keys(const AttentionPart& part, const void* tensor, float* rows, float* columns) {
  const AttentionTensors& in = part.problem.inputs;
  const int64_t size = padded(part), keys = part.segment.keys, filled = round_up(keys, kTileKeys);
  const Number* from = static_cast<const Number*>(tensor) + part.segment.first_key * in.key_token +
                       static_cast<int64_t>(part.head) * in.key_head;
  pack(from, in.key_token, keys, static_cast<int64_t>(part.problem.head_size), size, 1.0f, rows);
  zero(rows + keys * size, (filled - keys) * size);
  if (columns != nullptr) transpose(rows, filled, size, columns);
}

template <typename Number>
static const Number* query_row(const AttentionPart& part, int64_t query) {
  const AttentionTensors& in = part.problem.inputs;
  return static_cast<const Number*>(in.query) + (part.segment.first_query + query) * in.query_token +
         static_cast<int64_t>(part.head) * in.query_head;
}

// Offset of a query in tensors [tokens][heads][head_size], and the stride of their tokens.
static inline int64_t output_offset(const AttentionPart& part, int64_t query) {
  return ((part.segment.first_query + query) * static_cast<int64_t>(part.problem.heads) +
          static_cast<int64_t>(part.head)) *
         static_cast<int64_t>(part.problem.head_size);
}
static inline int64_t output_token(const AttentionPart& part) {
  return static_cast<int64_t>(part.problem.heads * part.problem.head_size);
}
static inline float* sums_of(const AttentionPart& part, float* sums, int64_t query) {
  return sums + part.head * part.problem.tokens + part.segment.first_query + query;
}

// Scores are kept in units of log 2, so that the softmax is a power of two.
static inline float score_scale(const AttentionPart& part) {
  return kLog2E / __builtin_sqrtf(static_cast<float>(part.problem.head_size));
}

// target[row][key] = left[row] . key for the keys that any row of a group of rows sees.
static void score_rows(const Tile& tile, const float* left, const float* columns, int64_t size, float* target) {
  const Product p{left, size, 1, columns, kTileKeys, target, kTileKeys, size};
  for (int64_t row = 0; row < tile.rows; row += kTileRows) {
    const int64_t rows = least(kTileRows, tile.rows - row);
    multiply<false>(p, row, rows, tile.first_column(row), tile.last_column(row, rows));
  }
}

// target[row] += sum over keys of weights[row][key] * by_key[key], and nothing for keys that no row of the group sees.
static void add_rows(const Tile& tile, const float* weights, const float* by_key, int64_t size, float* target) {
  for (int64_t row = 0; row < tile.rows; row += kTileRows) {
    const int64_t rows = least(kTileRows, tile.rows - row);
    const int64_t first = tile.first(row), last = tile.last(row + rows - 1);
    if (first >= last) continue;
    const Product p{weights + first, kTileKeys, 1, by_key + first * size, size, target, size, last - first};
    multiply<true>(p, row, rows, 0, size);
  }
}

// target[key] += sum over rows of weights[row][key] * by_row[row].
static void add_columns(const Tile& tile, const float* weights, const float* by_row, int64_t size, float* target) {
  const int64_t keys = least(kTileKeys, tile.sight.keys - tile.key);
  for (int64_t key = 0; key < keys; key += kTileRows) {
    const int64_t count = least(kTileRows, keys - key);
    const int64_t first = tile.first_row(key), last = tile.last_row(key + count);
    if (first >= last) continue;
    const Product p{weights + first * kTileKeys, 1, kTileKeys, by_row + first * size, size, target, size, last - first};
    multiply<true>(p, key, count, 0, size);
  }
}

static ETTIN_INLINE Vector masked(Vector x, int64_t column, int64_t first, int64_t last, float otherwise) {
  Bits index;
  for (int lane = 0; lane < kLanes; ++lane) index[lane] = lane;
  const Bits low = Bits{} + static_cast<int32_t>(first - column), high = Bits{} + static_cast<int32_t>(last - column);
  return ((index >= low) & (index < high)) ? x : all(otherwise);
}

// Turns the scores of a row into weights exp2(score - largest); rescales what has been summed up before.
template <bool Whole>
static void soften(const Tile& tile, int64_t row, int64_t low, int64_t high, const AttentionScratch& scratch,
                   int64_t size) {
  float* scores = scratch.scores + row * kTileKeys;
  const int64_t first = tile.first(row), last = tile.last(row);
  Vector top = all(kMasked);
  for (int64_t column = low; column < high; column += kLanes) {
    Vector score = load(scores + column);
    if (!Whole) score = masked(score, column, first, last, kMasked);
    top = larger(top, score);
  }
  const float before = scratch.largest[row], found = largest_of(top);
  const float largest = found > before ? found : before;
  Vector sum{};
  for (int64_t column = low; column < high; column += kLanes) {
    Vector weight = power_of_two(load(scores + column) - largest);
    if (!Whole) weight = masked(weight, column, first, last, 0.0f);
    store(scores + column, weight);
    sum += weight;
  }
  if (largest == before) {
    scratch.total[row] += sum_of(sum);
    return;
  }
  const float keep = power_of_two(all(before - largest))[0];
  scratch.largest[row] = largest;
  scratch.total[row] = scratch.total[row] * keep + sum_of(sum);
  float* output = scratch.output + row * size;
  for (int64_t i = 0; i < size; i += kLanes) store(output + i, load(output + i) * keep);
}

static void soften_tile(const Tile& tile, const AttentionScratch& scratch, int64_t size) {
  if (tile.whole()) {
    for (int64_t row = 0; row < tile.rows; ++row) soften<true>(tile, row, 0, kTileKeys, scratch, size);
    return;
  }
  for (int64_t row = 0; row < tile.rows; ++row) {
    const int64_t group = row / kTileRows * kTileRows, rows = least(kTileRows, tile.rows - group);
    soften<false>(tile, row, tile.first_column(group), tile.last_column(group, rows), scratch, size);
  }
}

// Calls work(tile) for every tile of some queries that they see something of.
template <typename Work>
static ETTIN_INLINE void each_tile(const Sight& sight, int64_t query, int64_t rows, const Work& work) {
  const int64_t stop = sight.last(query + rows - 1);
  for (int64_t key = sight.first(query) / kTileKeys * kTileKeys; key < stop; key += kTileKeys)
    work(Tile{sight, query, rows, key});
}

template <typename Number>
static void forward_as(const AttentionPart& part, const AttentionScratch& scratch, void* output, float* sums) {
  const Sight sight(part);
  const int64_t size = padded(part), used = static_cast<int64_t>(part.problem.head_size);
  pack_keys<Number>(part, part.problem.inputs.key, scratch.keys, scratch.key_columns);
  pack_keys<Number>(part, part.problem.inputs.value, scratch.values, nullptr);
  for (int64_t query = 0; query < part.segment.queries; query += kTileQueries) {
    const int64_t rows = least(kTileQueries, part.segment.queries - query);
    pack(query_row<Number>(part, query), part.problem.inputs.query_token, rows, used, size, score_scale(part),
         scratch.query);
    zero(scratch.output, rows * size);
    for (int64_t row = 0; row < rows; ++row) scratch.largest[row] = kMasked, scratch.total[row] = 0.0f;
    each_tile(sight, query, rows, [&](const Tile& tile) {
      score_rows(tile, scratch.query, scratch.key_columns + tile.key * size, size, scratch.scores);
      soften_tile(tile, scratch, size);
      add_rows(tile, scratch.scores, scratch.values + tile.key * size, size, scratch.output);
    });
    Number* to = static_cast<Number*>(output) + output_offset(part, query);
    for (int64_t row = 0; row < rows; ++row) {
      unpack(scratch.output + row * size, size, 1, used, 1.0f / scratch.total[row], to + row * output_token(part), 0);
      sums_of(part, sums, query)[row] = scratch.largest[row] + __builtin_log2f(scratch.total[row]);
    }
  }
}

// Scores to weights, and the weights' gradients to those of the scores; both are zero where nothing is seen.
template <bool Whole>
static void harden(const Tile& tile, int64_t row, int64_t low, int64_t high, const AttentionScratch& scratch) {
  float* scores = scratch.scores + row * kTileKeys;
  float* others = scratch.others + row * kTileKeys;
  const float sum = scratch.largest[row], shared = scratch.total[row];
  const int64_t first = tile.first(row), last = tile.last(row);
  if (!Whole) {
    for (int64_t column = 0; column < low; column += kLanes)
      store(scores + column, Vector{}), store(others + column, Vector{});
    for (int64_t column = high; column < kTileKeys; column += kLanes)
      store(scores + column, Vector{}), store(others + column, Vector{});
  }
  for (int64_t column = low; column < high; column += kLanes) {
    Vector weight = power_of_two(load(scores + column) - sum);
    if (!Whole) weight = masked(weight, column, first, last, 0.0f);
    store(scores + column, weight);
    store(others + column, weight * (load(others + column) - shared));
  }
}

static void harden_tile(const Tile& tile, const AttentionScratch& scratch) {
  if (tile.whole()) {
    for (int64_t row = 0; row < tile.rows; ++row) harden<true>(tile, row, 0, kTileKeys, scratch);
    return;
  }
  for (int64_t row = 0; row < tile.rows; ++row) {
    const int64_t group = row / kTileRows * kTileRows, rows = least(kTileRows, tile.rows - group);
    const int64_t low = tile.first_column(group), high = most(low, tile.last_column(group, rows));
    harden<false>(tile, row, low, high, scratch);
  }
}

// Queries, gradients and softmax sums of a tile; `total` becomes output . gradient of each query.
template <typename Number>
static void begin_backward(const AttentionPart& part, const AttentionScratch& scratch,
                           const AttentionGradients& gradients, int64_t query, int64_t rows) {
  const int64_t size = padded(part), used = static_cast<int64_t>(part.problem.head_size);
  const int64_t token = output_token(part), offset = output_offset(part, query);
  pack(query_row<Number>(part, query), part.problem.inputs.query_token, rows, used, size, score_scale(part),
       scratch.query);
  pack(static_cast<const Number*>(gradients.output_gradient) + offset, token, rows, used, size, 1.0f,
       scratch.output_gradient);
  pack(static_cast<const Number*>(gradients.output) + offset, token, rows, used, size, 1.0f, scratch.output);
  zero(scratch.query_gradient, rows * size);
  for (int64_t row = 0; row < rows; ++row) {
    Vector product{};
    for (int64_t i = row * size; i < (row + 1) * size; i += kLanes)
      product += load(scratch.output + i) * load(scratch.output_gradient + i);
    scratch.total[row] = sum_of(product);
    scratch.largest[row] = sums_of(part, const_cast<float*>(gradients.sums), query)[row];
  }
}

template <typename Number>
static void end_backward(const AttentionPart& part, const AttentionScratch& scratch,
                         const AttentionGradients& gradients) {
  const AttentionTensors& in = part.problem.inputs;
  const int64_t size = padded(part), used = static_cast<int64_t>(part.problem.head_size), keys = part.segment.keys;
  const int64_t offset = part.segment.first_key * in.key_token + static_cast<int64_t>(part.head) * in.key_head;
  unpack(scratch.key_gradients, size, keys, used, kLn2, static_cast<Number*>(gradients.key) + offset, in.key_token);
  unpack(scratch.value_gradients, size, keys, used, 1.0f, static_cast<Number*>(gradients.value) + offset, in.key_token);
}

template <typename Number>
static void backward_as(const AttentionPart& part, const AttentionScratch& scratch,
                        const AttentionGradients& gradients) {
  const Sight sight(part);
  const AttentionTensors& in = part.problem.inputs;
  const int64_t size = padded(part), used = static_cast<int64_t>(part.problem.head_size);
  const int64_t filled = round_up(part.segment.keys, kTileKeys);
  pack_keys<Number>(part, in.key, scratch.keys, scratch.key_columns);
  pack_keys<Number>(part, in.value, scratch.values, scratch.value_columns);
  zero(scratch.key_gradients, filled * size);
  zero(scratch.value_gradients, filled * size);
  for (int64_t query = 0; query < part.segment.queries; query += kTileQueries) {
    const int64_t rows = least(kTileQueries, part.segment.queries - query);
    begin_backward<Number>(part, scratch, gradients, query, rows);
    each_tile(sight, query, rows, [&](const Tile& tile) {
      const int64_t at = tile.key * size;
      score_rows(tile, scratch.query, scratch.key_columns + at, size, scratch.scores);
      score_rows(tile, scratch.output_gradient, scratch.value_columns + at, size, scratch.others);
      harden_tile(tile, scratch);
      add_rows(tile, scratch.others, scratch.keys + at, size, scratch.query_gradient);
      add_columns(tile, scratch.scores, scratch.output_gradient, size, scratch.value_gradients + at);
      add_columns(tile, scratch.others, scratch.query, size, scratch.key_gradients + at);
    });
    Number* to =
        static_cast<Number*>(gradients.query) + (query_row<Number>(part, query) - static_cast<const Number*>(in.query));
    unpack(scratch.query_gradient, size, rows, used, score_scale(part) * kLn2, to, in.query_token);
  }
  end_backward<Number>(part, scratch, gradients);
}

static void forward(const AttentionPart& part, const AttentionScratch& scratch, void* output, float* sums) {
  if (part.problem.inputs.bfloat16)
    forward_as<uint16_t>(part, scratch, output, sums);
  else
    forward_as<float>(part, scratch, output, sums);
}

static void backward(const AttentionPart& part, const AttentionScratch& scratch, const AttentionGradients& gradients) {
  if (part.problem.inputs.bfloat16)
    backward_as<uint16_t>(part, scratch, gradients);
  else
    backward_as<float>(part, scratch, gradients);
}
