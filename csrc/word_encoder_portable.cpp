// The word encoder and text scanning for any machine.
#include <cstring>

#include "cpu_paths.h"
#include "long_word_cache.h"
#include "pretokenizer.h"
#include "text_scan.h"
#include "unicode.h"
#include "word_cache.h"

namespace ettin {
namespace portable {
#include "text_scan_path.h"
#include "byte_masks_path.h"
#include "word_steps_path.h"
#include "gpt2_splitter_path.h"
#include "word_merger_path.h"
#include "word_encoder_path.h"
}

const TextScan portable_scan = {portable::find_prefix, portable::find_normalizing};
const WordPath portable_words = {portable::make, portable::single_tokens};

}  // namespace ettin
