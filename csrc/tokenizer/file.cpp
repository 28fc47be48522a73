#include "tokenizer/file.h"

#include <algorithm>
#include <array>
#include <functional>
#include <unordered_set>

#include "base/hash_index.h"
#include "tokenizer/json.h"
#include "text/unicode.h"

namespace ettin {
namespace {

constexpr uint32_t kLargestId = (1u << 20) - 1;
constexpr size_t kMostSplits = 8;  // in a sequence, ByteLevel included

// The bytes that can occur in valid UTF-8; the other ones need no token.
bool occurs_in_utf8(int byte) { return byte < 0xC0 || (byte > 0xC1 && byte < 0xF5); }

// The pattern of ByteLevel itself, which GPT-2 introduced, as it is spelt in files.
constexpr std::string_view kGpt2Patterns[] = {
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
    R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
};

// The byte that a character of the byte-level alphabet stands for, or -1.
int byte_of(uint32_t code) {
  static const std::array<int16_t, 512> table = [] {
    std::array<int16_t, 512> bytes;
    bytes.fill(-1);
    int next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      bytes[printable ? byte : next++] = static_cast<int16_t>(byte);
    }
    return bytes;
  }();
  return code < table.size() ? table[code] : -1;
}

// The bytes of a token written in the byte-level alphabet; false when it has a character outside of it.
bool token_to_bytes(std::string_view token, std::string& bytes) {
  for (size_t at = 0, length; at < token.size(); at += length) {
    const int byte = byte_of(utf8_decode(token.data() + at, length));
    if (byte < 0) return false;
    bytes += static_cast<char>(byte);
  }
  return true;
}

class Reader {
 public:
  Reader(TokenizerFile& file, std::string& error) : file_(file), error_(error) {}

  bool read(JsonValue root) {
    if (!root.is_object()) return fail("it is not a JSON object");
    if (!only(root, "",
              {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
               "decoder", "model"})) {
      return false;
    }
    return normalizer(root.find("normalizer")) && pre_tokenizer(root.find("pre_tokenizer")) &&
           model(root.find("model")) && added_tokens(root.find("added_tokens")) && sizes();
  }

 private:
  bool fail(const std::string& reason) {
    error_ = reason;
    return false;
  }

  // Refuses members with names outside `known`: a later version may give them a meaning.
  bool only(JsonValue value, const std::string& where, std::initializer_list<std::string_view> known) {
    for (const auto& [name, member] : value.members()) {
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        return fail("unknown member \"" + where + std::string(name) + "\"");
      }
    }
    return true;
  }

  static std::string type_of(JsonValue value) {
    const JsonValue type = value.find("type");
    return type ? std::string(type.string()) : "";
  }

  // Reads a boolean member; a missing one keeps the value of `out`.
  bool flag(JsonValue value, const char* key, bool& out) {
    const JsonValue member = value.find(key);
    if (!member) return true;
    if (!member.is_bool()) return fail(std::string("\"") + key + "\" is not true or false");
    out = member.boolean();
    return true;
  }

  bool normalizer(JsonValue value) {
    if (!value || value.is_null()) return true;
    const std::string type = type_of(value);
    if (type == "NFC") return file_.nfc = true;
    const JsonValue parts = value.find("normalizers");
    if (type != "Sequence" || !parts || !parts.is_array()) {
      return fail("normalizer \"" + type + "\" is not reproduced (only NFC is)");
    }
    for (const JsonValue part : parts.items()) {
      if (type_of(part) != "NFC") return fail("normalizer \"" + type_of(part) + "\" is not reproduced (only NFC is)");
      file_.nfc = true;
    }
    return true;
  }

  bool pre_tokenizer(JsonValue value) {
    if (!value || value.is_null()) return fail("it has no pre-tokenizer, so it is not a byte-level tokenizer");
    const std::string type = type_of(value);
    if (type == "ByteLevel") return byte_level(value, true);
    const JsonValue parts = value.find("pretokenizers");
    if (type != "Sequence" || !parts || !parts.is_array() || !parts.size()) {
      return fail("pre-tokenizer \"" + type + "\" is not reproduced (only byte-level ones are)");
    }
    if (parts.size() > kMostSplits) return fail("a sequence of that many pre-tokenizers is not reproduced");
    size_t left = parts.size();
    for (const JsonValue part : parts.items()) {
      if (!(--left ? split(part) : byte_level(part, parts.size() == 1))) return false;
    }
    return compile_splits();
  }

