// The half of BlockEncoder that gathers the documents of a block for a splitter or an encoder outside of C++.
#include <algorithm>

#include "corpus/block_encoder.h"

namespace ettin {

// Keeps the record in documents_ for the splitter or the batch encoder.
void BlockEncoder::collect(uint64_t offset, BlockResult& result) {
  for (size_t i = 0; i < documents_.size(); ++i) {
    Pending& pending = pending_[i];
    for (size_t k = 0; k < documents_[i].count; ++k) {
      pending.texts.bytes.append(documents_[i].texts[k]);
      pending.texts.ends.push_back(pending.texts.bytes.size());
      result.outputs[i].counts.text_bytes += documents_[i].texts[k].size();
    }
    result.outputs[i].counts.lone_surrogates += documents_[i].lone_surrogates;
    pending.counts.push_back(static_cast<uint32_t>(documents_[i].count));
  }
  places_.push_back({result.lines, offset});
}

void BlockEncoder::finish_batches(BlockResult& result) {
  refused_.assign(places_.size(), 0);
  bool whole = true;
  for (auto& pending : pending_) whole = whole && split_pending(pending, result) && encode_pending(pending, result);
  if (whole) store_pending(result);
  for (auto& pending : pending_) pending = Pending{};
  places_.clear();
  std::stable_sort(result.rejected.begin(), result.rejected.end(),
                   [](const RejectedRecord& a, const RejectedRecord& b) { return a.line < b.line; });
}

bool BlockEncoder::split_pending(Pending& pending, BlockResult& result) const {
  if (!settings_.splitter || places_.empty()) return true;
  TextBatch sentences;
  if (!settings_.splitter(pending.texts, sentences, pending.counts, result.failure)) return false;
  pending.texts = std::move(sentences);
  return true;
}

// Fills pending.ids: one entry a text; marks the documents that are refused.
bool BlockEncoder::encode_pending(Pending& pending, BlockResult& result) {
  const size_t texts = pending.texts.ends.size();
  if (settings_.batch_encoder) {
    if (!settings_.batch_encoder(pending.texts, pending.ids, result.failure)) return false;
    if (pending.ids.ends.size() != texts || pending.ids.specials.size() != texts) {
      result.failure = "the encoder did not return ids for every text";
      return false;
    }
  }
  size_t text = 0;
  for (size_t document = 0; document < pending.counts.size(); ++document) {
    for (uint32_t k = 0; k < pending.counts[document]; ++k, ++text) {
      if (settings_.batch_encoder) {
        if (settings_.reject_specials && pending.ids.specials[text] != 0) refused_[document] = 1;
        continue;
      }
      const uint64_t begin = text == 0 ? 0 : pending.texts.ends[text - 1];
      const std::string_view view(pending.texts.bytes.data() + begin, pending.texts.ends[text] - begin);
      uint64_t specials = 0;
      if (!encoder_->encode(view, pending.ids.ids, specials)) refused_[document] = 1;
      pending.ids.ends.push_back(pending.ids.ids.size());
      pending.ids.specials.push_back(specials);
    }
  }
  return true;
}

void BlockEncoder::store_pending(BlockResult& result) {
  for (size_t i = 0; i < pending_.size(); ++i) {
    const Pending& pending = pending_[i];
    OutputPart& part = result.outputs[i];
    size_t text = 0;
    for (size_t document = 0; document < places_.size(); ++document) {
      const size_t start = part.tokens.size();
      for (uint32_t k = 0; k < pending.counts[document]; ++k, ++text) {
        if (refused_[document] != 0) continue;
        const uint64_t begin = text == 0 ? 0 : pending.ids.ends[text - 1];
        add_sequence(part, pending.ids.ids.data() + begin, pending.ids.ends[text] - begin);
        part.counts.specials += pending.ids.specials[text];
      }
      if (refused_[document] == 0) finish_document(part, start);
    }
  }
  for (size_t document = 0; document < places_.size(); ++document) {
    if (refused_[document] == 0) {
      ++result.documents;
      continue;
    }
    RejectedRecord record;
    record.line = places_[document].line;
    record.offset = places_[document].offset;
    record.kind = Reject::kSpecialToken;
    record.reason = "a special token stands in the text";
    result.rejected.push_back(std::move(record));
  }
}

}  // namespace ettin
