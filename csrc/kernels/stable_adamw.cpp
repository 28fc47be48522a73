#include "kernels/stable_adamw.h"

#include <algorithm>
#include <atomic>
#include <thread>

namespace ettin {
namespace {

// Work is dealt in blocks of this many floats: large against a cache line, small against a tensor.
constexpr size_t kBlock = 1 << 15;
// Partial sums held at once, so that the compiler can use the widest registers without reordering a sum.
constexpr size_t kLanes = 16;
// Floats added in single precision before the partial sums move to double.
constexpr size_t kRun = 1024;

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define ETTIN_DISPATCH __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define ETTIN_DISPATCH
#endif

double add_lanes(const float* lanes) {
  double sum = 0.0;
  for (size_t i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

ETTIN_DISPATCH double second_block(const float* __restrict gradient, float* __restrict second, size_t size, float beta,
                                   float floor) {
  double sum = 0.0;
  const float rest = 1.0f - beta;
  for (size_t start = 0; start < size; start += kRun) {
    const size_t stop = std::min(size, start + kRun);
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

ETTIN_DISPATCH void apply_block(float* __restrict parameter, const float* __restrict gradient, float* __restrict first,
                                const float* __restrict second, size_t size, float beta, float epsilon, float rate,
                                float keep) {
  const float rest = 1.0f - beta;
  for (size_t i = 0; i < size; ++i) {
    const float moment = beta * first[i] + rest * gradient[i];
    first[i] = moment;
    parameter[i] = keep * parameter[i] - rate * moment / (__builtin_sqrtf(second[i]) + epsilon);
  }
}

ETTIN_DISPATCH double square_block(const float* gradient, size_t size) {
  double sum = 0.0;
  for (size_t start = 0; start < size; start += kRun) {
    const size_t stop = std::min(size, start + kRun);
    const size_t even = start + (stop - start) / kLanes * kLanes;
    float lanes[kLanes] = {};
    for (size_t i = start; i < even; i += kLanes)
      for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += gradient[i + lane] * gradient[i + lane];
    for (size_t i = even; i < stop; ++i) lanes[i - even] += gradient[i] * gradient[i];
    sum += add_lanes(lanes);
  }
  return sum;
}

struct Block {
  size_t tensor, start, size;
};

std::vector<Block> blocks_of(const std::vector<AdamTensor>& tensors) {
  std::vector<Block> blocks;
  for (size_t tensor = 0; tensor < tensors.size(); ++tensor)
    for (size_t start = 0; start < tensors[tensor].size; start += kBlock)
      blocks.push_back({tensor, start, std::min(kBlock, tensors[tensor].size - start)});
  return blocks;
}

// Calls work(index) for every index below count, on `threads` threads in all.
template <typename Work>
void share(size_t count, int threads, const Work& work) {
  std::atomic<size_t> next{0};
  const auto loop = [&] {
    for (size_t index = next++; index < count; index = next++) work(index);
  };
  std::vector<std::thread> helpers;
  const size_t wanted = std::min<size_t>(std::max(threads, 1), count);
  for (size_t helper = 1; helper < wanted; ++helper) helpers.emplace_back(loop);
  loop();
  for (auto& helper : helpers) helper.join();
}

std::vector<double> add_blocks(const std::vector<Block>& blocks, const std::vector<double>& partial, size_t tensors) {
  std::vector<double> sums(tensors, 0.0);
  for (size_t i = 0; i < blocks.size(); ++i) sums[blocks[i].tensor] += partial[i];
  return sums;
}

}  // namespace

std::vector<double> second_moments(const std::vector<AdamTensor>& tensors, const AdamFactors& factors, int threads) {
  const std::vector<Block> blocks = blocks_of(tensors);
  std::vector<double> partial(blocks.size());
  share(blocks.size(), threads, [&](size_t index) {
    const Block& block = blocks[index];
    const AdamTensor& tensor = tensors[block.tensor];
    partial[index] = second_block(tensor.gradient + block.start, tensor.second + block.start, block.size,
                                  factors.beta2, factors.epsilon * factors.epsilon);
  });
  return add_blocks(blocks, partial, tensors.size());
}

void apply_moments(const std::vector<AdamTensor>& tensors, const AdamFactors& factors, const std::vector<float>& rates,
                   const std::vector<float>& keeps, int threads) {
  const std::vector<Block> blocks = blocks_of(tensors);
  share(blocks.size(), threads, [&](size_t index) {
    const Block& block = blocks[index];
    const AdamTensor& tensor = tensors[block.tensor];
    apply_block(tensor.parameter + block.start, tensor.gradient + block.start, tensor.first + block.start,
                tensor.second + block.start, block.size, factors.beta1, factors.epsilon, rates[block.tensor],
                keeps[block.tensor]);
  });
}

std::vector<double> square_sums(const std::vector<AdamTensor>& tensors, int threads) {
  const std::vector<Block> blocks = blocks_of(tensors);
  std::vector<double> partial(blocks.size());
  share(blocks.size(), threads, [&](size_t index) {
    const Block& block = blocks[index];
    partial[index] = square_block(tensors[block.tensor].gradient + block.start, block.size);
  });
  return add_blocks(blocks, partial, tensors.size());
}

}  // namespace ettin
