// An .idx and a .bin file of any content: the reader refuses them, or every document it gives lies inside the .bin
// file and holds the ids that stand there.
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "rows/indexed_corpus.h"

namespace {

constexpr size_t kHeader = 34;

void check(bool condition) {
  if (!condition) std::abort();
}

// A pair of files in memory, written over for each input.
class Pair {
 public:
  Pair() : prefix_("/dev/shm/ettin-fuzz-" + std::to_string(getpid())) {
    for (size_t i = 0; i < 2; ++i) {
      descriptors_[i] = ::open(name(i).c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
      check(descriptors_[i] >= 0);
    }
  }
  ~Pair() {
    for (size_t i = 0; i < 2; ++i) ::unlink(name(i).c_str());
  }
  void write(size_t i, const void* data, size_t size) const {
    check(ftruncate(descriptors_[i], static_cast<off_t>(size)) == 0);
    check(pwrite(descriptors_[i], data, size, 0) == static_cast<ssize_t>(size));
  }
  const std::string& prefix() const { return prefix_; }

 private:
  std::string name(size_t i) const { return prefix_ + (i == 0 ? ".idx" : ".bin"); }
  std::string prefix_;
  int descriptors_[2];
};

void read_document(const ettin::IndexedCorpus& corpus, uint64_t document, const uint8_t* bin, size_t size) {
  std::string error;
  ettin::DocumentSpan span;
  uint32_t length = 0;
  if (!corpus.span(document, span, error)) {
    check(!error.empty());
    return;
  }
  const uint32_t width = span.files->token_bytes();
  const uint64_t bytes = uint64_t{span.length} * width;
  check(span.offset <= size && bytes <= size - span.offset);
  check(corpus.text_lengths(document, 1, &length, error) && length == span.length);
  std::vector<int32_t> ids(span.length);
  std::vector<uint8_t> scratch;
  check(span.files->tokens(span.offset, span.length, ids.data(), scratch, error));
  for (size_t i = 0; i < ids.size(); ++i) {
    int32_t expected = 0;
    std::memcpy(&expected, bin + span.offset + i * width, width);
    check(ids[i] == expected);
  }
}

}  // namespace

// Two bytes say the counts in the header, one the width of the ids, the eod and how often the pair is read; the rest is
// the index, then the .bin.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Pair pair;
  if (size < 3) return 0;
  const uint64_t sequences = data[0] % 16, documents = data[1] % 16, bounds = documents + 1;
  const bool wide = data[2] & 1, eod = data[2] & 2, whole = !(data[2] & 4);
  const uint64_t times = data[2] & 8 ? 2 : 1;  // the pair, or a corpus of the pair twice
  data += 3, size -= 3;
  std::string index("MMIDIDX\0\0\1\0\0\0\0\0\0\0", 17);
  index += static_cast<char>(wide ? 4 : 8);
  index.append(reinterpret_cast<const char*>(&sequences), 8);
  index.append(reinterpret_cast<const char*>(&bounds), 8);
  const size_t body = std::min(size, static_cast<size_t>(12 * sequences + 8 * bounds));
  index.append(reinterpret_cast<const char*>(data), body);
  if (whole) index.resize(kHeader + 12 * sequences + 8 * bounds);
  data += body, size -= body;
  pair.write(0, index.data(), index.size());
  pair.write(1, data, size);
  std::string error;
  const auto corpus = ettin::IndexedCorpus::open(std::vector<std::string>(times, pair.prefix()), eod, error);
  if (!corpus) {
    check(!error.empty());
    return 0;
  }
  check(corpus->documents() == times * documents);
  for (uint64_t i = 0; i <= times * documents; ++i) read_document(*corpus, i, data, size);
  std::vector<uint32_t> all(times * documents), one(1);
  if (documents == 0 || !corpus->text_hashes(0, times * documents, all.data(), error)) return 0;
  for (uint64_t i = 0; i < times * documents; ++i) {
    check(corpus->text_hashes(i, 1, one.data(), error) && one[0] == all[i]);
  }
  return 0;
}
