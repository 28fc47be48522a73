// The pointwise parts of a layer in one pass each: rotary embedding, gated GELU and dropout. Float or bfloat16 (its
// upper 16 bits) in and out, float inside.
#pragma once

#include <cstddef>
#include <cstdint>

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

// Dropout of x [tokens][channels]. Whether a number is dropped is a function of the key, the step, the place of its
// token among all tokens of the step, the layer and the channel: channel c of a token has word c % 64 / 16 of the
// Philox counter {layer << 16 | c / 64 * 16 + c % 16, place, place >> 32, step} and is dropped where that is below
// `dropped_below`; the rest is scaled.
struct Dropout {
  uint64_t key;
  uint32_t step, layer;
  uint32_t dropped_below;
  float scale;
  const int64_t* places;  // [tokens]
  size_t tokens, channels;
  bool bfloat16;
  int threads;
};
constexpr size_t kMostDroppedChannels = size_t{1} << 18;
// output = residual + dropout(x), or dropout(x) where `residual` is null; the gradient of x is dropout(gradient).
void drop(const Dropout& dropout, const void* residual, const void* x, void* output);

}  // namespace ettin