  bool byte_level(JsonValue value, bool alone) {
    if (type_of(value) != "ByteLevel") {
      return fail("pre-tokenizer \"" + type_of(value) + "\" is not reproduced in the place of ByteLevel");
    }
    if (!only(value, "pre_tokenizer.", {"type", "add_prefix_space", "trim_offsets", "use_regex"})) return false;
    bool regex = true;
    file_.prefix_space = true;
    if (!flag(value, "add_prefix_space", file_.prefix_space) || !flag(value, "use_regex", regex)) return false;
    if (!regex && alone) return fail("ByteLevel without use_regex and without a Split is not reproduced");
    if (!alone && file_.prefix_space) return fail("add_prefix_space after a Split is not reproduced");
    if (regex && !alone) patterns_.push_back(kGpt2Patterns[0]);
    return true;
  }

  bool split(JsonValue value) {
    if (type_of(value) != "Split") return fail("pre-tokenizer \"" + type_of(value) + "\" is not reproduced");
    if (!only(value, "pre_tokenizer.", {"type", "pattern", "behavior", "invert"})) return false;
    const JsonValue behavior = value.find("behavior");
    bool invert = false;
    if (!flag(value, "invert", invert)) return false;
    const bool removes = behavior && behavior.string() == "Removed" && invert;
    if (!removes && !(behavior && behavior.string() == "Isolated"))
      return fail("only Split with Isolated, or with Removed and invert, is reproduced");
    const JsonValue pattern = value.find("pattern");
    const JsonValue regex = pattern ? pattern.find("Regex") : JsonValue();
    if (!regex || !regex.is_string()) return fail("a Split without a regular expression is not reproduced");
    patterns_.push_back(regex.string());
    removes_.push_back(removes);
    return true;
  }

  static std::string named(std::string_view pattern) {
    size_t shown = std::min<size_t>(pattern.size(), 300);
    while (shown < pattern.size() && is_continuation(pattern[shown])) --shown;
    const char* cut = shown < pattern.size() ? "..." : "";
    return "the split expression " + std::string(pattern.substr(0, shown)) + cut + " is not reproduced: ";
  }

  // The splits of the text as one table, but for the pattern of GPT-2 alone.
  bool compile_splits() {
    const auto known = [&](std::string_view pattern) { return patterns_[0] == pattern; };
    if (patterns_.empty()) return true;
    if (patterns_.size() == 1 && std::any_of(std::begin(kGpt2Patterns), std::end(kGpt2Patterns), known)) return true;
    std::string reason;
    std::vector<SplitExpression> expressions(patterns_.size());
    for (size_t at = 0; at < patterns_.size(); ++at) {
      const std::string_view pattern = patterns_[at];
      if (!parse_split_expression(pattern, expressions[at], reason)) return fail(named(pattern) + reason);
      if (at < removes_.size() && removes_[at]) {
        SplitAutomaton alone;
        if (!alone.build({expressions[at]}, reason)) return fail(named(pattern) + reason);
        if (!alone.covers()) return fail(named(pattern) + "inverted and Removed, it would lose what it does not match");
      }
    }
    SplitAutomaton automaton;
    if (!automaton.build(expressions, reason)) return fail(named(patterns_.back()) + reason);
    auto stream = std::make_shared<SplitStream>();
    if (!stream->build(automaton)) return fail(named(patterns_.back()) + "it takes too large a table");
    file_.split = std::move(stream);
    return true;
  }

