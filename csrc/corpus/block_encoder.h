// Turns a block of input into ids: cut out records, check them, encode their text. One per thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "corpus/block.h"
#include "corpus/json_record.h"

namespace ettin {

// Encodes one text that is valid UTF-8, appending ids. False when the text is refused (a special token in it).
class TextEncoder {
 public:
  virtual ~TextEncoder() = default;
  virtual bool encode(std::string_view text, IdVector& ids, uint64_t& specials) = 0;
  virtual bool encode(std::string_view text, NarrowIdVector& ids, uint64_t& specials) = 0;
};

// Texts back to back, with the end of each.
struct TextBatch {
  std::string bytes;
  std::vector<uint64_t> ends;
};

struct IdBatch {
  IdVector ids;
  std::vector<uint64_t> ends;
  std::vector<uint64_t> specials;  // of each text
};

// Cuts documents into sentences: `sentences` and the number of them in each document. False, with the reason, on
// failure.
using Splitter = std::function<bool(const TextBatch& documents, TextBatch& sentences, std::vector<uint32_t>& counts,
                                    std::string& error)>;
// Encodes a batch outside of C++. False, with the reason, on failure.
using BatchEncoder = std::function<bool(const TextBatch& texts, IdBatch& ids, std::string& error)>;

struct EncodeSettings {
  std::vector<std::string> keys;
  uint32_t vocabulary = 0;
  bool wide = false;            // ids as int32 instead of uint16
  int64_t append_eod = -1;      // id, or -1
  int64_t template_first = -1;  // id that starts documents with template specials, or -1; for records of ids
  int64_t template_last = -1;
  bool strip_template = false;
  bool reject_specials = false;  // for the batch encoder; a TextEncoder refuses by itself
  uint64_t maximum_record = 0;   // bytes
  bool on_error_skip = false;
  std::function<std::unique_ptr<TextEncoder>()> text_encoder;
  BatchEncoder batch_encoder;  // used instead of text_encoder when set
  Splitter splitter;           // may be empty
};

class BlockEncoder {
 public:
  explicit BlockEncoder(const EncodeSettings& settings);
  std::unique_ptr<BlockResult> run(Block& block);

 private:
  struct Document {  // what a record gives to one output
    const std::string_view* texts;
    size_t count;
    uint64_t lone_surrogates;
  };
  struct Mark {  // where an output stood before a record, so that a refused one leaves nothing behind
    size_t tokens, lengths, sequences;
    OutputCounts counts;
  };
  struct Pending {  // documents of one output that wait for the splitter or the batch encoder
    TextBatch texts;
    std::vector<uint32_t> counts;  // texts of each document
    IdBatch ids;
  };
  struct Place {  // of a pending document in its source
    uint64_t line;
    uint64_t offset;
  };

  void file_block(Block& block, BlockResult& result);
  void json_block(std::string_view lines, uint64_t offset, BlockResult& result);
  void json_line(std::string_view line, uint64_t offset, bool known_valid, BlockResult& result);
  void text_block(const Block& block, BlockResult& result);
  bool rejects_row(const Block& block, size_t number, uint64_t row, BlockResult& result);
  bool check_texts(const std::vector<std::string_view>& texts, bool rows, uint64_t offset, BlockResult& result);
  void id_block(const Block& block, BlockResult& result);
  void id_record(const uint32_t* ids, size_t count, uint64_t row, BlockResult& result);
  void take_record(uint64_t offset, BlockResult& result);
  bool encode_document(const Document& document, OutputPart& part);
  void go_back(BlockResult& result);
  void add_sequence(OutputPart& part, const uint32_t* ids, size_t count);
  void finish_document(OutputPart& part, size_t begin);
  void collect(uint64_t offset, BlockResult& result);
  void finish_batches(BlockResult& result);
  bool split_pending(Pending& pending, BlockResult& result) const;
  bool encode_pending(Pending& pending, BlockResult& result);
  void store_pending(BlockResult& result);
  void reject(BlockResult& result, Reject kind, uint64_t offset, std::string reason) const;
  bool stopped(const BlockResult& result) const { return !settings_.on_error_skip && !result.rejected.empty(); }
  void release_large_buffers();

  const EncodeSettings& settings_;
  JsonRecord record_;
  LineRange lines_;  // of the block at hand
  std::unique_ptr<TextEncoder> encoder_;
  std::vector<Document> documents_;
  std::vector<Mark> marks_;
  std::vector<int32_t> sequence_lengths_;  // of the document at hand
  std::vector<Pending> pending_;
  std::vector<Place> places_;
  std::vector<char> refused_;  // pending documents that the encoder refused
  bool batched_;
};

}  // namespace ettin
