#include "bpe.h"

#include <algorithm>

namespace ettin {
namespace {

constexpr size_t kShortWord = 48;  // up to here scanning all ranks is faster than a queue

}  // namespace

MergeTable::MergeTable(const std::vector<Merge>& merges) {
  int bits = 4;
  while ((size_t{1} << bits) < merges.size() * 2) ++bits;
  shift_ = 64 - bits;
  mask_ = (size_t{1} << bits) - 1;
  entries_.resize(mask_ + 1);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const uint64_t key = static_cast<uint64_t>(merges[rank].left) << 32 | merges[rank].right;
    size_t at = slot(key);
    while (entries_[at].key != kEmpty && entries_[at].key != key) at = (at + 1) & mask_;
    entries_[at] = {key, static_cast<uint32_t>(rank), merges[rank].merged};  // of equal pairs the last one counts
  }
}

BytePairModel::BytePairModel(const TokenizerFile& file)
    : merges_(file.merges), byte_tokens_{}, ignore_merges_(file.ignore_merges) {
  for (uint32_t id = 0; id < file.token_bytes.size(); ++id) {
    const std::string& bytes = file.token_bytes[id];
    if (bytes.size() == 1) byte_tokens_[static_cast<uint8_t>(bytes[0])] = id;
    if (!ignore_merges_ || bytes.empty()) continue;
    whole_words_.emplace(bytes, id);
    longest_token_ = std::max(longest_token_, bytes.size());
  }
}

void BytePairModel::encode(std::string_view word, std::vector<uint32_t>& ids, Scratch& scratch) const {
  if (word.size() <= longest_token_) {
    const auto found = whole_words_.find(std::string(word));
    if (found != whole_words_.end()) return ids.push_back(found->second);
  }
  scratch.tokens.clear();
  for (const char byte : word) scratch.tokens.push_back(byte_tokens_[static_cast<uint8_t>(byte)]);
  word.size() <= kShortWord ? merge_short(ids, scratch) : merge_long(ids, scratch);
}

void BytePairModel::merge_short(std::vector<uint32_t>& ids, Scratch& scratch) const {
  std::vector<uint32_t>&tokens = scratch.tokens, &ranks = scratch.ranks;
  auto rank_at = [&](size_t at) { return at + 1 < tokens.size() ? merges_.find(tokens[at], tokens[at + 1]).rank : kNoRank; };
  ranks.clear();
  for (size_t at = 0; at < tokens.size(); ++at) ranks.push_back(rank_at(at));
  for (;;) {
    const size_t best = std::min_element(ranks.begin(), ranks.end()) - ranks.begin();
    if (ranks[best] == kNoRank) break;
    tokens[best] = merges_.find(tokens[best], tokens[best + 1]).merged;
    tokens.erase(tokens.begin() + best + 1);
    ranks.erase(ranks.begin() + best + 1);
    ranks[best] = rank_at(best);
    if (best) ranks[best - 1] = rank_at(best - 1);
  }
  ids.insert(ids.end(), tokens.begin(), tokens.end());
}

// A linked list of symbols and a queue of (rank, position); entries that no longer hold are skipped when they come up.
void BytePairModel::merge_long(std::vector<uint32_t>& ids, Scratch& scratch) const {
  constexpr uint32_t kEnd = ~0u;
  std::vector<uint32_t>&tokens = scratch.tokens, &ranks = scratch.ranks, &previous = scratch.previous, &next = scratch.next;
  auto& queue = scratch.queue;
  const auto size = static_cast<uint32_t>(tokens.size());
  const auto later = std::greater<std::pair<uint32_t, uint32_t>>();
  previous.resize(size);
  next.resize(size);
  ranks.resize(size);
  queue.clear();
  auto update = [&](uint32_t at) {
    ranks[at] = next[at] == kEnd ? kNoRank : merges_.find(tokens[at], tokens[next[at]]).rank;
    if (ranks[at] == kNoRank) return;
    queue.emplace_back(ranks[at], at);
    std::push_heap(queue.begin(), queue.end(), later);
  };
  for (uint32_t at = 0; at < size; ++at) {
    previous[at] = at - 1;
    next[at] = at + 1 < size ? at + 1 : kEnd;
  }
  for (uint32_t at = 0; at < size; ++at) update(at);
  while (!queue.empty()) {
    const auto [rank, at] = queue.front();
    std::pop_heap(queue.begin(), queue.end(), later);
    queue.pop_back();
    if (ranks[at] != rank) continue;
    const uint32_t gone = next[at];
    tokens[at] = merges_.find(tokens[at], tokens[gone]).merged;
    next[at] = next[gone];
    if (next[at] != kEnd) previous[next[at]] = at;
    ranks[gone] = kNoRank;
    update(at);
    if (at) update(previous[at]);
  }
  for (uint32_t at = 0; at != kEnd; at = next[at]) ids.push_back(tokens[at]);
}

}  // namespace ettin