  bool model(JsonValue value) {
    if (!value || !value.is_object()) return fail("it has no model");
    const JsonValue type = value.find("type");
    if (type && type_of(value) != "BPE")
      return fail("model \"" + type_of(value) + "\" is not reproduced (only BPE is)");
    if (!only(value, "model.",
              {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
               "byte_fallback", "ignore_merges", "vocab", "merges"})) {
      return false;
    }
    const JsonValue dropout = value.find("dropout");
    if (dropout && !dropout.is_null()) return fail("BPE dropout is random and not reproduced");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const JsonValue affix = value.find(key);
      if (affix && !affix.is_null() && !(affix.is_string() && affix.string().empty())) {
        return fail(std::string("\"") + key + "\" is not reproduced");
      }
    }
    return flag(value, "ignore_merges", file_.ignore_merges) && vocabulary(value.find("vocab")) &&
           merges(value.find("merges"));
  }

  bool vocabulary(JsonValue value) {
    if (!value || !value.is_object()) return fail("the model has no vocabulary");
    std::array<bool, 256> covered{};
    ids_.reserve(value.size());
    for (const auto& [token, id] : value.members()) {
      if (!id.is_integer() || id.integer() > kLargestId)
        return fail("the id of \"" + std::string(token) + "\" is not below 2^20");
      if (!claim(static_cast<uint32_t>(id.integer())))
        return fail("id " + std::to_string(id.integer()) + " occurs twice");
      name(token, static_cast<uint32_t>(id.integer()));
      std::string bytes;
      if (!token_to_bytes(token, bytes)) continue;
      if (bytes.size() == 1) covered[static_cast<uint8_t>(bytes[0])] = true;
      file_.token_bytes[id.integer()] = bytes;
    }
    for (int byte = 0; byte < 256; ++byte) {
      if (!covered[byte] && occurs_in_utf8(byte)) {
        return fail("byte " + std::to_string(byte) + " has no token, so text would be lost");
      }
    }
    model_size_ = static_cast<uint32_t>(value.size());
    return true;
  }

  // Remembers the claimed id of a token, whose string must live as long as this reader.
  void name(std::string_view token, uint32_t id) {
    names_[id] = token;
    ids_.find_or_add(std::hash<std::string_view>()(token), id, [](uint32_t) { return false; });
  }

  // The id of a token of the model, or HashIndex::kNone.
  uint32_t id_of(std::string_view token) const {
    return ids_.find(std::hash<std::string_view>()(token), [&](uint32_t id) { return names_[id] == token; });
  }

  // Marks an id as used; false when it is already.
  bool claim(uint32_t id) {
    if (id >= used_.size()) {
      used_.resize(id + 1);
      names_.resize(id + 1);
      file_.token_bytes.resize(id + 1);
    }
    if (used_[id]) return false;
    return used_[id] = true;
  }

  bool merges(JsonValue value) {
    if (!value || !value.is_array()) return fail("the model has no merges");
    if (value.size() > kLargestId) return fail("the model has more than 2^20 merges");
    file_.merges.reserve(value.size());
    for (const JsonValue item : value.items()) {
      std::string_view left, right;
      if (item.is_string()) {
        const std::string_view line = item.string();
        if (line.substr(0, 8) == "#version") continue;
        const size_t space = line.find(' ');
        if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
          return fail("a merge is not two tokens: \"" + std::string(line) + "\"");
        }
        left = line.substr(0, space);
        right = line.substr(space + 1);
      } else if (item.is_array() && item.size() == 2) {
        auto part = item.items().begin();
        const JsonValue first = *part, second = *++part;
        if (!first.is_string() || !second.is_string()) return fail("a merge is not two tokens");
        left = first.string();
        right = second.string();
      } else {
        return fail("a merge is not two tokens");
      }
      if (!merge(left, right)) return false;
    }
    return true;
  }

  bool merge(std::string_view left, std::string_view right) {
    Merge result;
    if (left.empty() || right.empty()) return fail("a merge uses an empty token");
    joined_.assign(left).append(right);
    if (!find(left, result.left, "uses") || !find(right, result.right, "uses")) return false;
    if (!follows(result.merged) && !find(joined_, result.merged, "makes")) return false;
    file_.merges.push_back(result);
    return true;
  }

  // Whether the token that a merge makes is the next one after the last merge's, as in most files.
  bool follows(uint32_t& id) const {
    if (file_.merges.empty()) return false;
    id = file_.merges.back().merged + 1;
    return id < names_.size() && names_[id] == joined_;
  }

  bool find(std::string_view token, uint32_t& id, const char* role) {
    id = id_of(token);
    return id != HashIndex::kNone ||
           fail(std::string("a merge ") + role + " \"" + std::string(token) + "\", which is not in the vocabulary");
  }

  bool added_tokens(JsonValue value) {
    if (!value || value.is_null()) return true;
    if (!value.is_array()) return fail("\"added_tokens\" is not an array");
    for (const JsonValue item : value.items()) {
      if (!item.is_object()) return fail("an added token is not an object");
      AddedToken token;
      if (!added_token(item, token)) return false;
      file_.added.push_back(token);
    }
    return true;
  }

  bool added_token(JsonValue item, AddedToken& token) {
    if (!only(item, "added_tokens[].", {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"})) {
      return false;
    }
    const JsonValue content = item.find("content");
    const JsonValue id = item.find("id");
    if (!content || !content.is_string() || content.string().empty()) return fail("an added token has no content");
    if (!id || !id.is_integer() || id.integer() > kLargestId) return fail("the id of an added token is not below 2^20");
    token.content = content.string();
    for (const char* key : {"single_word", "lstrip", "rstrip", "normalized", "special"}) {
      if (!item.find(key)) return fail("added token \"" + token.content + "\" lacks \"" + key + "\"");
    }
    if (!flag(item, "single_word", token.single_word) || !flag(item, "lstrip", token.lstrip) ||
        !flag(item, "rstrip", token.rstrip) || !flag(item, "normalized", token.normalized) ||
        !flag(item, "special", token.special)) {
      return false;
    }
    return number(token, static_cast<uint32_t>(id.integer())) && strips(token);
  }

  // Gives the token the id that the `tokenizers` library gives it, which must be the one in the file.
  bool number(AddedToken& token, uint32_t stated) {
    if (!seen_.insert(token.content).second) return fail("added token \"" + token.content + "\" occurs twice");
    const uint32_t known = id_of(token.content);
    const bool above = any_added_ && largest_added_ >= model_size_;
    token.id = known != HashIndex::kNone ? known : above ? largest_added_ + 1 : model_size_;
    if (token.id != stated) {
      return fail("added token \"" + token.content + "\" has id " + std::to_string(stated) +
                  ", but `tokenizers` would give it " + std::to_string(token.id));
    }
    if (known == HashIndex::kNone && !claim(token.id)) return fail("id " + std::to_string(token.id) + " occurs twice");
    largest_added_ = any_added_ ? std::max(largest_added_, token.id) : token.id;
    any_added_ = true;
    return true;
  }

  // A token that strips and is itself edged by white space could overlap its neighbours; nobody has one.
  bool strips(const AddedToken& token) {
    if (!token.lstrip && !token.rstrip) return true;
    size_t length;
    const std::string& content = token.content;
    const uint32_t first = utf8_decode(content.data(), length);
    const uint32_t last = utf8_decode(content.data() + utf8_previous(content.data(), content.size()), length);
    if ((property(first) & kClassMask) != kSpace && (property(last) & kClassMask) != kSpace) return true;
    return fail("added token \"" + content + "\" strips white space and has some at its own edge");
  }

  bool sizes() {
    file_.vocabulary_size = static_cast<uint32_t>(used_.size());
    return true;
  }

  TokenizerFile& file_;
  std::string& error_;
  HashIndex ids_;                        // of the model's tokens
  std::vector<std::string_view> names_;  // by id; strings in the parsed file, empty for ids without token
  std::unordered_set<std::string> seen_;
  std::vector<std::string_view> patterns_;  // of the splits
  std::vector<bool> removes_;               // by pattern: whether what does not match is lost
  std::string joined_;
  std::vector<bool> used_;
  uint32_t model_size_ = 0, largest_added_ = 0;
  bool any_added_ = false;
};

}  // namespace

bool read_tokenizer_file(std::string_view json, TokenizerFile& file, std::string& error) {
  JsonDocument document;
  if (!parse_json(json, document, error)) return false;
  return Reader(file, error).read(document.root());
}

}  // namespace ettin
