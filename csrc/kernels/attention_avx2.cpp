// Attention for machines with AVX2; only the code between the pragmas may use it.
#include "kernels/attention_versions.h"
#include "tokenizer/versions.h"

#if defined(ETTIN_X86)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace ettin {
namespace avx2 {
constexpr int kLanes = 8, kWide = 2;
#include "kernels/generic/vectors.h"
#include "kernels/generic/attention.h"
}  // namespace avx2
}  // namespace ettin

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace ettin {

const AttentionPath avx2_attention = {avx2::forward, avx2::backward};

}  // namespace ettin

#endif
