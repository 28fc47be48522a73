// The versions of the attention kernel, one a file, and what they share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cpu.h"
#include "kernels/attention.h"
#include "kernels/numbers.h"

namespace ettin {

// Queries and keys of a tile.
constexpr int64_t kTileQueries = 60, kTileKeys = 64;
// Head sizes are filled up with zeros to a multiple of this.
constexpr int64_t kHeadStep = 16;

constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Memory of one thread, in floats.
struct AttentionScratch {
  float *key_columns, *value_columns;  // transposed, kTileKeys keys at a time
  float *keys, *values;                // by token
  float *key_gradients, *value_gradients;
  float *query, *output, *output_gradient, *query_gradient;  // of a tile
  float *scores, *others;                                    // kTileQueries x kTileKeys
  float *largest, *total;                                    // a number for each query of the tile
};

// One head of one segment.
struct AttentionPart {
  const AttentionProblem& problem;
  const AttentionSegment& segment;
  size_t head;
};

struct AttentionVersion {
  void (*forward)(const AttentionPart& part, const AttentionScratch& scratch, void* output, float* sums);
  void (*backward)(const AttentionPart& part, const AttentionScratch& scratch, const AttentionGradients& gradients);
};

extern const AttentionVersion portable_attention;
#if defined(ETTIN_X86)
extern const AttentionVersion avx2_attention, avx512_attention;
#endif

}  // namespace ettin
