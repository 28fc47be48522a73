// Attention for machines with AVX2; only the code of that target may use it.
#include "kernels/attention_versions.h"

#if defined(ETTIN_X86)

ETTIN_BEGIN_TARGET("avx2,fma")

namespace ettin {
namespace avx2 {
constexpr int kLanes = 8, kTileVectors = 2;
#include "kernels/generic/vectors.h"
#include "kernels/generic/attention.h"
}  // namespace avx2
}  // namespace ettin

ETTIN_END_TARGET

namespace ettin {

const AttentionVersion avx2_attention = {avx2::forward, avx2::backward};

}  // namespace ettin

#endif
