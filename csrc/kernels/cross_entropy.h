// Cross-entropy of logit rows in host memory: statistics in one pass over each row, gradients in place in another.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ettin {

// Rows of logits without bias: float, or bfloat16 as its upper 16 bits.
struct LogitRows {
  void* logits;
  bool bfloat16;
  size_t rows, columns;
  const float* bias;      // columns
  const int64_t* labels;  // rows; a token id
  int64_t first_row;      // token id of column 0; labels outside [first_row, first_row + columns) are elsewhere
  int threads;
};

// For each row: the largest logit + bias, sum(exp(logit + bias - largest)), and the label's logit + bias (0 elsewhere).
void row_statistics(const LogitRows& rows, float* largest, float* sum, float* label);

// Replaces each logit by d loss / d logit = exp(logit + bias - log_sum) - [is label]. Adds the column sums, taken
// before rounding, to bias_gradient (columns). The same for the same number of threads.
void row_gradients(const LogitRows& rows, const float* log_sum, float* bias_gradient);

}  // namespace ettin
