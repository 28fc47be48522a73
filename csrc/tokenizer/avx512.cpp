// The word encoder and text scanning for machines with AVX512; only the code of that target may use it.
#include "tokenizer/versions.h"

#if defined(ETTIN_X86)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "tokenizer/long_word_cache.h"
#include "tokenizer/contraction.h"
#include "splits/stream.h"
#include "tokenizer/text_scan.h"
#include "text/unicode.h"
#include "tokenizer/word_cache.h"

#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // inside of GCC's own intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
ETTIN_BEGIN_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx2,bmi,bmi2,popcnt,sse4.2,lzcnt")

#define ETTIN_AVX512 1
namespace ettin {
namespace avx512 {
#include "tokenizer/generic/numbers_16bit.h"
#include "tokenizer/generic/merge_lanes_32bit.h"
#include "tokenizer/generic/merge_long_word.h"
#include "tokenizer/generic/merge_lanes_16bit.h"
#include "tokenizer/generic/text_scan.h"
#include "tokenizer/generic/byte_classes.h"
#include "tokenizer/generic/word_steps.h"
#include "tokenizer/generic/gpt2_splitter.h"
#include "tokenizer/generic/stream_splitter.h"
#include "tokenizer/generic/word_merger.h"
#include "tokenizer/generic/word_encoder.h"
}  // namespace avx512
}  // namespace ettin

ETTIN_END_TARGET

namespace ettin {

const TextScan avx512_scan = {avx512::find_prefix, avx512::find_normalizing};
const WordVersion avx512_words = {avx512::make, avx512::single_tokens};

}  // namespace ettin

#endif
