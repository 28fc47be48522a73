#include "tokenizer/bpe.h"

#include <algorithm>
#include <functional>

#include "base/hash_index.h"
#include "text/utf8.h"

namespace ettin {
namespace {

constexpr size_t kShortWord = 48;  // up to here scanning all ranks is faster than a queue

uint64_t pair_key(uint32_t left, uint32_t right) { return static_cast<uint64_t>(left) << 32 | right; }

// Merges that count and can be reached, in order: of equal pairs the last one counts, and both tokens must be bytes or
// made by a merge.
std::vector<Merge> useful_merges(const TokenizerFile& file) {
  std::vector<bool> reachable(file.token_bytes.size());
  for (size_t id = 0; id < reachable.size(); ++id) reachable[id] = file.token_bytes[id].size() == 1;
  for (const Merge& merge : file.merges) reachable[merge.merged] = true;
  HashIndex last(file.merges.size());
  std::vector<Merge> useful;
  useful.reserve(file.merges.size());
  for (auto at = static_cast<uint32_t>(file.merges.size()); at-- > 0;) {
    const Merge& merge = file.merges[at];
    const uint64_t hash = pair_key(merge.left, merge.right) * 0x9E3779B97F4A7C15ull;
    const auto same = [&](uint32_t other) {
      return file.merges[other].left == merge.left && file.merges[other].right == merge.right;
    };
    const bool counts = last.find_or_add(hash ^ hash >> 29, at, same) == at && !file.token_bytes[merge.merged].empty();
    if (counts && reachable[merge.left] && reachable[merge.right]) useful.push_back(merge);
  }
  std::reverse(useful.begin(), useful.end());
  return useful;
}

}  // namespace

void MergeTable::build(const std::vector<Merge>& merges) {
  int bits = 4;
  while ((size_t{4} << bits) < merges.size() * 3) ++bits;  // at most four of eight entries in use
  for (int tries = 0;; ++tries) {
    shift_ = 64 - bits;
    if (fill(merges)) return;
    multiplier_ = multiplier_ * 0xD1342543DE82EF95ull | 1;
    if (tries % 16 == 15) ++bits;
  }
}

// False when a bucket overflows.
bool MergeTable::fill(const std::vector<Merge>& merges) {
  buckets_ = std::make_unique<HugeArray<Bucket>>(size_t{1} << (64 - shift_));
  buckets_->fill_bytes(0xFF);
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    if (merges[rank].left == kNoRank || merges[rank].right == kNoRank) continue;  // a token that nothing makes
    const uint64_t wanted = key(merges[rank].left, merges[rank].right);
    auto& entries = (*buckets_)[(wanted * multiplier_) >> shift_].entries;
    uint64_t* place = std::find(std::begin(entries), std::end(entries), kEmpty);
    if (place == std::end(entries)) return false;
    *place = wanted << kRankBits | rank;
  }
  return true;
}

BytePairModel::BytePairModel(const TokenizerFile& file) {
  number_tokens(file);
  if (file.ignore_merges) note_whole_words(file);
}

void BytePairModel::note_whole_words(const TokenizerFile& file) {
  IdVector ids;
  Scratch scratch;
  for (uint32_t id = 0; id < file.token_bytes.size(); ++id) {
    const std::string& bytes = file.token_bytes[id];
    if (bytes.empty() || utf8_valid_prefix(bytes.data(), bytes.size()) != bytes.size()) continue;  // is no word
    ids.clear();
    merge(bytes, ids, scratch);
    if (ids.size() == 1 && ids[0] == id) continue;
    whole_words_.emplace(bytes, id);
    longest_whole_word_ = std::max(longest_whole_word_, bytes.size());
  }
}

void BytePairModel::number_tokens(const TokenizerFile& file) {
  std::vector<Merge> merges = useful_merges(file);
  std::vector<uint32_t> token_of(file.token_bytes.size(), kNoRank);
  ids_.assign(256 + merges.size(), 0);
  for (uint32_t id = 0; id < token_of.size(); ++id) {
    const std::string& bytes = file.token_bytes[id];
    if (bytes.size() != 1) continue;
    token_of[id] = static_cast<uint8_t>(bytes[0]);
    ids_[token_of[id]] = id;
  }
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    uint32_t& token = token_of[merges[rank].merged];
    if (token != kNoRank) one_merge_each_ = false;
    if (token == kNoRank) token = 256 + rank;
    ids_[token] = merges[rank].merged;
    merged_.push_back(token);
  }
  note_joints(file, merges);
  for (Merge& merge : merges) merge.left = token_of[merge.left], merge.right = token_of[merge.right];
  merges_.build(merges);
  std::vector<uint64_t> pairs;
  for (const Merge& merge : merges) pairs.push_back(pair_key(merge.left, merge.right));
  merges16_ = Merges16::make(pairs, merged_);
  if (merges16_) {
    ids16_.assign(ids_.begin(), ids_.end());
    ids16_.resize(65536);
  }
  byte_pair_ranks_.resize(65536);
  for (uint32_t pair = 0; pair < 65536; ++pair) byte_pair_ranks_[pair] = merges_.rank(pair >> 8, pair & 255);
}

