// A small strict JSON parser for tokenizer files: no recursion beyond a limit, no duplicate keys, no lone surrogates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ettin {

enum class JsonKind : uint8_t { kNull, kFalse, kTrue, kInteger, kReal, kString, kArray, kObject };

// A value with all that is inside of it: the nodes from its own up to `next`, those of an object's members by turns a
// key and a value.
struct JsonNode {
  JsonKind kind = JsonKind::kNull;
  uint32_t next = 0;
  const char* text = nullptr;  // of a string
  uint64_t number = 0;  // bytes of a string, values in an array or object, or what a kInteger is: below 10^19, no sign
};

// A value of a parsed text, or none. Stays valid as long as the text and its JsonDocument.
class JsonValue {
 public:
  JsonValue() = default;
  JsonValue(const JsonNode* nodes, uint32_t at) : nodes_(nodes), at_(at) {}

  explicit operator bool() const { return nodes_; }
  bool is_null() const { return kind() == JsonKind::kNull; }
  bool is_bool() const { return kind() == JsonKind::kFalse || kind() == JsonKind::kTrue; }
  bool is_integer() const { return kind() == JsonKind::kInteger; }
  bool is_string() const { return kind() == JsonKind::kString; }
  bool is_array() const { return kind() == JsonKind::kArray; }
  bool is_object() const { return kind() == JsonKind::kObject; }

  bool boolean() const { return kind() == JsonKind::kTrue; }
  uint64_t integer() const { return node().number; }
  // Of a string; empty for other values.
  std::string_view string() const {
    return is_string() ? std::string_view(node().text, node().number) : std::string_view();
  }
  // Number of values in an array or object; 0 for other values.
  size_t size() const { return is_array() || is_object() ? node().number : 0; }

  template <bool kMembers>
  class Iterator {
   public:
    Iterator(const JsonNode* nodes, uint32_t at) : nodes_(nodes), at_(at) {}
    bool operator!=(const Iterator& other) const { return at_ != other.at_; }
    Iterator& operator++() {
      at_ = nodes_[at_ + kMembers].next;
      return *this;
    }
    auto operator*() const {
      if constexpr (kMembers)
        return std::pair(JsonValue(nodes_, at_).string(), JsonValue(nodes_, at_ + 1));
      else
        return JsonValue(nodes_, at_);
    }

   private:
    const JsonNode* nodes_;
    uint32_t at_;
  };
  template <bool kMembers>
  struct Range {
    Iterator<kMembers> first, last;
    Iterator<kMembers> begin() const { return first; }
    Iterator<kMembers> end() const { return last; }
  };
  // The values of an array; nothing for other values.
  Range<false> items() const { return inside<false>(is_array()); }
  // The members of an object as pairs of key and value; nothing for other values.
  Range<true> members() const { return inside<true>(is_object()); }

  // The member of an object called `key`, or none.
  JsonValue find(std::string_view key) const {
    for (const auto& [name, value] : members()) {
      if (name == key) return value;
    }
    return {};
  }

 private:
  const JsonNode& node() const { return nodes_[at_]; }
  JsonKind kind() const { return node().kind; }
  template <bool kMembers>
  Range<kMembers> inside(bool any) const {
    return {{nodes_, at_ + 1}, {nodes_, any ? node().next : at_ + 1}};
  }

  const JsonNode* nodes_ = nullptr;
  uint32_t at_ = 0;
};

struct JsonDocument {
  std::vector<JsonNode> nodes;
  std::deque<std::string> unescaped;  // strings that are not in the text as they are

  JsonValue root() const { return {nodes.data(), 0}; }
};

// The text without white space outside of strings: equal for files that differ in layout alone. Checks nothing.
std::string compact_json(std::string_view text);

// Parses one JSON text, which must stay alive; false with what is wrong, and at which byte, in `error`. `text` may hold
// anything.
bool parse_json(std::string_view text, JsonDocument& document, std::string& error);

}  // namespace ettin
