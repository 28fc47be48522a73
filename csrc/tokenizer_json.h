// A small strict JSON parser for tokenizer files: no recursion beyond a limit, no duplicate keys, no lone surrogates.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ettin {

struct JsonValue {
  enum class Kind : uint8_t { kNull, kBool, kInteger, kReal, kString, kArray, kObject };

  Kind kind = Kind::kNull;
  bool boolean = false;
  uint64_t integer = 0;  // kInteger: a number without sign, fraction or exponent below 10^19
  std::string string;
  std::vector<JsonValue> items;
  std::vector<std::pair<std::string, JsonValue>> members;

  bool is_null() const { return kind == Kind::kNull; }
  bool is_bool() const { return kind == Kind::kBool; }
  bool is_integer() const { return kind == Kind::kInteger; }
  bool is_string() const { return kind == Kind::kString; }
  bool is_array() const { return kind == Kind::kArray; }
  bool is_object() const { return kind == Kind::kObject; }

  // The member called `key` of an object, or null.
  const JsonValue* find(std::string_view key) const {
    for (const auto& member : members) {
      if (member.first == key) return &member.second;
    }
    return nullptr;
  }
};

// The text without white space outside of strings: equal for files that differ in layout alone. Checks nothing.
std::string compact_json(std::string_view text);

// Parses one JSON text; false with what is wrong, and at which byte, in `error`. `text` may hold anything.
bool parse_json(std::string_view text, JsonValue& value, std::string& error);

}  // namespace ettin
