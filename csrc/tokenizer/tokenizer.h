// Text to ids, exactly as the `tokenizers` library does it for byte-level BPE tokenizers, without template specials.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/file.h"
#include "tokenizer/word_encoder.h"

namespace ettin {

// What happens to special tokens (such as <|endoftext|>) that occur in a text.
enum class SpecialPolicy : uint8_t {
  kSpecial,  // they become the special id
  kSplit,    // they are encoded like any other text
  kReject,   // encoding the text fails
};

// A tokenizer.json, ready for use. Immutable; shared by threads.
class Tokenizer {
 public:
  // Null, with the reason in `error`, when `json` is malformed or cannot be reproduced exactly.
  static std::shared_ptr<const Tokenizer> from_json(std::string_view json, std::string& error);

  // One more than the largest id; equals len(tokenizer) where ids have no hole.
  uint32_t vocabulary_size() const { return file_.vocabulary_size; }
  const TokenizerFile& file() const { return file_; }

 private:
  friend class Encoder;
  explicit Tokenizer(TokenizerFile file);

  TokenizerFile file_;
  SpaceRuns runs_;
  AddedTokenSplitter raw_added_, normalized_added_;
  WordModel words_;
};

// Encodes texts, one after another, in one thread: holds caches and scratch.
class Encoder {
 public:
  Encoder(std::shared_ptr<const Tokenizer> tokenizer, SpecialPolicy policy,
          InstructionSet set = best_instruction_set());

  static constexpr size_t kLongestText = size_t{1} << 30;  // normalization may make it three times as long

  // Appends the ids of `text`, which must be valid UTF-8 of at most kLongestText bytes, and adds the number of special
  // tokens met to `specials`. False, with `ids` and `specials` as before, when the policy is kReject and the text holds
  // a special token. `Ids` is IdVector, or NarrowIdVector for a vocabulary up to 65,536.
  template <class Ids>
  bool encode(std::string_view text, Ids& ids, uint64_t& specials);

  // Where the words of a text start, in bytes, without regard to normalization and added tokens.
  std::vector<uint32_t> word_starts(std::string_view text) { return words_->word_starts(text); }

 private:
  template <class Ids>
  void encode_raw(std::string_view text, Ids& ids);
  template <class Ids>
  void encode_normalized(std::string_view text, Ids& ids);
  template <class Ids>
  void encode_words(std::string_view text, Ids& ids);
  template <class Ids>
  void add_token(const AddedToken& token, Ids& ids);

  std::shared_ptr<const Tokenizer> tokenizer_;
  SpecialPolicy policy_;
  uint64_t specials_ = 0;
  std::string normalized_, prefixed_;
  std::unique_ptr<WordEncoder> words_;
};

}  // namespace ettin
