// The word encoder and text scanning for machines with AVX2; only the code between the pragmas may use it.
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
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,popcnt,sse4.2,lzcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,sse4.2,lzcnt")
#endif

#define ETTIN_AVX2 1
namespace ettin {
namespace avx2 {
#include "narrow_numbers_path.h"
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

const TextScan avx2_scan = {avx2::find_prefix, avx2::find_normalizing};
const WordPath avx2_words = {avx2::make, avx2::single_tokens};

}  // namespace ettin

#endif
