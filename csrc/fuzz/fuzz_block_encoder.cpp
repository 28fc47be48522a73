// Blocks of any records, as the readers of files hand them on: lines, texts in rows, ids. What comes out adds up, no id
// is outside the vocabulary, and skipping bad records gives the good ones as if they stood alone.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "corpus/block_encoder.h"

namespace {

constexpr uint32_t kVocabulary = 256;
constexpr uint64_t kMaximumRecord = 40;

void check(bool condition) {
  if (!condition) std::abort();
}

// An id a byte; a text that holds "!" is refused.
class ByteEncoder : public ettin::TextEncoder {
 public:
  bool encode(std::string_view text, ettin::IdVector& ids, uint64_t& specials) override {
    return encode_bytes(text, ids, specials);
  }
  bool encode(std::string_view text, ettin::NarrowIdVector& ids, uint64_t& specials) override {
    return encode_bytes(text, ids, specials);
  }

 private:
  template <class Ids>
  static bool encode_bytes(std::string_view text, Ids& ids, uint64_t& specials) {
    for (const char c : text) {
      if (c == '!') return false;
      specials += c == '#';
      ids.push_back(static_cast<uint8_t>(c));
    }
    return true;
  }
};

ettin::EncodeSettings settings(bool skip, bool two_keys) {
  ettin::EncodeSettings made;
  made.keys = two_keys ? std::vector<std::string>{"text", "b"} : std::vector<std::string>{"text"};
  made.vocabulary = kVocabulary;
  made.append_eod = 3;
  made.template_first = 1;
  made.template_last = 2;
  made.maximum_record = kMaximumRecord;
  made.on_error_skip = skip;
  made.text_encoder = [] { return std::make_unique<ByteEncoder>(); };
  return made;
}

struct Encoders {
  const ettin::EncodeSettings stops = settings(false, false), skips = settings(true, false),
                              pairs = settings(true, true);
  ettin::BlockEncoder stop{stops}, skip{skips}, pair{pairs};
};

// Cuts `rest` into records at ascending ends that its first bytes name.
ettin::Block make_block(const uint8_t* data, size_t size, ettin::RecordKind kind, size_t width) {
  ettin::Block block;
  block.kind = kind;
  if (kind == ettin::RecordKind::kJsonLines) {
    block.bytes.assign(reinterpret_cast<const char*>(data), size);
    block.end = size;
    return block;
  }
  const size_t rows = size == 0 ? 0 : std::min<size_t>(data[0] % 8, (size - 1) / width);
  const uint8_t* lengths = data + 1;
  if (size != 0) data += 1 + rows * width, size -= 1 + rows * width;
  const size_t unit = kind == ettin::RecordKind::kIds ? 4 : 1;
  block.bytes.assign(reinterpret_cast<const char*>(data), size / unit * unit);
  if (kind == ettin::RecordKind::kIds) {
    for (size_t i = 0; i + 4 <= block.bytes.size(); i += 4) {
      if (block.bytes[i + 3] % 4 != 0) std::memset(block.bytes.data() + i + 1, 0, 3);  // most ids are of the vocabulary
    }
  }
  uint64_t end = 0;
  for (size_t i = 0; i < rows * width; ++i) {
    end = std::min<uint64_t>(end + lengths[i] % 50, block.bytes.size() / unit);
    block.ends.push_back(end);
  }
  if (size != 0 && data[0] % 3 == 0) {
    for (size_t row = 0; row < rows; ++row) block.missing.push_back(lengths[row] % 5 == 0);
  }
  block.counts_rows = true;
  block.end = rows;
  return block;
}

void check_result(const ettin::BlockResult& result) {
  check(result.failure.empty());
  check(result.lines == result.documents + result.blank_lines + result.rejected.size());
  for (const auto& record : result.rejected)
    check(record.line >= 1 && record.line <= result.lines && !record.reason.empty());
  for (const auto& part : result.outputs) {
    check(part.sequences.size() == result.documents && part.hashes.size() == result.documents);
    uint64_t sequences = 0, tokens = 0;
    for (const uint32_t count : part.sequences) sequences += count;
    for (const int32_t length : part.lengths) {
      check(length > 0);
      tokens += static_cast<uint64_t>(length);
    }
    check(sequences == part.lengths.size() && part.tokens.bytes() == 2 * tokens && part.counts.tokens == tokens);
    for (size_t i = 0; i < part.tokens.bytes(); i += 2) {
      uint16_t id;
      std::memcpy(&id, static_cast<const char*>(part.tokens.data()) + i, 2);
      check(id < kVocabulary);
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Encoders encoders;
  if (size == 0) return 0;
  const auto kind = static_cast<ettin::RecordKind>(data[0] % 3);
  const bool two_keys = data[0] / 3 % 2 == 1 && kind != ettin::RecordKind::kIds;
  ettin::Block block = make_block(data + 1, size - 1, kind, two_keys ? 2 : 1);
  const auto skipped = (two_keys ? encoders.pair : encoders.skip).run(block);
  check_result(*skipped);
  if (two_keys) return 0;
  const auto stopped = encoders.stop.run(block);
  check(stopped->rejected.empty() == skipped->rejected.empty());
  if (stopped->rejected.empty()) {
    check(stopped->documents == skipped->documents && stopped->outputs[0].tokens == skipped->outputs[0].tokens);
    check(stopped->outputs[0].hashes == skipped->outputs[0].hashes);
  } else {
    const auto& first = skipped->rejected[0];
    check(stopped->rejected.size() == 1 && stopped->rejected[0].kind == first.kind &&
          stopped->rejected[0].line == first.line);
    check(stopped->outputs[0].tokens.size() <= skipped->outputs[0].tokens.size());
  }
  return 0;
}
