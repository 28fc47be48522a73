#include "word_encoder.h"

#include <algorithm>
#include <cstdlib>

#include "cpu_paths.h"
#include "text_scan.h"

namespace ettin {
namespace {

// Tokens that a word of the same bytes becomes: those that merging reaches, or all where merging is bypassed.
std::vector<KnownWord> known_words(const TokenizerFile& file, const BytePairModel& pairs) {
  std::vector<KnownWord> known;
  IdVector ids;
  BytePairModel::Scratch scratch;
  for (uint32_t id = 0; id < file.token_bytes.size(); ++id) {
    const std::string& bytes = file.token_bytes[id];
    if (bytes.empty() || bytes.size() > kKeyBytes || bytes.find('\xFF') != std::string::npos) continue;
    ids.clear();
    pairs.encode(bytes, ids, scratch);
    if (ids.size() == 1) known.push_back({make_key(bytes.data(), bytes.size()), ids[0]});
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
  switch (std::min(path, best_cpu_path())) {
#if defined(ETTIN_X86)
    case CpuPath::kAvx512: return make_avx512_encoder(model);
    case CpuPath::kAvx2: return make_avx2_encoder(model);
#endif
    default: return make_portable_encoder(model);
  }
}

}  // namespace ettin
