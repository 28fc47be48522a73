// What a tokenizer.json says, as plain data, for the kinds of tokenizer that can be reproduced exactly.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "splits/stream.h"

namespace ettin {

struct AddedToken {
  std::string content;
  uint32_t id = 0;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
};

struct Merge {
  uint32_t left = 0, right = 0, merged = 0;
};

struct TokenizerFile {
  bool nfc = false, prefix_space = false, ignore_merges = false;
  std::shared_ptr<const SplitStream> split;  // how text is cut into words; null for the pattern of GPT-2
  // Bytes that each id stands for; empty for ids that no text can reach through merges.
  std::vector<std::string> token_bytes;
  std::vector<Merge> merges;      // in order of rank
  std::vector<AddedToken> added;  // in the order of the file
  uint32_t vocabulary_size = 0;   // one more than the largest id
};

// Reads a tokenizer.json. False, with the reason in `error`, when it is malformed or has a part that this engine
// does not reproduce exactly. `json` may hold anything.
bool read_tokenizer_file(std::string_view json, TokenizerFile& file, std::string& error);

}  // namespace ettin
