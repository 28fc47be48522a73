// The threads of the corpus builder. Blocks are encoded in any order, given their place in input order, written in
// any order, and journalled in input order: what is on the disk never depends on the number of threads.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "corpus/block_encoder.h"
#include "corpus/writer.h"

namespace ettin {

struct Failure {
  enum class Kind : uint8_t { kNone, kRecord, kInput, kOutput };
  Kind kind = Kind::kNone;
  uint32_t source = 0;
  RejectedRecord record;  // of a record failure; its line is that of the source
  std::string message;    // of the others
};

struct Totals {
  uint64_t bytes = 0;  // of the inputs, in committed blocks
  uint64_t documents = 0;
  uint64_t tokens = 0;  // of all outputs
  uint64_t rejected = 0;
};

class Pipeline {
 public:
  // `writer` is open at `state`.
  Pipeline(EncodeSettings settings, std::unique_ptr<CorpusWriter> writer, BuildState state, size_t threads);
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  // Waits until another block may be submitted. False when time is up first; true at once after a failure.
  bool wait_for_space(std::chrono::milliseconds time);
  // Takes the next block in input order; its `order` is set here. Blocks submitted after a failure are dropped.
  void submit(Block block);
  // Waits until every block is committed or a failure has settled. False when time is up first.
  bool wait_until_done(std::chrono::milliseconds time);
  // Ends the threads; blocks that are not committed are dropped.
  void stop();

  Failure failure() const;
  Totals totals() const;
  BuildState state() const;

 private:
  struct Written {
    std::unique_ptr<BlockResult> result;
    Place place;
    bool written = false;
  };
  void work();
  void encode(std::unique_lock<std::mutex>& lock, BlockEncoder& encoder);
  void write(std::unique_lock<std::mutex>& lock);
  void place_ready();
  void commit_ready();
  bool check(BlockResult& result);
  void fail(Failure failure);
  bool failed() const { return failure_.kind != Failure::Kind::kNone; }
  bool idle() const;

  const EncodeSettings settings_;
  const std::unique_ptr<CorpusWriter> writer_;
  const size_t space_;

  mutable std::mutex mutex_;
  std::condition_variable work_ready_, space_ready_, done_;
  std::deque<Block> blocks_;                                  // to encode
  std::map<uint64_t, std::unique_ptr<BlockResult>> results_;  // encoded, without a place yet
  std::deque<Written*> writes_;                               // placed, to be written
  std::map<uint64_t, Written> placed_;                        // placed, not committed
  BuildState state_;                                          // committed
  Place next_place_;
  uint64_t next_order_ = 0;   // of the next block submitted
  uint64_t next_placed_ = 0;  // order of the next block to be placed
  uint32_t place_source_ = 0;
  uint64_t place_lines_ = 0;  // lines of that source before the next block
  size_t busy_ = 0;           // threads at work
  Failure failure_;
  Totals totals_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace ettin
