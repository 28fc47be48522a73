#include "rows/pack_file.h"

#include <algorithm>

namespace ettin {

namespace {

constexpr uint64_t kHeaderBytes = 256;

uint64_t directory_entries(uint64_t rows) noexcept { return (rows + kDirectoryRows - 1) / kDirectoryRows; }

uint64_t block_bytes(const PackLine& line, const PackLine& next) noexcept {
  const uint64_t directory = 4 * directory_entries(next.row - line.row);
  return 8 * (next.entry - line.entry) + (directory + 7) / 8 * 8;
}

}  // namespace

bool PackFile::fail(const std::string& what, std::string& error) const {
  error = file_->path() + ": damaged pack index: " + what + "; delete the file, it is built again on the next start";
  return false;
}

std::shared_ptr<const PackFile> PackFile::open(const std::string& path, uint64_t table_offset, uint64_t blocks,
                                               uint64_t documents, uint32_t row_length, std::string& error) {
  std::shared_ptr<PackFile> pack(new PackFile());
  pack->file_ = File::open(path, error);
  if (pack->file_ == nullptr) return nullptr;
  pack->documents_ = documents;
  pack->row_length_ = row_length;
  const uint64_t size = pack->file_->size();
  if (blocks != (documents + kBlockDocuments - 1) / kBlockDocuments || blocks >= size / sizeof(PackLine) ||
      table_offset > size || size - table_offset != (blocks + 1) * sizeof(PackLine))
    return pack->fail("its size does not fit its header", error), nullptr;
  pack->table_.resize(blocks + 1);
  if (!pack->file_->read(table_offset, pack->table_.data(), (blocks + 1) * sizeof(PackLine), error)) return nullptr;
  const std::vector<PackLine>& table = pack->table_;
  bool sound = table[0].offset == kHeaderBytes && table[0].row == 0 && table[0].entry == 0 && table[0].text_tokens == 0;
  for (uint64_t b = 0; sound && b < blocks; ++b)
    sound = table[b + 1].entry >= table[b].entry && table[b + 1].row >= table[b].row &&
            table[b + 1].text_tokens >= table[b].text_tokens &&
            table[b + 1].entry - table[b].entry <= table_offset / 8 &&
            table[b + 1].row - table[b].row <= table[b + 1].entry - table[b].entry &&
            table[b + 1].offset == table[b].offset + block_bytes(table[b], table[b + 1]);
  if (!sound || table.back().offset != table_offset)
    return pack->fail("its block table is inconsistent", error), nullptr;
  return pack;
}

bool PackFile::row(uint64_t row, std::vector<Piece>& pieces, std::vector<uint64_t>& scratch, std::string& error) const {
  const auto after = std::upper_bound(table_.begin(), table_.end(), row,
                                      [](uint64_t value, const PackLine& line) { return value < line.row; });
  if (row >= rows()) return fail("has no row " + std::to_string(row), error);
  const PackLine &line = *(after - 1), &next = *after;
  const uint64_t block = static_cast<uint64_t>(after - table_.begin()) - 1, entries = next.entry - line.entry;
  const uint64_t slot = (row - line.row) / kDirectoryRows, slots = directory_entries(next.row - line.row);
  uint32_t bounds[2] = {0, static_cast<uint32_t>(entries)};
  if (!file_->read(line.offset + 8 * entries + 4 * slot, bounds, slot + 1 < slots ? 8 : 4, error)) return false;
  if (bounds[0] >= bounds[1] || bounds[1] > entries ||
      bounds[1] - bounds[0] > kDirectoryRows * (row_length_ / kPieceSpecials))
    return fail("the directory of block " + std::to_string(block) + " is out of order", error);
  scratch.resize(bounds[1] - bounds[0]);
  if (!file_->read(line.offset + uint64_t{8} * bounds[0], scratch.data(), 8 * scratch.size(), error)) return false;
  uint64_t wanted = (row - line.row) % kDirectoryRows, at = 0;
  if ((scratch[0] & Entry::kFirstOfRow) == 0) return fail("row " + std::to_string(row) + " has no start", error);
  for (; wanted > 0; --wanted) do
      if (++at >= scratch.size()) return fail("row " + std::to_string(row) + " has no start", error);
    while ((scratch[at] & Entry::kFirstOfRow) == 0);
  pieces.clear();
  uint64_t used = 0;
  do {
    const Piece piece = {block * kBlockDocuments + Entry::document(scratch[at]), Entry::start(scratch[at]),
                         Entry::length(scratch[at])};
    used += piece.length + kPieceSpecials;
    if (piece.length == 0 || used > row_length_ || piece.document >= documents_)
      return fail("row " + std::to_string(row) + " holds an impossible piece", error);
    pieces.push_back(piece);
  } while (++at < scratch.size() && (scratch[at] & Entry::kFirstOfRow) == 0);
  return true;
}

bool PackFile::document(uint64_t document, std::vector<PlacedPiece>& pieces, std::string& error) const {
  pieces.clear();
  if (document >= documents_) return fail("has no document " + std::to_string(document), error);
  const PackLine &line = table_[document / kBlockDocuments], &next = table_[document / kBlockDocuments + 1];
  std::vector<uint64_t> entries(next.entry - line.entry);
  if (!file_->read(line.offset, entries.data(), 8 * entries.size(), error)) return false;
  uint64_t row = line.row;
  for (size_t i = 0; i < entries.size(); ++i) {
    row += i > 0 && (entries[i] & Entry::kFirstOfRow) != 0 ? 1 : 0;
    if (Entry::document(entries[i]) == document % kBlockDocuments)
      pieces.push_back({row, Entry::start(entries[i]), Entry::length(entries[i])});
  }
  std::sort(pieces.begin(), pieces.end(), [](const PlacedPiece& a, const PlacedPiece& b) { return a.start < b.start; });
  return true;
}

}  // namespace ettin
