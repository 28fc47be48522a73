// The staging files of a corpus and the journal that makes an interrupted build resumable.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "corpus/block.h"

namespace ettin {

// Totals since the start of the build, and of the source at hand, after some number of whole blocks.
struct BuildState {
  struct Output {
    uint64_t bytes = 0;
    uint32_t checksum = 0;
    uint64_t sequences = 0;
    OutputCounts source;  // of the source at hand
  };
  uint64_t blocks = 0;
  uint64_t documents = 0;
  uint64_t rejects_bytes = 0;
  uint32_t source = 0;
  uint64_t end = 0;    // where the next block of the source starts
  uint64_t lines = 0;  // of the source
  bool ends_source = false;
  uint64_t source_bytes = 0;
  uint32_t source_checksum = 0;
  uint64_t source_documents = 0;
  uint64_t blank_lines = 0;
  std::array<uint64_t, kRejectKinds> rejected{};
  std::vector<Output> outputs;

  // A journal record: these numbers as little-endian 64-bit words, and a checksum of them.
  std::vector<uint64_t> encode() const;
  static bool decode(const std::vector<uint64_t>& words, size_t outputs, BuildState& state);
  static size_t words(size_t outputs);
  // What the words are: a magic number, these, a word of zero, a count of each kind of rejects, then for each output
  // these, and the checksum.
  static std::vector<const char*> fields();
  static std::vector<const char*> output_fields();

  // Adds one block, the next in order.
  void add(const BlockResult& result);
};

// Where one block goes.
struct Place {
  struct Output {
    uint64_t bytes = 0;
    uint64_t sequences = 0;
  };
  uint64_t documents = 0;
  std::vector<Output> outputs;
};

class CorpusWriter {
 public:
  struct Paths {
    std::string tokens, lengths, documents, hashes;
  };
  CorpusWriter() = default;
  ~CorpusWriter();
  CorpusWriter(const CorpusWriter&) = delete;
  CorpusWriter& operator=(const CorpusWriter&) = delete;

  // Opens the staging files, which hold what `state` says. False, with the reason, on failure.
  bool open(const std::vector<Paths>& outputs, const std::string& rejects, const std::string& journal,
            std::vector<std::string> source_names, const BuildState& state, std::string& error);
  // Writes a block at its place; safe to call from several threads for different blocks.
  bool write(const BlockResult& result, const Place& place, std::string& error) const;
  // Lists rejected records and journals the state after a block; in order, one thread at a time.
  bool commit(const BlockResult& result, BuildState& state, std::string& error);

 private:
  struct File {
    int descriptor = -1;
    std::string path;
  };
  bool open_file(const std::string& path, File& file, std::string& error);
  static bool write_at(const File& file, const void* data, size_t size, uint64_t offset, std::string& error);
  std::string rejects_text(const BlockResult& result) const;

  struct Output {
    File tokens, lengths, documents, hashes;
  };
  std::vector<Output> outputs_;
  File rejects_, journal_;
  std::vector<std::string> source_names_;  // as JSON strings
  std::vector<int> descriptors_;
};

}  // namespace ettin
