#include "kernels/stable_adamw.h"

#include <algorithm>

#include "base/cpu.h"
#include "base/threads.h"

namespace ettin {
namespace {

// Work is dealt in pieces of this many floats: large against a cache line, small against a tensor.
constexpr size_t kPiece = 1 << 15;

namespace portable {
#include "kernels/generic/stable_adamw.h"
}
#if defined(ETTIN_X86)
ETTIN_BEGIN_TARGET(ETTIN_V3)
namespace avx2 {
#include "kernels/generic/stable_adamw.h"
}
ETTIN_END_TARGET
ETTIN_BEGIN_TARGET(ETTIN_V4)
namespace avx512 {
#include "kernels/generic/stable_adamw.h"
}
ETTIN_END_TARGET
#else
namespace avx2 = portable;
namespace avx512 = portable;
#endif

// The functions of one version.
struct StableAdamW {
  decltype(&portable::second_run) second_run;
  decltype(&portable::apply_run) apply_run;
  decltype(&portable::square_run) square_run;
};

const StableAdamW kernel = [] {
  const InstructionSet chosen = choose("stable_adamw", {InstructionSet::kAvx2, InstructionSet::kAvx512});
  if (chosen == InstructionSet::kAvx512) return StableAdamW{avx512::second_run, avx512::apply_run, avx512::square_run};
  if (chosen == InstructionSet::kAvx2) return StableAdamW{avx2::second_run, avx2::apply_run, avx2::square_run};
  return StableAdamW{portable::second_run, portable::apply_run, portable::square_run};
}();

struct Piece {
  size_t tensor, start, size;
};

std::vector<Piece> pieces_of(const std::vector<AdamTensor>& tensors) {
  std::vector<Piece> pieces;
  for (size_t tensor = 0; tensor < tensors.size(); ++tensor)
    for (size_t start = 0; start < tensors[tensor].size; start += kPiece)
      pieces.push_back({tensor, start, std::min(kPiece, tensors[tensor].size - start)});
  return pieces;
}

std::vector<double> add_pieces(const std::vector<Piece>& pieces, const std::vector<double>& partial, size_t tensors) {
  std::vector<double> sums(tensors, 0.0);
  for (size_t i = 0; i < pieces.size(); ++i) sums[pieces[i].tensor] += partial[i];
  return sums;
}

}  // namespace

std::vector<double> second_moments(const std::vector<AdamTensor>& tensors, const AdamFactors& factors, int threads) {
  const std::vector<Piece> pieces = pieces_of(tensors);
  std::vector<double> partial(pieces.size());
  one_by_one(pieces.size(), threads, [&](size_t index) {
    const Piece& piece = pieces[index];
    const AdamTensor& tensor = tensors[piece.tensor];
    partial[index] = kernel.second_run(tensor.gradient + piece.start, tensor.second + piece.start, piece.size,
                                       factors.beta2, factors.epsilon * factors.epsilon);
  });
  return add_pieces(pieces, partial, tensors.size());
}

void apply_moments(const std::vector<AdamTensor>& tensors, const AdamFactors& factors, const std::vector<float>& rates,
                   const std::vector<float>& keeps, int threads) {
  const std::vector<Piece> pieces = pieces_of(tensors);
  one_by_one(pieces.size(), threads, [&](size_t index) {
    const Piece& piece = pieces[index];
    const AdamTensor& tensor = tensors[piece.tensor];
    kernel.apply_run(tensor.parameter + piece.start, tensor.gradient + piece.start, tensor.first + piece.start,
                     tensor.second + piece.start, piece.size, factors.beta1, factors.epsilon, rates[piece.tensor],
                     keeps[piece.tensor]);
  });
}

std::vector<double> square_sums(const std::vector<AdamTensor>& tensors, int threads) {
  const std::vector<Piece> pieces = pieces_of(tensors);
  std::vector<double> partial(pieces.size());
  one_by_one(pieces.size(), threads, [&](size_t index) {
    const Piece& piece = pieces[index];
    partial[index] = kernel.square_run(tensors[piece.tensor].gradient + piece.start, piece.size);
  });
  return add_pieces(pieces, partial, tensors.size());
}

}  // namespace ettin
