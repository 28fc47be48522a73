// Pieces of text (between added tokens) to ids: splitting into words, the caches of words, merging.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/cpu.h"
#include "tokenizer/bpe.h"
#include "tokenizer/file.h"
#include "tokenizer/word_cache.h"

namespace ettin {

// Added tokens that are runs of 2, 3, ... spaces, when a tokenizer has them for every length up to some limit.
struct SpaceRuns {
  std::vector<uint32_t> ids;  // by length; the first two are unused
  size_t longest() const { return ids.empty() ? 0 : ids.size() - 1; }
};

// A word that is one token, known before any text is read.
struct KnownWord {
  WordKey key;
  uint32_t id;
};

// What all threads share. Nothing in it is written after construction.
struct WordModel {
  WordModel(const TokenizerFile& file, SpaceRuns space_runs);

  std::shared_ptr<const SplitStream> split;  // null for the pattern of GPT-2
  uint32_t vocabulary_size;
  SpaceRuns runs;
  BytePairModel pairs;
  std::vector<KnownWord> known;
};

// Encodes pieces in one thread.
class WordEncoder {
 public:
  virtual ~WordEncoder() = default;
  // Appends the ids of `piece`: valid UTF-8, normalized, below 4 GiB. Narrow ids only of vocabularies up to 65,536.
  virtual void encode(std::string_view piece, IdVector& ids) = 0;
  virtual void encode(std::string_view piece, NarrowIdVector& ids) = 0;
  // Where the words of a piece start, in bytes.
  virtual std::vector<uint32_t> word_starts(std::string_view piece) = 0;
};

// By the version for an instruction set, lowered to what this machine may use; all versions give the same ids.
std::unique_ptr<WordEncoder> make_word_encoder(const WordModel& model, InstructionSet set);

}  // namespace ettin
