#include "rows/corpus_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/text_hash.h"

namespace ettin {

File::File(std::string path, int descriptor, uint64_t size)
    : path_(std::move(path)), descriptor_(descriptor), size_(size) {}

File::~File() { ::close(descriptor_); }

std::shared_ptr<const File> File::open(const std::string& path, std::string& error) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status{};
  if (descriptor < 0 || ::fstat(descriptor, &status) != 0) {
    error = path + ": cannot be opened: " + std::strerror(errno);
    if (descriptor >= 0) ::close(descriptor);
    return nullptr;
  }
  return std::shared_ptr<const File>(new File(path, descriptor, static_cast<uint64_t>(status.st_size)));
}

bool File::read(uint64_t offset, void* out, size_t bytes, std::string& error) const {
  char* target = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = ::pread(descriptor_, target, bytes, static_cast<off_t>(offset));
    if (got > 0) {
      target += got, offset += static_cast<uint64_t>(got), bytes -= static_cast<size_t>(got);
    } else if (got == 0) {
      error = path_ + ": the file ends before offset " + std::to_string(offset) + ", where " + std::to_string(bytes) +
              " more bytes belong; it was cut since it was opened";
      return false;
    } else if (errno != EINTR) {
      error = path_ + ": reading " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) +
              " failed: " + std::strerror(errno);
      return false;
    }
  }
  return true;
}

