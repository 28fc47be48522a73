// Finds added tokens in text the way `tokenizers` does: leftmost, longest, not overlapping; then word and strip rules.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <vector>

#include "tokenizer/text_scan.h"
#include "tokenizer/file.h"

namespace ettin {

// A trie over the contents of some added tokens. Immutable after construction.
class AddedTokenTrie {
 public:
  // The first of two tokens with the same content wins.
  void insert(std::string_view content, uint32_t token);
  bool empty() const { return nodes_.size() == 1; }

  struct Match {
    size_t begin, end;  // begin == npos: no further match
    uint32_t token;
  };
  static constexpr size_t kNone = ~static_cast<size_t>(0);

  // The next match at or after `at`.
  Match find(std::string_view text, size_t at) const;

 private:
  static constexpr uint32_t kNoToken = ~0u;
  struct Edge {
    uint8_t byte;
    uint32_t node;
  };
  struct Node {
    uint32_t token = kNoToken;
    std::vector<Edge> edges;
  };

  const Edge* edge(const Node& node, uint8_t byte) const;

  std::vector<Node> nodes_{1};
  PrefixFilter filter_;
};

// One part of a text: an added token (index into the file's list) or, with kText, text between them.
struct Part {
  static constexpr uint32_t kText = ~0u;
  size_t begin, end;
  uint32_t token;
};

// Cuts text at added tokens. `split_special` leaves special tokens in the text, as `encode_special_tokens` does.
class AddedTokenSplitter {
 public:
  // Takes the tokens of `file` whose `normalized` flag is `normalized`; with NFC their contents are normalized too.
  // `without_spaces` leaves out those that contain a space.
  AddedTokenSplitter(const TokenizerFile& file, bool normalized, bool without_spaces);

  bool empty() const { return trie_.empty(); }

  // Calls `sink(Part)` for every part in order. Parts can overlap after a token with rstrip, as they do in
  // `tokenizers`.
  template <class Sink>
  void split(std::string_view text, bool split_special, Sink&& sink) const {
    size_t done = 0;
    for (size_t at = 0;;) {
      const AddedTokenTrie::Match match = trie_.find(text, at);
      if (match.begin == AddedTokenTrie::kNone) break;
      size_t begin = match.begin, end = at = match.end;
      const AddedToken& token = tokens_[match.token];
      if (split_special && token.special) continue;
      if (token.single_word && !is_single_word(text, begin, end)) continue;
      if (token.lstrip) begin = std::max(space_before(text, begin), done);
      if (token.rstrip) end = space_after(text, end);
      if (done < begin) sink(Part{done, begin, Part::kText});
      sink(Part{begin, end, match.token});
      done = end;
    }
    if (done != text.size()) sink(Part{done, text.size(), Part::kText});
  }

  const AddedToken& token(uint32_t index) const { return tokens_[index]; }

 private:
  static bool is_single_word(std::string_view text, size_t begin, size_t end);
  static size_t space_before(std::string_view text, size_t begin);
  static size_t space_after(std::string_view text, size_t end);

  std::vector<AddedToken> tokens_;
  AddedTokenTrie trie_;
};

}  // namespace ettin
