// Text that is cut at a separator: the documents are those of a plain split, wherever the stream is cut.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/stream_cutter.h"

namespace {

constexpr uint64_t kNoLimit = 1 << 20;

std::vector<std::string> plain_split(std::string_view text, std::string_view separator) {
  std::vector<std::string> documents;
  while (!text.empty()) {
    const size_t at = text.find(separator);
    documents.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) break;
    text.remove_prefix(at + separator.size());
  }
  return documents;
}

std::vector<std::string> cut(std::string_view text, const std::string& separator, size_t step, uint64_t block_bytes,
                             uint64_t maximum) {
  std::vector<std::string> documents;
  ettin::StreamCutter cutter(ettin::RecordKind::kTexts, separator, 0, block_bytes, maximum);
  uint64_t next = 0;
  const auto emit = [&](const ettin::Block& block) {
    if (block.begin != next) std::abort();
    next = block.end;
    uint64_t begin = 0;
    for (const uint64_t end : block.ends) {
      if (end < begin || end > block.bytes.size()) std::abort();
      documents.push_back(block.bytes.substr(begin, end - begin));
      begin = end + block.separator;
    }
    if (begin > block.bytes.size() + block.separator) std::abort();
  };
  for (size_t at = 0; at < text.size(); at += step) cutter.append(text.substr(at, step), emit);
  cutter.finish(false, emit);
  if (next != text.size()) std::abort();
  return documents;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t length = 1 + data[0] % 3;
  if (size < 1 + length) return 0;
  const std::string separator(reinterpret_cast<const char*>(data) + 1, length);
  const std::string_view text(reinterpret_cast<const char*>(data) + 1 + length, size - 1 - length);
  const std::vector<std::string> expected = plain_split(text, separator);
  if (cut(text, separator, text.size() + 1, kNoLimit, kNoLimit) != expected) std::abort();
  if (cut(text, separator, 1, 1, kNoLimit) != expected) std::abort();
  if (cut(text, separator, 5, 9, kNoLimit) != expected) std::abort();
  cut(text, separator, 3, 4, 6);  // with records that are too long
  return 0;
}
