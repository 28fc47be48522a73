#include "rows/packing.h"

#include <algorithm>

namespace ettin {

namespace {

constexpr uint32_t kNone = UINT32_MAX;

// Adds one entry of a row that begins at `row_first` and keeps the directory.
void start_row(PackedBlock& block) {
  if (block.rows++ % kDirectoryRows == 0) block.directory.push_back(static_cast<uint32_t>(block.entries.size()));
}

}  // namespace

BestFitPacker::BestFitPacker(uint32_t row_length, uint32_t piece_length)
    : row_length_(row_length),
      text_length_(piece_length - kPieceSpecials),
      counts_(text_length_ + 1),
      rows_with_(row_length + 1, kNone),
      open_(row_length / 64 + 1),
      open_words_(row_length / 4096 + 1) {}

void BestFitPacker::sort_pieces(const uint32_t* lengths, uint32_t documents) {
  std::fill(counts_.begin(), counts_.end(), 0);
  uint32_t full = 0;
  for (uint32_t d = 0; d < documents; ++d) {
    full += lengths[d] / text_length_;
    ++counts_[lengths[d] % text_length_];
  }
  counts_[text_length_] = full;
  uint32_t place = 0;
  for (uint32_t length = text_length_; length > 0; --length) {
    const uint32_t count = counts_[length];
    counts_[length] = place;
    place += count;
  }
  pieces_.resize(place);
  for (uint32_t d = 0; d < documents; ++d) {
    uint32_t start = 0, rest = lengths[d];
    for (; rest >= text_length_; rest -= text_length_, start += text_length_)
      pieces_[counts_[text_length_]++] = Entry::make(d, start, text_length_);
    if (rest > 0) pieces_[counts_[rest]++] = Entry::make(d, start, rest);
  }
}

uint32_t BestFitPacker::find_room(uint32_t size) const noexcept {
  const uint32_t word = size / 64;
  const uint64_t here = open_[word] >> (size % 64);
  if (here != 0) return size + static_cast<uint32_t>(__builtin_ctzll(here));
  uint32_t upper = (word + 1) / 64;
  if (upper >= open_words_.size()) return kNone;
  uint64_t words = open_words_[upper] >> ((word + 1) % 64) << ((word + 1) % 64);
  while (words == 0) {
    if (++upper >= open_words_.size()) return kNone;
    words = open_words_[upper];
  }
  const uint32_t found = upper * 64 + static_cast<uint32_t>(__builtin_ctzll(words));
  return found * 64 + static_cast<uint32_t>(__builtin_ctzll(open_[found]));
}

void BestFitPacker::push_row(uint32_t room, uint32_t row) noexcept {
  next_row_[row] = rows_with_[room];
  rows_with_[room] = row;
  open_[room / 64] |= uint64_t{1} << (room % 64);
  open_words_[room / 4096] |= uint64_t{1} << (room / 64 % 64);
}

uint32_t BestFitPacker::pop_row(uint32_t room) noexcept {
  const uint32_t row = rows_with_[room];
  rows_with_[room] = next_row_[row];
  if (rows_with_[room] == kNone) {
    open_[room / 64] &= ~(uint64_t{1} << (room % 64));
    if (open_[room / 64] == 0) open_words_[room / 4096] &= ~(uint64_t{1} << (room / 64 % 64));
  }
  return row;
}

// Places `count` equal pieces. A row with room r takes min(count, r / size) of them at once: after each it is the
// fullest row that still fits the next.
void BestFitPacker::place(uint32_t size, uint32_t first, uint32_t count) {
  constexpr uint32_t kSmallestPiece = kPieceSpecials + 1;
  while (count > 0) {
    uint32_t room = find_room(size);
    const bool fresh = room == kNone;
    if (fresh) room = row_length_;
    const uint32_t fits = room / size;
    do {
      uint32_t row = static_cast<uint32_t>(row_runs_.size());
      if (fresh) {
        row_runs_.push_back(kNone);
        next_row_.push_back(kNone);
      } else {
        row = pop_row(room);
      }
      const uint32_t taken = std::min(fits, count), left = room - taken * size;
      runs_.push_back({first, taken, row_runs_[row]});
      row_runs_[row] = static_cast<uint32_t>(runs_.size() - 1);
      first += taken, count -= taken;
      if (left >= kSmallestPiece) push_row(left, row);
    } while (count > 0 && (fresh || rows_with_[room] != kNone));
  }
}

void BestFitPacker::emit(PackedBlock& block) const {
  block.entries.clear();
  block.directory.clear();
  block.entries.reserve(pieces_.size());
  block.directory.reserve(row_runs_.size() / kDirectoryRows + 1);
  block.rows = 0;
  for (const uint32_t last : row_runs_) {
    start_row(block);
    const size_t begin = block.entries.size();
    for (uint32_t run = last; run != kNone; run = runs_[run].next)
      block.entries.insert(block.entries.end(), pieces_.begin() + runs_[run].first,
                           pieces_.begin() + runs_[run].first + runs_[run].count);
    block.entries[begin] |= Entry::kFirstOfRow;
  }
}

void BestFitPacker::pack(const uint32_t* lengths, uint32_t documents, PackedBlock& block) {
  sort_pieces(lengths, documents);
  std::fill(rows_with_.begin(), rows_with_.end(), kNone);
  std::fill(open_.begin(), open_.end(), 0);
  std::fill(open_words_.begin(), open_words_.end(), 0);
  row_runs_.clear();
  next_row_.clear();
  runs_.clear();
  // After sorting, counts_[length] is the end of that length's pieces, which is where the next shorter ones begin.
  uint32_t first = 0;
  for (uint32_t length = text_length_; length > 0; --length) {
    const uint32_t end = counts_[length];
    if (end > first) place(length + kPieceSpecials, first, end - first);
    first = end;
  }
  emit(block);
  block.text_tokens = 0;
  for (uint32_t d = 0; d < documents; ++d) block.text_tokens += lengths[d];
}

void concatenate(const uint32_t* lengths, uint32_t documents, uint32_t row_length, uint32_t piece_length,
                 PackedBlock& block) {
  block = PackedBlock();
  uint32_t room = 0;
  for (uint32_t d = 0; d < documents; ++d) {
    block.text_tokens += lengths[d];
    for (uint32_t start = 0; start < lengths[d];) {
      const bool fresh = room <= kPieceSpecials;
      if (fresh) {
        start_row(block);
        room = row_length;
      }
      const uint32_t text = std::min({lengths[d] - start, room - kPieceSpecials, piece_length - kPieceSpecials});
      block.entries.push_back(Entry::make(d, start, text) | (fresh ? Entry::kFirstOfRow : 0));
      start += text;
      room -= text + kPieceSpecials;
    }
  }
}

}  // namespace ettin
