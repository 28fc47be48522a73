#include "tokenizer/json.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "base/hash_index.h"
#include "text/json_string.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace ettin {
namespace {

constexpr int kDepthLimit = 64;
constexpr size_t kMostNodes = 1u << 30;
constexpr size_t kBytesOfNode = 16;  // of text, at least, in files with a merge on several lines

class Parser {
 public:
  Parser(std::string_view text, JsonDocument& document)
      : text_(text), nodes_(document.nodes), unescaped_(document.unescaped) {}

  bool document(std::string& error) {
    const size_t valid = utf8_valid_prefix(text_.data(), text_.size());
    nodes_.reserve(text_.size() / kBytesOfNode);
    const bool whole = valid == text_.size() ? parse(0) && at_end() : fail("invalid UTF-8");
    if (!whole) error = std::string(reason_) + " at byte " + std::to_string(valid == text_.size() ? at_ : valid);
    return whole;
  }

 private:
  bool fail(const char* reason) {
    if (!reason_) reason_ = reason;
    return false;
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
      ++at_;
  }

  bool at_end() {
    skip_space();
    return at_ == text_.size() || fail("text after the end of the JSON value");
  }

  bool take(char expected) {
    if (at_ >= text_.size() || text_[at_] != expected) return false;
    ++at_;
    return true;
  }

  // The node of a value without others inside.
  JsonNode& add(JsonKind kind) {
    JsonNode node;
    node.kind = kind;
    node.next = static_cast<uint32_t>(nodes_.size() + 1);
    return nodes_.emplace_back(node);
  }

  bool word(std::string_view expected, JsonKind kind) {
    if (text_.substr(at_, expected.size()) != expected) return fail("unknown word");
    at_ += expected.size();
    add(kind);
    return true;
  }

  bool parse(int depth) {
    if (depth > kDepthLimit) return fail("nested too deeply");
    if (nodes_.size() > kMostNodes) return fail("too many values");
    skip_space();
    if (at_ >= text_.size()) return fail("a value is missing");
    switch (text_[at_]) {
      case '{': return object(depth);
      case '[': return array(depth);
      case '"': return string();
      case 't': return word("true", JsonKind::kTrue);
      case 'f': return word("false", JsonKind::kFalse);
      case 'n': return word("null", JsonKind::kNull);
      default: return number();
    }
  }

  // Notes where the value of node `at`, which has `count` values inside, ends.
  bool close(size_t at, uint64_t count) {
    nodes_[at].number = count;
    nodes_[at].next = static_cast<uint32_t>(nodes_.size());
    return true;
  }

  bool array(int depth) {
    const size_t own = nodes_.size();
    uint64_t count = 0;
    add(JsonKind::kArray);
    ++at_;
    skip_space();
    if (take(']')) return true;
    do {
      if (!parse(depth + 1)) return false;
      ++count;
      skip_space();
    } while (take(','));
    return take(']') ? close(own, count) : fail("',' or ']' is missing");
  }

  bool object(int depth) {
    const size_t own = nodes_.size();
    uint64_t count = 0;
    add(JsonKind::kObject);
    ++at_;
    skip_space();
    if (take('}')) return true;
    do {
      skip_space();
      if (at_ >= text_.size() || text_[at_] != '"') return fail("a key is missing");
      if (!string()) return false;
      skip_space();
      if (!take(':')) return fail("':' is missing");
      if (!parse(depth + 1)) return false;
      ++count;
      skip_space();
    } while (take(','));
    return take('}') ? close(own, count) && distinct(own) : fail("',' or '}' is missing");
  }

  bool distinct(size_t object) {
    HashIndex keys(nodes_[object].number);
    const auto key = [&](uint32_t at) { return std::string_view(nodes_[at].text, nodes_[at].number); };
    for (auto at = static_cast<uint32_t>(object + 1); at < nodes_[object].next; at = nodes_[at + 1].next) {
      const auto same = [&](uint32_t other) { return key(other) == key(at); };
      if (keys.find_or_add(std::hash<std::string_view>()(key(at)), at, same) != at) return fail("a key occurs twice");
    }
    return true;
  }

