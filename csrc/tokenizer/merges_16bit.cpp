#include "tokenizer/merges_16bit.h"

#include <algorithm>

namespace ettin {

std::unique_ptr<const Merges16> Merges16::make(const std::vector<uint64_t>& pairs,
                                               const std::vector<uint32_t>& merged) {
  constexpr size_t kMost = 0xFFFF - 256;
  if (pairs.size() > kMost) return nullptr;
  std::unique_ptr<Merges16> made(new Merges16());
  made->byte_pair_ranks_.assign(65537, kNoRank);
  for (size_t rank = 0; rank < pairs.size(); ++rank) {
    const auto left = static_cast<uint32_t>(pairs[rank] >> 32), right = static_cast<uint32_t>(pairs[rank]);
    const bool reachable = left < 0xFFFF && right < 0xFFFF;  // else a token that nothing makes
    made->parts_.push_back(reachable ? pair(left, right) : kNoPair);
    made->merged_.push_back(static_cast<uint16_t>(merged[rank]));
    made->one_merge_each_ = made->one_merge_each_ && merged[rank] == 256 + rank;
    if (left < 256 && right < 256) made->byte_pair_ranks_[left << 8 | right] = static_cast<uint16_t>(rank);
  }
  int bits = 1;
  while ((size_t{6} << bits) < pairs.size()) ++bits;
  for (int tries = 1;; ++tries) {
    made->shift_ = 64 - bits;
    if (made->fill()) return made;
    made->multiplier_ = made->multiplier_ * 0xD1342543DE82EF95ull | 1;
    if (tries % 16 == 0) ++bits;
  }
}

// False when a line overflows or two of its pairs have the same mark.
bool Merges16::fill() {
  lines_ = std::make_unique<HugeArray<Line>>(size_t{1} << (64 - shift_));
  lines_->fill_bytes(0xFF);
  for (size_t rank = 0; rank < parts_.size(); ++rank) {
    if (parts_[rank] == kNoPair) continue;
    const uint64_t hashed = hash(parts_[rank]);
    Line& line = (*lines_)[hashed >> shift_];
    const auto used = static_cast<size_t>(std::find(line.ranks, line.ranks + kLineSize, kNoRank) - line.ranks);
    if (used == kLineSize || std::find(line.marks, line.marks + used, mark(hashed)) != line.marks + used) return false;
    line.marks[used] = mark(hashed);
    line.ranks[used] = static_cast<uint16_t>(rank);
  }
  return true;
}

}  // namespace ettin
