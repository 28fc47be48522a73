#include "kernels/attention.h"

#include <algorithm>
#include <new>

#include "base/threads.h"
#include "kernels/attention_versions.h"

namespace ettin {
namespace {

const InstructionSet kAttention = choose("attention", {InstructionSet::kAvx2, InstructionSet::kAvx512});

const AttentionVersion& attention_version() {
#if defined(ETTIN_X86)
  if (kAttention == InstructionSet::kAvx512) return avx512_attention;
  if (kAttention == InstructionSet::kAvx2) return avx2_attention;
#endif
  return portable_attention;
}

// Aligned memory that grows and is kept by its thread: fresh pages cost as much as the work on them.
class Floats {
 public:
  Floats() = default;
  Floats(const Floats&) = delete;
  Floats& operator=(const Floats&) = delete;
  ~Floats() { release(); }

  float* at_least(size_t count) {
    if (count > count_) {
      release();
      memory_ = static_cast<float*>(::operator new(count * sizeof(float), kLine));
      count_ = count;
    }
    return memory_;
  }

 private:
  static constexpr std::align_val_t kLine{64};
  void release() {
    if (memory_ != nullptr) ::operator delete(memory_, kLine);
    memory_ = nullptr;
    count_ = 0;
  }
  float* memory_ = nullptr;
  size_t count_ = 0;
};

AttentionScratch scratch_of(const AttentionProblem& problem, bool backward) {
  static thread_local Floats memory;
  int64_t keys = 0;
  for (const auto& segment : problem.segments) keys = std::max(keys, round_up(segment.keys, kTileKeys));
  const auto size = static_cast<size_t>(round_up(static_cast<int64_t>(problem.head_size), kHeadStep));
  const size_t long_ = static_cast<size_t>(keys) * size, short_ = static_cast<size_t>(kTileQueries) * size;
  const size_t tile = static_cast<size_t>(kTileQueries * kTileKeys);
  float* next = memory.at_least((backward ? 6 : 3) * long_ + 4 * short_ + 2 * tile + 2 * 64);
  const auto take = [&](size_t count) {
    float* taken = next;
    next += count;
    return taken;
  };
  AttentionScratch scratch{};
  scratch.key_columns = take(long_);
  scratch.values = take(long_);
  scratch.keys = take(long_);
  if (backward) {
    scratch.value_columns = take(long_);
    scratch.key_gradients = take(long_);
    scratch.value_gradients = take(long_);
  }
  scratch.query = take(short_);
  scratch.output = take(short_);
  scratch.output_gradient = take(short_);
  scratch.query_gradient = take(short_);
  scratch.scores = take(tile);
  scratch.others = take(tile);
  scratch.largest = take(64);
  scratch.total = take(64);
  return scratch;
}

// Calls work(part, scratch) for every head of every segment, on the problem's threads.
template <typename Work>
void each_part(const AttentionProblem& problem, bool backward, const Work& work) {
  one_by_one(
      problem.segments.size() * problem.heads, problem.threads, [&] { return scratch_of(problem, backward); },
      [&](size_t index, const AttentionScratch& scratch) {
        work(AttentionPart{problem, problem.segments[index / problem.heads], index % problem.heads}, scratch);
      });
}

}  // namespace

void attention_forward(const AttentionProblem& problem, void* output, float* sums) {
  const AttentionVersion& version = attention_version();
  each_part(problem, false, [&](const AttentionPart& part, const AttentionScratch& scratch) {
    version.forward(part, scratch, output, sums);
  });
}

void attention_backward(const AttentionProblem& problem, const AttentionGradients& gradients) {
  const AttentionVersion& version = attention_version();
  each_part(problem, true, [&](const AttentionPart& part, const AttentionScratch& scratch) {
    version.backward(part, scratch, gradients);
  });
}

}  // namespace ettin
