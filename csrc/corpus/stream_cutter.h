// Cuts a stream of bytes (a decompressed file, say) into blocks of whole records.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "corpus/block.h"

namespace ettin {

class StreamCutter {
 public:
  // Records end with `separator`: lines of JSON ("\n"), or documents of plain text. Records above `maximum_record`
  // bytes are not held in memory; they are reported as rejected. `start` is the offset of the first byte.
  StreamCutter(RecordKind kind, std::string separator, uint64_t start, uint64_t block_bytes, uint64_t maximum_record);

  // Takes the next bytes and passes on the blocks that are full.
  void append(std::string_view data, const std::function<void(Block)>& emit);
  // Passes on what is left; the last record needs no separator. A tail that was cut off in the middle is dropped.
  void finish(bool drop_tail, const std::function<void(Block)>& emit);

 private:
  void cut(const std::function<void(Block)>& emit);
  void emit_records(size_t size, const std::function<void(Block)>& emit);
  void emit_too_long(const std::function<void(Block)>& emit);

  RecordKind kind_;
  std::string separator_;
  uint64_t offset_;  // of buffer_[0] in the stream
  uint64_t block_bytes_, maximum_record_;
  std::string buffer_;
  size_t scanned_ = 0;     // no separator starts in [records_, scanned_)
  size_t records_ = 0;     // end of the last whole record in buffer_, separator included
  bool skipping_ = false;  // inside a record that is too long
  uint64_t skip_start_ = 0;
};

}  // namespace ettin
