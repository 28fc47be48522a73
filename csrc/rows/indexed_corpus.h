// A corpus: the documents of one .bin/.idx pair, or of several, those of one pair after those of the pair before.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rows/corpus_files.h"

namespace ettin {

class IndexedCorpus {
 public:
  // Opens the pairs, which hold ids of one width. Every file stays open.
  static std::shared_ptr<const IndexedCorpus> open(const std::vector<std::string>& prefixes, bool appended_eod,
                                                   std::string& error);

  uint64_t documents() const noexcept { return firsts_.back(); }

  // Text lengths of the documents [first, first + count), bounds already checked by the caller.
  bool text_lengths(uint64_t first, uint64_t count, uint32_t* lengths, std::string& error) const;
  bool span(uint64_t document, DocumentSpan& span, std::string& error) const;
  // One 32-bit hash a document of [first, first + count), as `CorpusFiles::text_hashes`.
  bool text_hashes(uint64_t first, uint64_t count, uint32_t* hashes, std::string& error) const;

 private:
  IndexedCorpus() = default;
  size_t pair_of(uint64_t document) const noexcept;
  template <typename Read>
  bool each_pair(uint64_t first, uint64_t count, const Read& read) const;

  std::vector<std::shared_ptr<const CorpusFiles>> pairs_;
  std::vector<uint64_t> firsts_{0};  // first document of each pair, then the number of documents
};

}  // namespace ettin
