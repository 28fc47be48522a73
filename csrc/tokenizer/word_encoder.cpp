#include "tokenizer/word_encoder.h"

#include <algorithm>

#include "tokenizer/versions.h"
#include "tokenizer/text_scan.h"

namespace ettin {
namespace {

const InstructionSet kWords = choose("word_encoder", {InstructionSet::kAvx2, InstructionSet::kAvx512Vbmi});
const InstructionSet kScan = choose("text_scan", {InstructionSet::kAvx2, InstructionSet::kAvx512Vbmi});

const WordVersion& word_version(InstructionSet set) {
#if defined(ETTIN_X86)
  if (set >= InstructionSet::kAvx512Vbmi) return avx512_words;
  if (set >= InstructionSet::kAvx2) return avx2_words;
#else
  (void)set;
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
  const std::vector<uint32_t> ids = word_version(kWords).single_tokens(pairs, words);
  std::vector<KnownWord> known;
  known.reserve(words.size());
  for (size_t at = 0; at < words.size(); ++at) {
    if (ids[at] != kNoRank) known.push_back({words[at], ids[at]});
  }
  return known;
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

const TextScan& text_scan() {
#if defined(ETTIN_X86)
  if (kScan == InstructionSet::kAvx512Vbmi) return avx512_scan;
  if (kScan == InstructionSet::kAvx2) return avx2_scan;
#endif
  return portable_scan;
}

std::unique_ptr<WordEncoder> make_word_encoder(const WordModel& model, InstructionSet set) {
  return word_version(std::min(set, kWords)).make(model);
}

}  // namespace ettin
