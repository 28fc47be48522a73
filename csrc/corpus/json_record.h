// One line of a jsonl file: the whole line is checked against the grammar that Python's json.loads accepts
// (RFC 8259 plus NaN and infinities), and the strings under the wanted keys are taken out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/reject.h"

namespace ettin {

struct JsonField {
  enum class Kind : uint8_t { kMissing, kOther, kText, kList };
  Kind kind = Kind::kMissing;
  uint32_t first = 0;  // in JsonRecord::texts
  uint32_t count = 0;
  uint64_t lone_surrogates = 0;
};

class JsonRecord {
 public:
  explicit JsonRecord(std::vector<std::string> keys) : keys_(std::move(keys)), fields_(keys_.size()) {}

  // Parses a line of valid UTF-8. On success every field is a string or a list of strings, and the views of
  // texts(i) stay valid until the next call or until `line` goes.
  Reject parse(std::string_view line);

  // The strings of field i: one, or those of a list.
  const std::string_view* texts(size_t i) const { return texts_.data() + fields_[i].first; }
  const JsonField& field(size_t i) const { return fields_[i]; }
  // Gives back the buffer for decoded strings when one huge line made it larger than `limit` bytes.
  void release_large_buffers(size_t limit) {
    if (arena_.capacity() > limit) std::vector<char>().swap(arena_);
  }
  const char* reason() const { return reason_; }
  size_t error_offset() const { return error_offset_; }

 private:
  bool fail(const char* reason, const char* at);
  void skip_space();
  bool object_member();
  bool key_index(size_t& index);
  bool wanted_value(size_t index);
  bool string_value(std::string_view& text, uint64_t& lone_surrogates);
  bool string_list(JsonField& field);
  bool skip_string();
  bool skip_scalar();
  bool skip_number();
  bool skip_literal(std::string_view literal);
  bool skip_value();
  bool after_value(std::vector<char>& open, bool& done);

  std::vector<std::string> keys_;
  std::vector<JsonField> fields_;
  std::vector<std::string_view> texts_;
  std::vector<char> arena_;  // decoded strings; never moves during a line
  size_t arena_used_ = 0;
  std::vector<char> open_;  // closing brackets that skip_value waits for
  const char* begin_ = nullptr;
  const char* at_ = nullptr;
  const char* end_ = nullptr;
  const char* reason_ = "";
  size_t error_offset_ = 0;
};

}  // namespace ettin
