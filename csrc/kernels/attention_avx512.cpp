// Attention for machines with AVX512; only the code of that target may use it.
#include "kernels/attention_versions.h"

#if defined(ETTIN_X86)

#if defined(__clang__)
ETTIN_BEGIN_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")
#else
ETTIN_BEGIN_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512")
#endif

namespace ettin {
namespace avx512 {
constexpr int kLanes = 16, kTileVectors = 4;
#include "kernels/generic/vectors.h"
#include "kernels/generic/attention.h"
}  // namespace avx512
}  // namespace ettin

ETTIN_END_TARGET

namespace ettin {

const AttentionVersion avx512_attention = {avx512::forward, avx512::backward};

}  // namespace ettin

#endif
