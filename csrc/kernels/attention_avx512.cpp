// Attention for machines with AVX512; only the code between the pragmas may use it.
#include "kernels/attention_versions.h"
#include "tokenizer/versions.h"

#if defined(ETTIN_X86)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,prefer-vector-width=512")
#endif

namespace ettin {
namespace avx512 {
constexpr int kLanes = 16, kWide = 4;
#include "kernels/generic/vectors.h"
#include "kernels/generic/attention.h"
}  // namespace avx512
}  // namespace ettin

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace ettin {

const AttentionPath avx512_attention = {avx512::forward, avx512::backward};

}  // namespace ettin

#endif
