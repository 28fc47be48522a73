#include "rows/indexed_corpus.h"

#include <algorithm>

namespace ettin {

std::shared_ptr<const IndexedCorpus> IndexedCorpus::open(const std::vector<std::string>& prefixes, bool appended_eod,
                                                         std::string& error) {
  std::shared_ptr<IndexedCorpus> corpus(new IndexedCorpus());
  for (const std::string& prefix : prefixes) {
    auto files = CorpusFiles::open(prefix, appended_eod, error);
    if (files == nullptr) return nullptr;
    if (!corpus->pairs_.empty() && files->token_bytes() != corpus->pairs_.front()->token_bytes()) {
      error = prefix + ": holds ids of another width than " + prefixes.front() + "; build both with one tokenizer";
      return nullptr;
    }
    corpus->firsts_.push_back(corpus->firsts_.back() + files->documents());
    corpus->pairs_.push_back(std::move(files));
  }
  return corpus;
}

size_t IndexedCorpus::pair_of(uint64_t document) const noexcept {
  const auto after = std::upper_bound(firsts_.begin(), firsts_.end(), document);  // pairs without documents are passed
  return static_cast<size_t>(after - firsts_.begin()) - 1;
}

// Calls read(pair, its first document, number of documents, how many came before) for each pair that holds some.
template <typename Read>
bool IndexedCorpus::each_pair(uint64_t first, uint64_t count, const Read& read) const {
  for (uint64_t done = 0; done < count;) {
    const size_t pair = pair_of(first + done);
    const uint64_t n = std::min(count - done, firsts_[pair + 1] - (first + done));
    if (!read(*pairs_[pair], first + done - firsts_[pair], n, done)) return false;
    done += n;
  }
  return true;
}

bool IndexedCorpus::text_lengths(uint64_t first, uint64_t count, uint32_t* lengths, std::string& error) const {
  return each_pair(first, count, [&](const CorpusFiles& pair, uint64_t begin, uint64_t n, uint64_t done) {
    return pair.text_lengths(begin, n, lengths + done, error);
  });
}

bool IndexedCorpus::text_hashes(uint64_t first, uint64_t count, uint32_t* hashes, std::string& error) const {
  return each_pair(first, count, [&](const CorpusFiles& pair, uint64_t begin, uint64_t n, uint64_t done) {
    return pair.text_hashes(begin, n, hashes + done, error);
  });
}

bool IndexedCorpus::span(uint64_t document, DocumentSpan& span, std::string& error) const {
  if (document >= documents()) {
    error = "there is no document " + std::to_string(document) + ", the corpus has " + std::to_string(documents());
    return false;
  }
  const size_t pair = pair_of(document);
  return pairs_[pair]->span(document - firsts_[pair], span, error);
}

}  // namespace ettin
