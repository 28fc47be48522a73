// The word encoder and text scanning for any machine.
#include <algorithm>
#include <cstring>

#include "tokenizer/versions.h"
#include "tokenizer/long_word_cache.h"
#include "tokenizer/contraction.h"
#include "splits/stream.h"
#include "tokenizer/text_scan.h"
#include "text/unicode.h"
#include "tokenizer/word_cache.h"

namespace ettin {
namespace portable {
#include "tokenizer/generic/text_scan.h"
#include "tokenizer/generic/byte_classes.h"
#include "tokenizer/generic/word_steps.h"
#include "tokenizer/generic/gpt2_splitter.h"
#include "tokenizer/generic/stream_splitter.h"
#include "tokenizer/generic/word_merger.h"
#include "tokenizer/generic/word_encoder.h"
}  // namespace portable

const TextScan portable_scan = {portable::find_prefix, portable::find_normalizing};
const WordVersion portable_words = {portable::make, portable::single_tokens};

}  // namespace ettin