void BytePairModel::note_joints(const TokenizerFile& file, const std::vector<Merge>& merges) {
  pair_joints_.assign(65536 / 64, 0);
  quad_joints_.assign((size_t{1} << kJointBits) / 64, 0);
  for (const Merge& merge : merges) {
    const std::string &left = file.token_bytes[merge.left], &right = file.token_bytes[merge.right];
    const auto a = static_cast<uint8_t>(left.back()), b = static_cast<uint8_t>(right[0]);
    const bool pair = left.size() == 1 || right.size() == 1;
    const uint32_t slot =
        pair ? a << 8 | b
             : joint_slot(static_cast<uint8_t>(left[left.size() - 2]), a, b, static_cast<uint8_t>(right[1]));
    (pair ? pair_joints_ : quad_joints_)[slot >> 6] |= uint64_t{1} << (slot & 63);
  }
}

void BytePairModel::encode(std::string_view word, IdVector& ids, Scratch& scratch) const {
  const uint32_t whole = whole_word(word);
  whole != kNoRank ? ids.push_back(whole) : merge(word, ids, scratch);
}

void BytePairModel::merge(std::string_view word, IdVector& ids, Scratch& scratch) const {
  scratch.tokens.assign(word.size(), 0);
  for (size_t at = 0; at < word.size(); ++at) scratch.tokens[at] = static_cast<uint8_t>(word[at]);
  word.size() <= kShortWord ? merge_short(ids, scratch) : merge_long(ids, scratch);
}

void BytePairModel::merge_short(IdVector& ids, Scratch& scratch) const {
  uint32_t ranks[kShortWord];
  uint32_t* tokens = scratch.tokens.data();
  size_t size = scratch.tokens.size();
  for (size_t at = 0; at + 1 < size; ++at) ranks[at] = byte_pair_ranks_[tokens[at] << 8 | tokens[at + 1]];
  ranks[size - 1] = kNoRank;
  for (;;) {
    const size_t best = std::min_element(ranks, ranks + size) - ranks;
    if (ranks[best] == kNoRank) break;
    tokens[best] = merged(ranks[best]);
    --size;
    std::copy(tokens + best + 2, tokens + size + 1, tokens + best + 1);
    std::copy(ranks + best + 2, ranks + size + 1, ranks + best + 1);
    ranks[best] = best + 1 < size ? rank(tokens[best], tokens[best + 1]) : kNoRank;
    if (best) ranks[best - 1] = rank(tokens[best - 1], tokens[best]);
  }
  for (size_t at = 0; at < size; ++at) ids.push_back(ids_[tokens[at]]);
}

// A linked list of symbols and a queue of (rank, position); entries that no longer hold are skipped when they come up.
void BytePairModel::merge_long(IdVector& ids, Scratch& scratch) const {
  constexpr uint32_t kEnd = ~0u;
  std::vector<uint32_t>&tokens = scratch.tokens, &ranks = scratch.ranks, &previous = scratch.previous,
  &next = scratch.next;
  auto& queue = scratch.queue;
  const auto size = static_cast<uint32_t>(tokens.size());
  const auto later = std::greater<std::pair<uint32_t, uint32_t>>();
  previous.resize(size);
  next.resize(size);
  ranks.resize(size);
  queue.clear();
  auto update = [&](uint32_t at) {
    ranks[at] = next[at] == kEnd ? kNoRank : rank(tokens[at], tokens[next[at]]);
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
    const auto [lowest, at] = queue.front();
    std::pop_heap(queue.begin(), queue.end(), later);
    queue.pop_back();
    if (ranks[at] != lowest) continue;
    const uint32_t gone = next[at];
    tokens[at] = merged(lowest);
    next[at] = next[gone];
    if (next[at] != kEnd) previous[next[at]] = at;
    ranks[gone] = kNoRank;
    update(at);
    if (at) update(previous[at]);
  }
  for (uint32_t at = 0; at != kEnd; at = next[at]) ids.push_back(ids_[tokens[at]]);
}

}  // namespace ettin
