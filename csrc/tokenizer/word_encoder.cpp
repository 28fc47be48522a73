#include "tokenizer/word_encoder.h"

#include <algorithm>
#include <cstdlib>

#include "tokenizer/versions.h"
#include "tokenizer/text_scan.h"

namespace ettin {
namespace {

const WordPath& word_path([[maybe_unused]] CpuPath path) {
#if defined(ETTIN_X86)
  switch (path) {
    case CpuPath::kAvx512: return avx512_words;
    case CpuPath::kAvx2: return avx2_words;
    default: break;
  }
#endif
  return portable_words;
}

// Tokens that a word of the same bytes becomes: those that merging reaches, or all where merging is bypassed.
std::vector<KnownWord> known_words(const TokenizerFile& file, const BytePairModel& pairs) {
  std::vector<WordKey> words;
  words.reserve(file.token_bytes.size());
  for (const std::string& bytes : file.token_bytes) {
    const bool text = bytes.find('\xFF') == std::string::npos;
    if (!bytes.empty() && bytes.size() <= kKeyBytes && text) words.push_back(make_key(bytes.data(), bytes.size()));
  }
  const std::vector<uint32_t> ids = word_path(best_cpu_path()).single_tokens(pairs, words);
  std::vector<KnownWord> known;
  known.reserve(words.size());
  for (size_t at = 0; at < words.size(); ++at) {
    if (ids[at] != kNoRank) known.push_back({words[at], ids[at]});
  }
  return known;
}

CpuPath detect() {
#if defined(ETTIN_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("sse4.2");
  const bool avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
                      __builtin_cpu_supports("avx512dq");
  return avx2 && avx512 ? CpuPath::kAvx512 : avx2 ? CpuPath::kAvx2 : CpuPath::kPortable;
#else
  return CpuPath::kPortable;
#endif
}

}  // namespace

WordModel::WordModel(const TokenizerFile& file, SpaceRuns space_runs)
    : split(file.split),
      vocabulary_size(file.vocabulary_size),
      runs(std::move(space_runs)),
      pairs(file),
      known(known_words(file, pairs)) {
  if (runs.ids.empty()) return;
  size_t kept = 0;
  for (const KnownWord& word : known) {
    const bool run = word.key.size() > 1 && (word.key.low & 0xFFFF) == 0x2020;
    if (!run) known[kept++] = word;
  }
  known.resize(kept);
  for (size_t size = 2; size <= kKeyBytes; ++size) {
    known.push_back({make_key("               ", size), runs.ids[size]});
  }
}

CpuPath best_cpu_path() {
  static const CpuPath path = [] {
    const CpuPath best = detect();
    const char* wanted = std::getenv("ETTIN_CPU_PATH");
    const std::string_view name = wanted ? wanted : "";
    const CpuPath limit = name == "portable" ? CpuPath::kPortable : name == "avx2" ? CpuPath::kAvx2 : CpuPath::kAvx512;
    return std::min(best, limit);
  }();
  return path;
}

const TextScan& text_scan() {
#if defined(ETTIN_X86)
  switch (best_cpu_path()) {
    case CpuPath::kAvx512: return avx512_scan;
    case CpuPath::kAvx2: return avx2_scan;
    default: break;
  }
#endif
  return portable_scan;
}

std::unique_ptr<WordEncoder> make_word_encoder(const WordModel& model, CpuPath path) {
  return word_path(std::min(path, best_cpu_path())).make(model);
}

}  // namespace ettin
