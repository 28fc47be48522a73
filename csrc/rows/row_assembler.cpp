#include "rows/row_assembler.h"

#include <algorithm>

namespace ettin {

namespace {

void count_up(int32_t* positions, uint32_t count) noexcept {
  for (uint32_t i = 0; i < count; ++i) positions[i] = static_cast<int32_t>(i);
}

}  // namespace

RowAssembler::RowAssembler(std::vector<SourceRows> sources, RowFormat format, InstructionSet set)
    : sources_(std::move(sources)), format_(std::move(format)), set_(set) {}

bool RowAssembler::check_ids(const SourceRows& source, const Piece& piece, const int32_t* ids,
                             std::string& error) const {
  uint32_t largest = 0;
  for (uint32_t i = 0; i < piece.length; ++i) largest = std::max(largest, static_cast<uint32_t>(ids[i]));
  if (largest < format_.mask.vocabulary) return true;
  error = "source '" + source.name + "': document " + std::to_string(piece.document) + " holds token id " +
          std::to_string(static_cast<int32_t>(largest)) + ", but the tokenizer has " +
          std::to_string(format_.mask.vocabulary) + " ids; run `ettin corpus verify`, and rebuild a damaged corpus";
  return false;
}

// Writes [CLS] + text + end at `at`, with positions and segment bounds. `ends`: the end position holds [SEP].
bool RowAssembler::add_piece(const SourceRows& source, const Piece& piece, uint32_t at, bool& ends, AssembledRows& out,
                             int32_t* row, std::string& error) {
  DocumentSpan where;
  if (!source.corpus->span(piece.document, where, error)) return false;
  if (uint64_t{piece.start} + piece.length > where.length) {
    error = "source '" + source.name + "': the pack index asks for tokens " + std::to_string(piece.start) + " to " +
            std::to_string(uint64_t{piece.start} + piece.length) + " of document " + std::to_string(piece.document) +
            ", which has " + std::to_string(where.length) + "; delete the .pack file, it is built again";
    return false;
  }
  const uint64_t offset = where.offset + uint64_t{piece.start} * where.files->token_bytes();
  if (!where.files->tokens(offset, piece.length, row + at + 1, byte_scratch_, error)) return false;
  if (!check_ids(source, piece, row + at + 1, error)) return false;
  const uint32_t end = at + 1 + piece.length;
  ends = always_ends_ || piece.start + piece.length == where.length;
  row[at] = format_.cls_id;
  row[end] = ends ? format_.sep_id : format_.pad_id;
  const auto base = static_cast<int32_t>(row - out.input_ids.data());
  int32_t* positions = out.positions.data() + base;
  count_up(positions + at, piece.length + kPieceSpecials);
  if (!ends) {
    out.segments.push_back(base + static_cast<int32_t>(end));
    positions[end] = 0;
  }
  out.segments.push_back(base + static_cast<int32_t>(end) + 1);
  return true;
}

void RowAssembler::add_labels(const RowRequest& request, uint32_t index, AssembledRows& out, int32_t* row) {
  const auto base = static_cast<int32_t>(index * format_.row_length);
  const SourceRows& source = sources_[static_cast<size_t>(request.source)];
  const auto number = static_cast<uint64_t>(request.row);
  if (masked_) {
    format_.mask.bounds = request.masks;
    start_row_masks({source.choice_key, number, request.pass}, format_.row_length, mask_scratch_, set_);
  }
  uint32_t at = 0;
  for (size_t p = 0; p < pieces_.size(); ++p) {
    const uint32_t end = at + 1 + pieces_[p].length;
    if (masked_) {
      mask_span(row, at + 1, end, format_.mask, {source.replacement_key, number, request.pass},
                base + format_.label_offset, out.labels, mask_scratch_, set_);
    } else {
      out.labels.reserve_more(end - at);
      for (uint32_t i = at + 1; i < end + (ends_[p] ? 1 : 0); ++i)
        out.labels.add(base + static_cast<int32_t>(i) + format_.label_offset, row[i]);
    }
    at = end + 1;
  }
}

bool RowAssembler::add_row(const RowRequest& request, uint32_t index, AssembledRows& out, std::string& error) {
  int32_t* row = out.input_ids.data() + size_t{index} * format_.row_length;
  uint32_t at = 0;
  pieces_.clear();
  if (request.row >= 0) {
    const SourceRows& source = sources_[static_cast<size_t>(request.source)];
    const auto number = static_cast<uint64_t>(request.row);
    const bool next_token =
        format_.next_token_below > 0 && row_draw({source.kind_key, number, request.pass}, 0) < format_.next_token_below;
    out.next_token[index] = next_token;
    masked_ = format_.masked && !next_token;
    always_ends_ = format_.always_ends && !next_token;
    if (!source.pack->row(number, pieces_, entry_scratch_, error)) return false;
    ends_.resize(pieces_.size());
    for (size_t p = 0; p < pieces_.size(); ++p) {
      bool ends = false;
      if (!add_piece(source, pieces_[p], at, ends, out, row, error)) return false;
      ends_[p] = ends;
      at += pieces_[p].length + kPieceSpecials;
    }
    out.tokens += at;
    add_labels(request, index, out, row);
  }
  if (at < format_.row_length) {
    std::fill(row + at, row + format_.row_length, format_.pad_id);
    count_up(out.positions.data() + size_t{index} * format_.row_length + at, format_.row_length - at);
    out.segments.push_back(static_cast<int32_t>((index + 1) * format_.row_length));
  }
  return true;
}

bool RowAssembler::assemble(const std::vector<RowRequest>& requests, AssembledRows& out, std::string& error) {
  const size_t size = requests.size() * format_.row_length;
  out.input_ids.resize(size);
  out.positions.resize(size);
  out.segments.assign(1, 0);
  out.next_token.assign(requests.size(), 0);
  out.labels.count = 0;
  out.tokens = 0;
  for (size_t i = 0; i < requests.size(); ++i)
    if (!add_row(requests[i], static_cast<uint32_t>(i), out, error)) return false;
  return true;
}

}  // namespace ettin
