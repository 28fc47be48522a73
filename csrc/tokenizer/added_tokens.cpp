#include "tokenizer/added_tokens.h"

#include "text/unicode.h"

namespace ettin {

const AddedTokenTrie::Edge* AddedTokenTrie::edge(const Node& node, uint8_t byte) const {
  for (const Edge& candidate : node.edges) {
    if (candidate.byte == byte) return &candidate;
  }
  return nullptr;
}

void AddedTokenTrie::insert(std::string_view content, uint32_t token) {
  uint32_t at = 0;
  for (const char character : content) {
    const auto byte = static_cast<uint8_t>(character);
    const Edge* found = edge(nodes_[at], byte);
    if (found) {
      at = found->node;
      continue;
    }
    const auto next = static_cast<uint32_t>(nodes_.size());
    nodes_[at].edges.push_back({byte, next});
    nodes_.emplace_back();
    at = next;
  }
  if (nodes_[at].token == kNoToken) nodes_[at].token = token;
  filter_.add(content);
}

AddedTokenTrie::Match AddedTokenTrie::find(std::string_view text, size_t at) const {
  if (empty()) return {kNone, kNone, kNoToken};
  for (; (at = text_scan().find_prefix(text, at, filter_)) < text.size(); ++at) {
    Match longest{kNone, kNone, kNoToken};
    const Node* node = &nodes_[0];
    for (size_t next = at; next < text.size(); ++next) {
      const Edge* found = edge(*node, static_cast<uint8_t>(text[next]));
      if (!found) break;
      node = &nodes_[found->node];
      if (node->token != kNoToken) longest = {at, next + 1, node->token};
    }
    if (longest.begin != kNone) return longest;
  }
  return {kNone, kNone, kNoToken};
}

AddedTokenSplitter::AddedTokenSplitter(const TokenizerFile& file, bool normalized, bool without_spaces) {
  for (const bool special : {true, false}) {  // special tokens come first, so they win between equal contents
    for (const AddedToken& token : file.added) {
      if (token.normalized != normalized || token.special != special) continue;
      if (without_spaces && token.content.find(' ') != std::string::npos) continue;
      std::string content = token.content;
      if (normalized && file.nfc) normalize_nfc(token.content, content);
      trie_.insert(content, static_cast<uint32_t>(tokens_.size()));
      tokens_.push_back(token);
    }
  }
}

bool AddedTokenSplitter::is_single_word(std::string_view text, size_t begin, size_t end) {
  size_t length;
  const bool before =
      begin > 0 && property(utf8_decode(text.data() + utf8_previous(text.data(), begin), length)) & kWordFlag;
  const bool after = end < text.size() && property(utf8_decode(text.data() + end, length)) & kWordFlag;
  return !before && !after;
}

size_t AddedTokenSplitter::space_before(std::string_view text, size_t begin) {
  while (begin > 0) {
    size_t length;
    const size_t previous = utf8_previous(text.data(), begin);
    if ((property(utf8_decode(text.data() + previous, length)) & kClassMask) != kSpace) break;
    begin = previous;
  }
  return begin;
}

size_t AddedTokenSplitter::space_after(std::string_view text, size_t end) {
  while (end < text.size()) {
    size_t length;
    if ((property(utf8_decode(text.data() + end, length)) & kClassMask) != kSpace) break;
    end += length;
  }
  return end;
}

}  // namespace ettin
