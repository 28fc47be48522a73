// A Megatron .bin/.idx pair, read by position. Nothing is mapped: a disk error is an error code, not a signal.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace ettin {

// An open file that is read at offsets. Every failure names the file and the offset.
class File {
 public:
  static std::shared_ptr<const File> open(const std::string& path, std::string& error);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const noexcept { return size_; }
  const std::string& path() const noexcept { return path_; }
  // Reads exactly `bytes` bytes at `offset`; interrupted and short reads are continued.
  bool read(uint64_t offset, void* out, size_t bytes, std::string& error) const;

 private:
  File(std::string path, int descriptor, uint64_t size);
  std::string path_;
  int descriptor_;
  uint64_t size_;
};

class CorpusFiles;

// Where the text of one document lies in a .bin file; an appended end-of-document id is not part of it.
struct DocumentSpan {
  const CorpusFiles* files;
  uint64_t offset;  // bytes
  uint32_t length;  // tokens
};

class CorpusFiles {
 public:
  // Reads and checks the header against the sizes of both files. `appended_eod`: each document ends with one id that
  // is not text.
  static std::shared_ptr<const CorpusFiles> open(const std::string& prefix, bool appended_eod, std::string& error);

  uint64_t documents() const noexcept { return documents_; }
  uint64_t sequences() const noexcept { return sequences_; }
  uint32_t token_bytes() const noexcept { return token_bytes_; }

  // Text lengths of the documents [first, first + count), bounds already checked by the caller.
  bool text_lengths(uint64_t first, uint64_t count, uint32_t* lengths, std::string& error) const;
  bool span(uint64_t document, DocumentSpan& span, std::string& error) const;
  // `count` token ids from a byte offset; `scratch` keeps its memory between calls.
  bool tokens(uint64_t offset, uint32_t count, int32_t* out, std::vector<uint8_t>& scratch, std::string& error) const;
  // One 32-bit hash a document of [first, first + count): of its text ids, independent of the width they are stored in.
  bool text_hashes(uint64_t first, uint64_t count, uint32_t* hashes, std::string& error) const;

 private:
  struct IndexRange {
    std::vector<int64_t> bounds;   // first sequence of each document, and of the one after them
    std::vector<int32_t> lengths;  // of their sequences
  };
  struct HashScratch {
    std::vector<int32_t> ids;
    std::vector<uint8_t> bytes;
  };
  CorpusFiles() = default;
  uint32_t text_length(uint32_t stored) const noexcept { return stored - (appended_eod_ && stored > 0 ? 1 : 0); }
  bool read_range(uint64_t first, uint64_t count, IndexRange& range, std::string& error) const;
  bool stored_lengths(uint64_t first, uint64_t count, uint32_t* lengths, std::string& error) const;
  bool end_to_end(uint64_t first, uint64_t count, uint64_t offset, bool& together, std::string& error) const;
  bool read_together(uint64_t first, const std::vector<uint32_t>& stored, std::vector<uint8_t>& bytes, bool& together,
                     std::string& error) const;
  bool hash_document(const DocumentSpan& where, uint32_t& hash, HashScratch& scratch, std::string& error) const;
  bool follows(int64_t first, int64_t last, int64_t pointer, int64_t total, std::string& error) const;
  bool fail(const std::string& what, std::string& error) const;

  std::shared_ptr<const File> index_, bin_;
  uint64_t documents_ = 0, sequences_ = 0;
  uint64_t lengths_at_ = 0, pointers_at_ = 0, documents_at_ = 0;  // byte offsets in the .idx
  uint32_t token_bytes_ = 0;
  bool appended_eod_ = false;
};

}  // namespace ettin
