// The pointwise parts of a layer in one pass each: rotary embedding and the gated GELU. Float or bfloat16 (its upper 16
// bits) in and out, float inside.
#pragma once

#include <cstddef>

namespace ettin {

// Queries, keys and values of a projection, [tokens][heads][3][head_size], rotated in place: pairs (i, i + half) of
// queries and keys by the angle whose cosine and sine are tables [tokens][half].
struct Rotation {
  void* projection;
  bool bfloat16;
  size_t tokens, heads, head_size;
  const float* cosine;
  const float* sine;
  int threads;
};
void rotate(const Rotation& rotation);

// gated [rows][2 * width]: gelu(first half of a row) * second half, with the exact (erf) GELU.
struct GatedRows {
  const void* gated;
  bool bfloat16;
  size_t rows, width;
  int threads;
};
void gated_gelu(const GatedRows& rows, void* output);
// gradient [rows][width] of the output -> gated_gradient [rows][2 * width].
void gated_gelu_backward(const GatedRows& rows, const void* gradient, void* gated_gradient);

}  // namespace ettin
