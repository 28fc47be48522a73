// Attention on segments in host memory, forward and backward: float or bfloat16 in and out, float inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ettin {

// Queries and keys of one piece. Ranges count in their own tensors.
struct AttentionSegment {
  int64_t first_query, queries;
  int64_t first_key, keys;
  int64_t diagonal;     // the key, counted from first_key, of the first query's own token
  int64_t left, right;  // keys that a query sees beside its own; negative: all
};

// [token][head][element] with elements side by side; strides count elements. Keys and values share strides, and so do
// their gradients with them.
struct AttentionTensors {
  const void* query;
  const void* key;
  const void* value;
  int64_t query_token, query_head, key_token, key_head;
  bool bfloat16;
};

struct AttentionProblem {
  AttentionTensors inputs;
  std::vector<AttentionSegment> segments;
  size_t tokens, heads, head_size;  // tokens: of the queries
  int threads;
};

// output [tokens][heads][head_size] of the inputs' type; sums [heads][tokens]: base-2 logarithms of the softmax sums.
void attention_forward(const AttentionProblem& problem, void* output, float* sums);

// Gradients of the inputs, laid out as they are. Those of keys in no segment stay as they were.
struct AttentionGradients {
  const void* output;           // as attention_forward left it
  const void* output_gradient;  // [tokens][heads][head_size]
  const float* sums;
  void* query;
  void* key;
  void* value;
};
void attention_backward(const AttentionProblem& problem, const AttentionGradients& gradients);

}  // namespace ettin
