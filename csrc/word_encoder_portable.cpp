// The word encoder for any machine.
#include <cstring>

#include "cpu_paths.h"
#include "pretokenizer.h"
#include "word_cache.h"

namespace ettin {
namespace portable {
#include "word_encoder_path.h"
}

std::unique_ptr<WordEncoder> make_portable_encoder(const WordModel& model) { return portable::make(model); }

}  // namespace ettin
