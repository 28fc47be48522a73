// An .idx and a .bin file: whatever they hold, the full check stays inside them, and a corpus that it finds sound is
// one by a second, plain reading of the rules.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "corpus/check.h"

namespace {

constexpr size_t kHeader = 34;

template <typename T>
T load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// A file in memory, under a path that can be opened.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(memfd_create("fuzz", 0)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {
    std::string error;
    file_ = ettin::InputFile::open(path_, error);
    if (!file_) std::abort();
  }
  const ettin::InputFile& with(const uint8_t* data, size_t size) {
    if (ftruncate(descriptor_, 0) != 0) std::abort();
    if (pwrite(descriptor_, data, size, 0) != static_cast<ssize_t>(size)) std::abort();
    return *file_;
  }

 private:
  int descriptor_;
  std::string path_;
  std::shared_ptr<const ettin::InputFile> file_;
};

// The rules once more, in the simplest form.
bool is_sound(const uint8_t* index, const ettin::IndexShape& shape) {
  const uint8_t* lengths = index + kHeader;
  const uint8_t* pointers = lengths + 4 * shape.sequences;
  const uint8_t* documents = pointers + 8 * shape.sequences;
  uint64_t next = 0;
  for (uint64_t i = 0; i < shape.sequences; ++i) {
    const auto length = load<int32_t>(lengths + 4 * i);
    if (length < 0 || load<uint64_t>(pointers + 8 * i) != next) return false;
    next += static_cast<uint64_t>(length) * shape.itemsize;
    if (next > shape.token_bytes) return false;
  }
  uint64_t last = 0;
  for (uint64_t i = 0; i <= shape.documents; ++i) {
    const auto value = load<uint64_t>(documents + 8 * i);
    if (value < last || (i == 0 && value != 0)) return false;
    last = value;
  }
  return next == shape.token_bytes && last == shape.sequences;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static MemoryFile index_file, token_file;
  if (size < 4) return 0;
  ettin::IndexShape shape;
  shape.sequences = data[0] % 16;
  shape.documents = data[1] % 16;
  shape.itemsize = data[2] % 2 == 0 ? 2 : 4;
  const uint64_t tail = data[3];
  const size_t body = 12 * shape.sequences + 8 * (shape.documents + 1);
  data += 4;
  size -= 4;
  if (size < body) return 0;
  std::string index(kHeader, '\0');
  index.append(reinterpret_cast<const char*>(data), body);
  const size_t rest = (size - body) / shape.itemsize * shape.itemsize;
  shape.token_bytes = rest;
  const auto* bytes = reinterpret_cast<const uint8_t*>(index.data());
  const auto& idx = index_file.with(bytes, index.size());
  const auto& bin = token_file.with(data + body, rest);
  const auto whole = ettin::check_range(idx, bin, shape, 0, shape.documents, 3, 5);
  const uint64_t middle = shape.documents == 0 ? 0 : tail % (shape.documents + 1);
  const auto first = ettin::check_range(idx, bin, shape, 0, middle, 3, 5);
  const auto second = ettin::check_range(idx, bin, shape, middle, shape.documents, 3, 5);
  const bool sound = is_sound(bytes, shape);
  if (sound != whole.problem.empty()) std::abort();
  if (sound && whole.token_count != rest / shape.itemsize) std::abort();
  if (sound && first.token_count + second.token_count != whole.token_count) std::abort();
  return 0;
}
