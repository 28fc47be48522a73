#include "corpus/json_record.h"

#include "text/json_string.h"

namespace ettin {
namespace {

constexpr size_t kMaximumDepth = 1000;  // of the values that are skipped; Python's own limit is the same
constexpr size_t kArenaSlack = 64;      // json_unescape may write this far past its result

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

bool JsonRecord::fail(const char* reason, const char* at) {
  reason_ = reason;
  error_offset_ = static_cast<size_t>(at - begin_);
  return false;
}

void JsonRecord::skip_space() {
  while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\n' || *at_ == '\r')) ++at_;
}

Reject JsonRecord::parse(std::string_view line) {
  begin_ = at_ = line.data();
  end_ = at_ + line.size();
  texts_.clear();
  arena_used_ = 0;
  for (auto& field : fields_) field = JsonField{};
  if (line.substr(0, 3) == "\xEF\xBB\xBF") {
    fail("the line starts with a byte order mark", at_);
    return Reject::kByteOrderMark;
  }
  skip_space();
  if (at_ == end_ || *at_ != '{') {
    fail("not an object", at_);
    return Reject::kInvalidJson;
  }
  ++at_;
  skip_space();
  if (at_ != end_ && *at_ == '}') {
    ++at_;
  } else {
    for (;;) {
      if (!object_member()) return Reject::kInvalidJson;
      skip_space();
      if (at_ == end_ || (*at_ != ',' && *at_ != '}')) {
        fail("expected ',' or '}'", at_);
        return Reject::kInvalidJson;
      }
      if (*at_++ == '}') break;
      skip_space();
    }
  }
  skip_space();
  if (at_ != end_) {
    fail("text after the object", at_);
    return Reject::kInvalidJson;
  }
  for (size_t i = 0; i < keys_.size(); ++i) {
    if (fields_[i].kind == JsonField::Kind::kMissing) {
      fail("a key is missing", begin_);
      return Reject::kMissingKey;
    }
    if (fields_[i].kind == JsonField::Kind::kOther) {
      fail("the value is not a string", begin_);
      return Reject::kNotAString;
    }
  }
  return Reject::kNone;
}

bool JsonRecord::object_member() {
  size_t index = 0;
  if (!key_index(index)) return false;
  skip_space();
  if (at_ == end_ || *at_ != ':') return fail("expected ':'", at_);
  ++at_;
  skip_space();
  return index < keys_.size() ? wanted_value(index) : skip_value();
}

// Reads a key; `index` is its place among the wanted keys, or their number when it is another.
bool JsonRecord::key_index(size_t& index) {
  if (at_ == end_ || *at_ != '"') return fail("expected a key in quotes", at_);
  std::string_view key;
  uint64_t surrogates = 0;
  if (!string_value(key, surrogates)) return false;
  for (index = 0; index < keys_.size() && keys_[index] != key; ++index) {
  }
  return true;
}

// The value of a wanted key; of two with the same key the last one counts.
bool JsonRecord::wanted_value(size_t index) {
  JsonField& field = fields_[index];
  field = JsonField{};
  field.first = static_cast<uint32_t>(texts_.size());
  if (at_ != end_ && *at_ == '"') {
    field.kind = JsonField::Kind::kText;
    field.count = 1;
    std::string_view text;
    if (!string_value(text, field.lone_surrogates)) return false;
    texts_.push_back(text);
    return true;
  }
  if (at_ != end_ && *at_ == '[') return string_list(field);
  field.kind = JsonField::Kind::kOther;
  return skip_value();
}

// A list of strings is a document of several sequences; a list with anything else in it is no text.
bool JsonRecord::string_list(JsonField& field) {
  const char* const start = at_;
  field.kind = JsonField::Kind::kList;
  ++at_;
  skip_space();
  if (at_ != end_ && *at_ == ']') {
    ++at_;
    return true;
  }
  for (;;) {
    if (at_ == end_ || *at_ != '"') {
      field.kind = JsonField::Kind::kOther;
      at_ = start;
      return skip_value();
    }
    std::string_view text;
    if (!string_value(text, field.lone_surrogates)) return false;
    texts_.push_back(text);
    ++field.count;
    skip_space();
    if (at_ == end_ || (*at_ != ',' && *at_ != ']')) return fail("expected ',' or ']'", at_);
    if (*at_++ == ']') return true;
    skip_space();
  }
}

// The string at the cursor, decoded; without escapes it is a view of the line.
bool JsonRecord::string_value(std::string_view& text, uint64_t& lone_surrogates) {
  const char* const start = ++at_;
  const char* run = json_run_end(at_, end_);
  if (run != end_ && *run == '"') {
    text = std::string_view(start, static_cast<size_t>(run - start));
    at_ = run + 1;
    return true;
  }
  const auto needed = static_cast<size_t>(end_ - begin_) + kArenaSlack;
  if (arena_.size() < needed) {
    if (arena_used_ == 0) arena_.resize(needed + needed / 2);
  }
  char* to = arena_.data() + arena_used_;
  const Unescaped result = json_unescape(start, end_, to);
  if (result.error != nullptr) return fail(result.error, result.end);
  lone_surrogates += result.lone_surrogates;
  text = std::string_view(to, result.size);
  arena_used_ += result.size;
  at_ = result.end + 1;
  return true;
}

bool JsonRecord::skip_string() {
  ++at_;
  for (;;) {
    at_ = json_run_end(at_, end_);
    if (at_ == end_) return fail("unterminated string", at_);
    if (*at_ == '"') break;
    if (*at_ != '\\') return fail("control character in a string", at_);
    if (end_ - at_ < 2) return fail("unterminated string", at_);
    const char letter = at_[1];
    if (letter == 'u') {
      if (end_ - at_ < 6) return fail("invalid \\u escape", at_);
      for (int i = 2; i < 6; ++i) {
        const char c = at_[i];
        if (!is_digit(c) && !(c >= 'a' && c <= 'f') && !(c >= 'A' && c <= 'F')) return fail("invalid \\u escape", at_);
      }
      at_ += 6;
      continue;
    }
    if (std::string_view("\"\\/bfnrt").find(letter) == std::string_view::npos) return fail("invalid escape", at_);
    at_ += 2;
  }
  ++at_;
  return true;
}

bool JsonRecord::skip_literal(std::string_view literal) {
  if (std::string_view(at_, static_cast<size_t>(end_ - at_)).substr(0, literal.size()) != literal) {
    return fail("not a JSON value", at_);
  }
  at_ += literal.size();
  return true;
}

bool JsonRecord::skip_number() {
  if (*at_ == '-') {
    ++at_;
    if (at_ != end_ && *at_ == 'I') return skip_literal("Infinity");
  }
  if (at_ == end_ || !is_digit(*at_)) return fail("not a number", at_);
  if (*at_ == '0') {
    ++at_;
  } else {
    while (at_ != end_ && is_digit(*at_)) ++at_;
  }
  if (end_ - at_ >= 2 && *at_ == '.' && is_digit(at_[1])) {
    for (++at_; at_ != end_ && is_digit(*at_);) ++at_;
  }
  if (at_ != end_ && (*at_ == 'e' || *at_ == 'E')) {
    const char* digits = at_ + 1;
    if (digits != end_ && (*digits == '+' || *digits == '-')) ++digits;
    if (digits == end_ || !is_digit(*digits)) return fail("not a number", at_);
    for (at_ = digits; at_ != end_ && is_digit(*at_);) ++at_;
  }
  return true;
}

bool JsonRecord::skip_scalar() {
  if (at_ == end_) return fail("expected a value", at_);
  switch (*at_) {
    case '"': return skip_string();
    case 't': return skip_literal("true");
    case 'f': return skip_literal("false");
    case 'n': return skip_literal("null");
    case 'N': return skip_literal("NaN");
    case 'I': return skip_literal("Infinity");
    default:
      if (*at_ == '-' || is_digit(*at_)) return skip_number();
      return fail("expected a value", at_);
  }
}

// After a value inside brackets: closes as many as end here, or moves to the next member.
bool JsonRecord::after_value(std::vector<char>& open, bool& done) {
  for (;;) {
    if (open.empty()) {
      done = true;
      return true;
    }
    skip_space();
    if (at_ == end_) return fail("unterminated value", at_);
    if (*at_ == open.back()) {
      open.pop_back();
      ++at_;
      continue;
    }
    if (*at_ != ',') return fail("expected ',' or a closing bracket", at_);
    ++at_;
    skip_space();
    return true;
  }
}

// Skips one value of any kind, without recursion.
bool JsonRecord::skip_value() {
  open_.clear();
  bool done = false;
  while (!done) {
    const bool opens = at_ != end_ && (*at_ == '{' || *at_ == '[');
    bool empty = false;
    if (opens) {
      if (open_.size() >= kMaximumDepth) return fail("nested too deeply", at_);
      open_.push_back(*at_++ == '{' ? '}' : ']');
      skip_space();
      empty = at_ != end_ && *at_ == open_.back();
    } else if (!skip_scalar()) {
      return false;
    }
    if ((!opens || empty) && !after_value(open_, done)) return false;
    if (!done && open_.back() == '}') {
      if (at_ == end_ || *at_ != '"') return fail("expected a key in quotes", at_);
      if (!skip_string()) return false;
      skip_space();
      if (at_ == end_ || *at_ != ':') return fail("expected ':'", at_);
      ++at_;
      skip_space();
    }
  }
  return true;
}

}  // namespace ettin