namespace {

constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', 0, 0};
constexpr uint64_t kHeaderBytes = 34;

template <typename T>
T load(const void* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

uint32_t hash_bytes(const uint8_t* bytes, uint32_t tokens, uint32_t token_bytes) {
  TextHash hash;
  if (token_bytes == 2)
    hash.add_ids(tokens, [bytes](size_t i) { return uint32_t{load<uint16_t>(bytes + 2 * i)}; });
  else
    hash.add_ids(tokens, [bytes](size_t i) { return load<uint32_t>(bytes + 4 * i); });
  return hash.finish();
}

// Bytes of one token for the dtype codes that hold token ids.
uint32_t bytes_of_dtype(uint8_t code) noexcept { return code == 8 ? 2 : code == 4 ? 4 : 0; }

}  // namespace

bool CorpusFiles::fail(const std::string& what, std::string& error) const {
  error = index_->path() + ": " + what + "; run `ettin corpus verify`, and rebuild the corpus when it is damaged";
  return false;
}

std::shared_ptr<const CorpusFiles> CorpusFiles::open(const std::string& prefix, bool appended_eod, std::string& error) {
  std::shared_ptr<CorpusFiles> corpus(new CorpusFiles());
  corpus->appended_eod_ = appended_eod;
  corpus->index_ = File::open(prefix + ".idx", error);
  if (corpus->index_ == nullptr) return nullptr;
  corpus->bin_ = File::open(prefix + ".bin", error);
  if (corpus->bin_ == nullptr) return nullptr;
  char header[kHeaderBytes];
  if (corpus->index_->size() < kHeaderBytes) return corpus->fail("is shorter than its header", error), nullptr;
  if (!corpus->index_->read(0, header, kHeaderBytes, error)) return nullptr;
  if (std::memcmp(header, kMagic, sizeof kMagic) != 0 || load<uint64_t>(header + 9) != 1)
    return corpus->fail("is not a Megatron index of version 1", error), nullptr;
  corpus->token_bytes_ = bytes_of_dtype(static_cast<uint8_t>(header[17]));
  if (corpus->token_bytes_ == 0) return corpus->fail("tokens are neither uint16 nor int32", error), nullptr;
  corpus->sequences_ = load<uint64_t>(header + 18);
  const uint64_t bounds = load<uint64_t>(header + 26), limit = corpus->index_->size();
  if (bounds == 0 || bounds > limit / 8 || corpus->sequences_ > limit / 12 ||
      kHeaderBytes + 12 * corpus->sequences_ + 8 * bounds != limit)
    return corpus->fail("its size does not fit the counts in its header", error), nullptr;
  corpus->documents_ = bounds - 1;
  corpus->lengths_at_ = kHeaderBytes;
  corpus->pointers_at_ = kHeaderBytes + 4 * corpus->sequences_;
  corpus->documents_at_ = kHeaderBytes + 12 * corpus->sequences_;
  return corpus;
}

bool CorpusFiles::read_range(uint64_t first, uint64_t count, IndexRange& range, std::string& error) const {
  range.bounds.resize(count + 1);
  if (!index_->read(documents_at_ + 8 * first, range.bounds.data(), 8 * (count + 1), error)) return false;
  const int64_t begin = range.bounds.front(), end = range.bounds.back();
  for (uint64_t i = 0; i < count; ++i)
    if (range.bounds[i] < 0 || range.bounds[i] > range.bounds[i + 1] || static_cast<uint64_t>(end) > sequences_)
      return fail("the bounds of document " + std::to_string(first + i) + " are out of order", error);
  range.lengths.resize(static_cast<size_t>(end - begin));
  return index_->read(lengths_at_ + 4 * static_cast<uint64_t>(begin), range.lengths.data(), 4 * range.lengths.size(),
                      error);
}

bool CorpusFiles::stored_lengths(uint64_t first, uint64_t count, uint32_t* lengths, std::string& error) const {
  IndexRange range;
  if (!read_range(first, count, range, error)) return false;
  const int32_t* sequence = range.lengths.data();
  for (uint64_t i = 0; i < count; ++i) {
    int64_t total = 0;
    for (int64_t s = range.bounds[i]; s < range.bounds[i + 1]; ++s, ++sequence) {
      if (*sequence < 0) return fail("sequence " + std::to_string(s) + " has a negative length", error);
      total += *sequence;
    }
    if (total > INT32_MAX) return fail("document " + std::to_string(first + i) + " has 2^31 tokens or more", error);
    lengths[i] = static_cast<uint32_t>(total);
  }
  return true;
}

bool CorpusFiles::text_lengths(uint64_t first, uint64_t count, uint32_t* lengths, std::string& error) const {
  if (!stored_lengths(first, count, lengths, error)) return false;
  for (uint64_t i = 0; i < count; ++i) lengths[i] = text_length(lengths[i]);
  return true;
}

// Whether the last sequence of a document ends where its tokens, laid end to end from `pointer`, end.
bool CorpusFiles::follows(int64_t first, int64_t last, int64_t pointer, int64_t total, std::string& error) const {
  int64_t last_pointer;
  int32_t last_length;
  if (!index_->read(pointers_at_ + 8 * static_cast<uint64_t>(last), &last_pointer, 8, error)) return false;
  if (!index_->read(lengths_at_ + 4 * static_cast<uint64_t>(last), &last_length, 4, error)) return false;
  const uint64_t distance = static_cast<uint64_t>(last_pointer) - static_cast<uint64_t>(pointer);  // any pointers
  if (distance == static_cast<uint64_t>(total - last_length) * token_bytes_) return true;
  return fail("the sequences " + std::to_string(first) + " to " + std::to_string(last) +
                  " of one document are not "
                  "neighbours in the .bin file",
              error);
}

bool CorpusFiles::span(uint64_t document, DocumentSpan& span, std::string& error) const {
  int64_t bounds[2];
  if (document >= documents_) return fail("has no document " + std::to_string(document), error);
  if (!index_->read(documents_at_ + 8 * document, bounds, sizeof bounds, error)) return false;
  if (bounds[0] < 0 || bounds[0] > bounds[1] || static_cast<uint64_t>(bounds[1]) > sequences_)
    return fail("the bounds of document " + std::to_string(document) + " are out of order", error);
  span = {this, 0, 0};
  if (bounds[0] == bounds[1]) return true;
  int64_t pointer;
  if (!index_->read(pointers_at_ + 8 * static_cast<uint64_t>(bounds[0]), &pointer, sizeof pointer, error)) return false;
  int64_t total = 0;
  int32_t buffer[256];
  for (int64_t s = bounds[0]; s < bounds[1]; s += 256) {
    const uint64_t n = static_cast<uint64_t>(std::min<int64_t>(256, bounds[1] - s));
    if (!index_->read(lengths_at_ + 4 * static_cast<uint64_t>(s), buffer, 4 * n, error)) return false;
    for (uint64_t i = 0; i < n; ++i) {
      if (buffer[i] < 0)
        return fail("sequence " + std::to_string(s + static_cast<int64_t>(i)) + " has a negative length", error);
      total += buffer[i];
    }
  }
  if (bounds[1] - bounds[0] > 1 && !follows(bounds[0], bounds[1] - 1, pointer, total, error)) return false;
  const uint64_t size = bin_->size();
  if (pointer < 0 || static_cast<uint64_t>(pointer) > size ||
      static_cast<uint64_t>(total) > (size - static_cast<uint64_t>(pointer)) / token_bytes_)
    return fail("document " + std::to_string(document) + " reaches past the end of the .bin file", error);
  total -= appended_eod_ && total > 0 ? 1 : 0;
  if (total > INT32_MAX) return fail("document " + std::to_string(document) + " has 2^31 tokens or more", error);
  span = {this, static_cast<uint64_t>(pointer), static_cast<uint32_t>(total)};
  return true;
}

bool CorpusFiles::tokens(uint64_t offset, uint32_t count, int32_t* out, std::vector<uint8_t>& scratch,
                         std::string& error) const {
  if (token_bytes_ == 4) return bin_->read(offset, out, size_t{4} * count, error);
  if (scratch.size() < size_t{2} * count) scratch.resize(size_t{2} * count);
  if (!bin_->read(offset, scratch.data(), size_t{2} * count, error)) return false;
  for (uint32_t i = 0; i < count; ++i) out[i] = load<uint16_t>(scratch.data() + 2 * size_t{i});
  return true;
}

bool CorpusFiles::hash_document(const DocumentSpan& where, uint32_t& hash, HashScratch& scratch,
                                std::string& error) const {
  constexpr uint32_t kChunk = 1u << 18;  // tokens held at once
  TextHash sum;
  scratch.ids.resize(kChunk);
  for (uint32_t start = 0; start < where.length; start += std::min(kChunk, where.length - start)) {
    const uint32_t n = std::min(kChunk, where.length - start);
    if (!tokens(where.offset + uint64_t{start} * token_bytes_, n, scratch.ids.data(), scratch.bytes, error))
      return false;
    sum.add_ids(n, [&scratch](size_t i) { return static_cast<uint32_t>(scratch.ids[i]); });
  }
  hash = sum.finish();
  return true;
}

// Documents that follow each other in the .bin file are read together.
bool CorpusFiles::text_hashes(uint64_t first, uint64_t count, uint32_t* hashes, std::string& error) const {
  HashScratch scratch;
  std::vector<uint32_t> stored(count);
  if (!stored_lengths(first, count, stored.data(), error)) return false;
  bool together = false;
  if (!read_together(first, stored, scratch.bytes, together, error)) return false;
  const uint8_t* at = scratch.bytes.data();
  for (uint64_t i = 0; i < count; ++i) {
    if (together || stored[i] == 0) {
      hashes[i] = hash_bytes(at, text_length(stored[i]), token_bytes_);
      at += size_t{stored[i]} * token_bytes_;
    } else {
      DocumentSpan where;
      if (!span(first + i, where, error) || !hash_document(where, hashes[i], scratch, error)) return false;
    }
  }
  return true;
}

// Whether the sequences of some documents lie end to end in the .bin file, from `offset` on.
bool CorpusFiles::end_to_end(uint64_t first, uint64_t count, uint64_t offset, bool& together,
                             std::string& error) const {
  IndexRange range;
  if (!read_range(first, count, range, error)) return false;
  std::vector<uint64_t> pointers(range.lengths.size());
  const auto begin = static_cast<uint64_t>(range.bounds.front());
  if (!index_->read(pointers_at_ + 8 * begin, pointers.data(), 8 * pointers.size(), error)) return false;
  together = true;
  for (size_t s = 0; s < pointers.size(); ++s) {
    together = together && pointers[s] == offset;
    offset += static_cast<uint64_t>(range.lengths[s]) * token_bytes_;
  }
  return true;
}

// Reads the documents from `first` into `bytes` when they are neighbours in the file and not too large together.
bool CorpusFiles::read_together(uint64_t first, const std::vector<uint32_t>& stored, std::vector<uint8_t>& bytes,
                                bool& together, std::string& error) const {
  constexpr uint64_t kLargestRead = uint64_t{1} << 24;
  uint64_t begin = 0, end = stored.size(), total = 0;  // documents without the empty ones at both ends
  while (begin < end && stored[begin] == 0) ++begin;
  while (begin < end && stored[end - 1] == 0) --end;
  for (const uint32_t length : stored) total += uint64_t{length} * token_bytes_;
  together = false;
  if (total == 0 || total > kLargestRead) return true;
  DocumentSpan from;
  if (!span(first + begin, from, error)) return false;
  if (!end_to_end(first + begin, end - begin, from.offset, together, error)) return false;
  if (!together || from.offset + total > bin_->size()) return together = false, true;
  bytes.resize(total);
  return bin_->read(from.offset, bytes.data(), total, error);
}

}  // namespace ettin
