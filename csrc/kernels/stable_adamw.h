// The two passes of StableAdamW over float tensors in host memory.
#pragma once

#include <cstddef>
#include <vector>

namespace ettin {

// One tensor, or this rank's part of it; all pointers address `size` floats.
struct AdamTensor {
  float* parameter;
  const float* gradient;
  float* first;
  float* second;
  size_t size;
};

// Factors of one step that all tensors share.
struct AdamFactors {
  float beta1, beta2;  // without bias: see train/stable_adamw.py
  float epsilon;
};

// second <- beta2 second + (1 - beta2) gradient^2; returns for each tensor sum(gradient^2 / max(second, epsilon^2)).
// The sums do not depend on `threads`: fixed pieces are added in order.
std::vector<double> second_moments(const std::vector<AdamTensor>& tensors, const AdamFactors& factors, int threads);

// first <- beta1 first + (1 - beta1) gradient; parameter <- keep parameter - rate first / (sqrt(second) + epsilon),
// with one `rate` and one `keep` (1 - decay) for each tensor.
void apply_moments(const std::vector<AdamTensor>& tensors, const AdamFactors& factors, const std::vector<float>& rates,
                   const std::vector<float>& keeps, int threads);

// For each tensor sum(gradient^2).
std::vector<double> square_sums(const std::vector<AdamTensor>& tensors, int threads);

}  // namespace ettin