  bool string() {
    const char* const begin = text_.data() + ++at_;
    const char* const plain = json_run_end(begin, text_.data() + text_.size());
    const auto size = static_cast<size_t>(plain - begin);
    if (at_ + size < text_.size() && *plain == '"') {
      at_ += size + 1;
      return add_string({begin, size});
    }
    return unescape(unescaped_.emplace_back()) && add_string(unescaped_.back());
  }

  bool add_string(std::string_view string) {
    JsonNode& node = add(JsonKind::kString);
    node.text = string.data();
    node.number = string.size();
    return true;
  }

  bool unescape(std::string& out) {
    while (at_ < text_.size()) {
      const size_t plain =
          static_cast<size_t>(json_run_end(text_.data() + at_, text_.data() + text_.size()) - text_.data());
      out.append(text_, at_, plain - at_);
      if ((at_ = plain) == text_.size()) break;
      const char byte = text_[at_++];
      if (byte == '"') return true;
      if (byte != '\\') return fail("a control character in a string");
      if (!escape(out)) return false;
    }
    return fail("a string without end");
  }

  bool escape(std::string& out) {
    if (at_ >= text_.size()) return fail("a string without end");
    const char kind = text_[at_++];
    static const char kNames[] = "\"\\/bfnrt", kMeanings[] = "\"\\/\b\f\n\r\t";
    if (kind == 'u') return unicode_escape(out);
    const char* found = kind ? std::strchr(kNames, kind) : nullptr;
    if (!found) return fail("an unknown escape");
    out += kMeanings[found - kNames];
    return true;
  }

  bool unicode_escape(std::string& out) {
    uint32_t code, low;
    if (!hexadecimal(code)) return false;
    if (code >= 0xD800 && code < 0xE000) {
      if (code >= 0xDC00 || text_.substr(at_, 2) != "\\u") return fail("a lone surrogate");
      at_ += 2;
      if (!hexadecimal(low)) return false;
      if (low < 0xDC00 || low > 0xDFFF) return fail("a lone surrogate");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    utf8_append(out, code);
    return true;
  }

  bool hexadecimal(uint32_t& code) {
    if (text_.size() - at_ < 4) return fail("a string without end");
    code = 0;
    for (const size_t end = at_ + 4; at_ < end; ++at_) {
      const char digit = text_[at_], lower = digit | 0x20;
      if (digit >= '0' && digit <= '9') {
        code = code * 16 + (digit - '0');
      } else if (lower >= 'a' && lower <= 'f') {
        code = code * 16 + (lower - 'a' + 10);
      } else {
        return fail("a bad \\u escape");
      }
    }
    return true;
  }

  size_t digits() {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    return at_ - begin;
  }

  bool number() {
    const bool negative = take('-');
    const size_t begin = at_;
    if (!digits()) return fail("not a JSON value");
    const std::string_view whole = text_.substr(begin, at_ - begin);
    if (whole.size() > 1 && whole[0] == '0') return fail("a number with a leading zero");
    bool real = negative || whole.size() > 19;
    if (take('.')) {
      real = true;
      if (!digits()) return fail("a number without digits after the point");
    }
    if (take('e') || take('E')) {
      real = true;
      if (!take('+')) take('-');
      if (!digits()) return fail("a number without an exponent");
    }
    JsonNode& node = add(real ? JsonKind::kReal : JsonKind::kInteger);
    if (!real) {
      for (const char digit : whole) node.number = node.number * 10 + (digit - '0');
    }
    return true;
  }

  std::string_view text_;
  std::vector<JsonNode>& nodes_;
  std::deque<std::string>& unescaped_;
  size_t at_ = 0;
  const char* reason_ = nullptr;
};

}  // namespace

std::string compact_json(std::string_view text) {
  std::string out(text.size(), '\0');
  char* to = out.data();
  bool inside = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char byte = text[at];
    *to = byte;
    // Written first and kept by counting: a jump for every byte would be mistaken at every end of white space.
    to += inside | !(byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t');
    inside ^= byte == '"';
    if (inside && byte == '\\' && at + 1 < text.size()) *to++ = text[++at];
  }
  out.resize(static_cast<size_t>(to - out.data()));
  return out;
}

bool parse_json(std::string_view text, JsonDocument& document, std::string& error) {
  return Parser(text, document).document(error);
}

}  // namespace ettin
