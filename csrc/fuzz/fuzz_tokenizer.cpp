// Fuzz target for tokenizer.json and for the encoder. The first byte of an input says what the rest is: a whole
// tokenizer.json, its added tokens, its merges, a text that every instruction set must encode alike, or split
// expressions with a text behind them, one a line.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "splits/stream.h"
#include "tokenizer/tokenizer.h"
#include "text/unicode.h"
#include "text/utf8.h"

namespace {

using namespace ettin;
#include "tokenizer/generic/stream_splitter.h"

// A character of the byte-level alphabet, as a JSON string.
std::string letter(int byte) {
  static int next = 256;
  const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
  std::string text;
  utf8_append(text, printable ? byte : next++);
  return text == "\"" || text == "\\" ? "\\" + text : text;
}

// A small tokenizer: bytes, some merges, and the given parts.
std::string skeleton(const std::string& added, const std::string& merges, bool runs) {
  static const std::string bytes = [] {
    std::string result;
    for (int byte = 0; byte < 256; ++byte) result += "\"" + letter(byte) + "\":" + std::to_string(byte) + ",";
    return result;
  }();
  std::string tokens = added;
  for (int size = 2; runs && size <= 24; ++size) {
    tokens += (tokens.empty() ? "" : ",") + std::string("{\"id\":") + std::to_string(264 + size) + ",\"content\":\"" +
              std::string(size, ' ') +
              "\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":true,\"special\":false}";
  }
  return "{\"added_tokens\":[" + tokens +
         "],\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\","
         "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"vocab\":"
         "{" +
         bytes +
         "\"ab\":256,\"abc\":257,\"bc\":258,\"aa\":259,\"aaa\":260,\"\xC3\x83\xC2\xA9\":261,\"\xC4\xA0"
         "a\":262,\"aaaa\":263,\"th\":264,\"the\":265},"
         "\"merges\":[" +
         merges + "]}}";
}

const char kMerges[] =
    "[\"b\",\"c\"],[\"a\",\"b\"],[\"a\",\"bc\"],[\"aa\",\"a\"],[\"a\",\"a\"],[\"aa\",\"aa\"],[\"t\",\"h\"],[\"th\","
    "\"e\"]";

void check_file(const std::string& json) {
  std::string error;
  const auto tokenizer = Tokenizer::from_json(json, error);
  if (!tokenizer && error.empty()) std::abort();
  if (!tokenizer || json.size() % 16) return;  // an encoder is large: not for every input
  IdVector ids;
  uint64_t specials = 0;
  Encoder encoder(tokenizer, SpecialPolicy::kSpecial);
  encoder.encode("abc the  \n  don't  e\xCC\x81 123 [MASK] <|endoftext|>", ids, specials);
  encoder.encode(json.substr(0, 0), ids, specials);
  for (const uint32_t id : ids) {
    if (id >= tokenizer->vocabulary_size()) std::abort();
  }
}

void check_text(std::string_view text) {
  static std::string error;
  static const auto tokenizer = Tokenizer::from_json(skeleton("", kMerges, true), error);
  if (!tokenizer) std::fputs(error.c_str(), stderr), std::abort();
  static Encoder encoders[] = {Encoder(tokenizer, SpecialPolicy::kSpecial, InstructionSet::kPortable),
                               Encoder(tokenizer, SpecialPolicy::kSpecial, InstructionSet::kAvx2),
                               Encoder(tokenizer, SpecialPolicy::kSpecial, InstructionSet::kAvx512Vbmi)};
  if (utf8_valid_prefix(text.data(), text.size()) != text.size()) return;
  IdVector expected, ids;
  uint64_t specials = 0;
  encoders[0].encode(text, expected, specials);
  for (Encoder& encoder : encoders) {
    ids.clear();
    encoder.encode(text, ids, specials);
    if (ids != expected) std::abort();
  }
}

// Words by the table are those of the plain scanner, cover the text, and none is empty.
void check_words(const SplitStream& stream, std::string_view text) {
  StreamSplitter splitter(stream, text);
  SplitScanner scanner(stream.automaton(), text);
  uint32_t starts[256];
  size_t words = 0, expected = 0;
  while (!splitter.done()) {
    const size_t known = words ? 1 : 0;
    words = splitter.append_starts(starts, known, 100);
    for (size_t at = known; at < words; ++at) {
      if (starts[at] != expected) std::abort();
      const size_t end = scanner.word_end(expected);
      if (end <= expected || end > text.size()) std::abort();
      expected = end;
    }
    starts[0] = starts[words - 1];
  }
  if (expected != text.size()) std::abort();
}

void check_expressions(std::string_view lines) {
  if (utf8_valid_prefix(lines.data(), lines.size()) != lines.size()) return;
  std::vector<SplitExpression> expressions;
  std::string error;
  size_t end;
  for (; expressions.size() < 3 && (end = lines.find('\n')) != std::string_view::npos; lines.remove_prefix(end + 1)) {
    expressions.emplace_back();
    if (parse_split_expression(lines.substr(0, end), expressions.back(), error)) continue;
    if (error.empty()) std::abort();
    return;
  }
  SplitAutomaton automaton;
  SplitStream stream;
  if (expressions.empty() || lines.empty() || !automaton.build(expressions, error) || !stream.build(automaton)) return;
  automaton.covers();
  check_words(stream, lines);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (!size) return 0;
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 8) {
    case 0: check_file(rest); break;
    case 1: check_file(skeleton(rest, kMerges, false)); break;
    case 2: check_file(skeleton("", rest, false)); break;
    case 3: check_text(rest); break;
    default: check_expressions(rest);
  }
  return 0;
}
