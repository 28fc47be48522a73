// The versions of the attention kernel, one a file, and what they share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"

namespace ettin {

// Queries handled together, and keys of a block.
constexpr int64_t kQueryBlock = 60, kKeyBlock = 64;
// Head sizes are filled up with zeros to a multiple of this.
constexpr int64_t kHeadStep = 16;

constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Memory of one thread, in floats.
struct AttentionScratch {
  float *key_columns, *value_columns;    // transposed blocks of kKeyBlock keys
  float *keys, *values;                  // by token
  float *key_gradients, *value_gradients;
  float *query, *output, *output_gradient, *query_gradient;  // a block of queries
  float *scores, *others;                // kQueryBlock x kKeyBlock
  float *largest, *total;                // a number for each query of the block
};

// One head of one segment.
struct AttentionPart {
  const AttentionProblem& problem;
  const AttentionSegment& segment;
  size_t head;
};

struct AttentionPath {
  void (*forward)(const AttentionPart& part, const AttentionScratch& scratch, void* output, float* sums);
  void (*backward)(const AttentionPart& part, const AttentionScratch& scratch, const AttentionGradients& gradients);
};

extern const AttentionPath avx512_attention, avx2_attention, portable_attention;

}  // namespace ettin
