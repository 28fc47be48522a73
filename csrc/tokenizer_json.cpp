#include "tokenizer_json.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "hash_index.h"
#include "unicode.h"

namespace ettin {
namespace {

constexpr int kDepthLimit = 64;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  bool document(JsonValue& value, std::string& error) {
    const bool whole = utf8_valid(text_) ? parse(value, 0) && at_end() : fail("invalid UTF-8");
    if (!whole) error = std::string(reason_) + " at byte " + std::to_string(at_);
    return whole;
  }

 private:
  bool fail(const char* reason) {
    if (!reason_) reason_ = reason;
    return false;
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) ++at_;
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

  bool word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) return fail("unknown word");
    at_ += expected.size();
    return true;
  }

  bool parse(JsonValue& value, int depth) {
    if (depth > kDepthLimit) return fail("nested too deeply");
    skip_space();
    if (at_ >= text_.size()) return fail("a value is missing");
    switch (text_[at_]) {
      case '{': return object(value, depth);
      case '[': return array(value, depth);
      case '"': value.kind = JsonValue::Kind::kString; return string(value.string);
      case 't': value.kind = JsonValue::Kind::kBool; value.boolean = true; return word("true");
      case 'f': value.kind = JsonValue::Kind::kBool; return word("false");
      case 'n': return word("null");
      default: return number(value);
    }
  }

  bool array(JsonValue& value, int depth) {
    value.kind = JsonValue::Kind::kArray;
    ++at_;
    skip_space();
    if (take(']')) return true;
    value.items.reserve(2);  // most arrays are merges
    do {
      value.items.emplace_back();
      if (!parse(value.items.back(), depth + 1)) return false;
      skip_space();
    } while (take(','));
    return take(']') || fail("',' or ']' is missing");
  }

  bool object(JsonValue& value, int depth) {
    value.kind = JsonValue::Kind::kObject;
    ++at_;
    skip_space();
    if (take('}')) return true;
    do {
      skip_space();
      if (at_ >= text_.size() || text_[at_] != '"') return fail("a key is missing");
      value.members.emplace_back();
      auto& member = value.members.back();
      if (!string(member.first)) return false;
      skip_space();
      if (!take(':')) return fail("':' is missing");
      if (!parse(member.second, depth + 1)) return false;
      skip_space();
    } while (take(','));
    return take('}') ? distinct(value) : fail("',' or '}' is missing");
  }

  bool distinct(const JsonValue& object) {
    const auto& members = object.members;
    HashIndex keys(members.size());
    for (uint32_t at = 0; at < members.size(); ++at) {
      const std::string_view key = members[at].first;
      const auto same = [&](uint32_t other) { return members[other].first == key; };
      if (keys.find_or_add(std::hash<std::string_view>()(key), at, same) != at) return fail("a key occurs twice");
    }
    return true;
  }

  bool string(std::string& out) {
    ++at_;
    while (at_ < text_.size()) {
      size_t plain = at_;
      while (plain < text_.size() && text_[plain] != '"' && text_[plain] != '\\' && static_cast<uint8_t>(text_[plain]) >= 0x20) ++plain;
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

  bool number(JsonValue& value) {
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
    value.kind = real ? JsonValue::Kind::kReal : JsonValue::Kind::kInteger;
    if (!real) {
      for (const char digit : whole) value.integer = value.integer * 10 + (digit - '0');
    }
    return true;
  }

  std::string_view text_;
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

bool parse_json(std::string_view text, JsonValue& value, std::string& error) {
  return Parser(text).document(value, error);
}

}  // namespace ettin
