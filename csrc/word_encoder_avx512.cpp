// The word encoder and text scanning for machines with AVX512; only the code between the pragmas may use it.
#include "cpu_paths.h"

#if defined(ETTIN_X86)

#include <immintrin.h>

#include <cstring>

#include "long_word_cache.h"
#include "pretokenizer.h"
#include "text_scan.h"
#include "unicode.h"
#include "word_cache.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx2,bmi,bmi2,popcnt,sse4.2,lzcnt"))), apply_to = function)
#else
#pragma GCC diagnostic ignored "-Wuninitialized"  // inside of GCC's own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx2,bmi,bmi2,popcnt,sse4.2,lzcnt")
#endif

#define ETTIN_AVX512 1
namespace ettin {
namespace avx512 {
#include "narrow_numbers_path.h"
#include "merge_lanes_path.h"
#include "merge_wide_path.h"
#include "narrow_lanes_path.h"
#include "text_scan_path.h"
#include "byte_masks_path.h"
#include "word_steps_path.h"
#include "gpt2_splitter_path.h"
#include "word_merger_path.h"
#include "word_encoder_path.h"
}
}  // namespace ettin

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace ettin {

const TextScan avx512_scan = {avx512::find_prefix, avx512::find_normalizing};
const WordPath avx512_words = {avx512::make, avx512::single_tokens};

}  // namespace ettin

#endif
