// A jsonl file: whatever its bytes, cutting it into lines and reading each line stays inside the buffers, a record
// that is accepted holds valid UTF-8, and cutting the same stream at other places gives the same records.
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/json_record.h"
#include "corpus/stream_cutter.h"
#include "text/utf8.h"

namespace {

constexpr uint64_t kMaximumRecord = 200;

void check(bool condition) {
  if (!condition) std::abort();
}

// What a line gives: the kind of rejection and the texts.
std::string outcome(ettin::JsonRecord& record, std::string_view line) {
  const std::unique_ptr<char[]> exact(new char[line.size()]);  // a read past the end is found
  line.copy(exact.get(), line.size());
  const std::string_view copy(exact.get(), line.size());
  if (ettin::utf8_valid_prefix(copy.data(), copy.size()) != copy.size()) return "invalid_utf8;";
  const ettin::Reject kind = record.parse(copy);
  check(kind == ettin::Reject::kNone || record.error_offset() <= copy.size());
  std::string text = std::string(ettin::reject_name(kind)) + ";";
  if (kind != ettin::Reject::kNone) return text;
  for (uint32_t i = 0; i < record.field(0).count; ++i) {
    const std::string_view found = record.texts(0)[i];
    check(ettin::utf8_valid_prefix(found.data(), found.size()) == found.size());
    text.append(found);
    text += ';';
  }
  return text;
}

// All records of a stream that arrives in pieces of `step` bytes and is cut into blocks of `block_bytes`.
std::string records(std::string_view stream, size_t step, uint64_t block_bytes) {
  ettin::JsonRecord record({"text"});
  ettin::StreamCutter cutter(ettin::RecordKind::kJsonLines, "\n", 0, block_bytes, kMaximumRecord);
  std::string all;
  uint64_t next = 0;
  const auto emit = [&](ettin::Block block) {
    check(block.begin == next && block.end >= block.begin);
    next = block.end;
    for (const auto& rejected : block.rejected) all += std::string(ettin::reject_name(rejected.kind)) + ";";
    std::string_view lines = block.bytes;
    while (!lines.empty()) {
      const size_t end = std::min(lines.find('\n'), lines.size());
      const std::string_view line = lines.substr(0, end);
      all += line.size() > kMaximumRecord ? "too_long;" : outcome(record, line);
      lines.remove_prefix(std::min(end + 1, lines.size()));
    }
  };
  for (size_t at = 0; at < stream.size(); at += step) cutter.append(stream.substr(at, step), emit);
  cutter.finish(false, emit);
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view stream(reinterpret_cast<const char*>(data), size);
  const std::string whole = records(stream, size + 1, 1 << 20);
  check(whole == records(stream, 7, 16));
  check(whole == records(stream, 64, 1));
  return 0;
}
