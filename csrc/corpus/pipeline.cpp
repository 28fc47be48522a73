#include "corpus/pipeline.h"

namespace ettin {

Pipeline::Pipeline(EncodeSettings settings, std::unique_ptr<CorpusWriter> writer, BuildState state, size_t threads)
    : settings_(std::move(settings)), writer_(std::move(writer)), space_(2 * threads + 2), state_(std::move(state)) {
  next_order_ = next_placed_ = state_.blocks;
  next_place_.documents = state_.documents;
  for (const auto& output : state_.outputs) next_place_.outputs.push_back({output.bytes, output.sequences});
  place_source_ = state_.source;
  place_lines_ = state_.lines;
  for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

Pipeline::~Pipeline() { stop(); }

void Pipeline::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  work_ready_.notify_all();
  for (std::thread& thread : threads_)
    if (thread.joinable()) thread.join();
}

bool Pipeline::wait_for_space(std::chrono::milliseconds time) {
  std::unique_lock<std::mutex> lock(mutex_);
  return space_ready_.wait_for(lock, time, [this] { return failed() || next_order_ - state_.blocks < space_; });
}

void Pipeline::submit(Block block) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failed()) return;
    block.order = next_order_++;
    blocks_.push_back(std::move(block));
  }
  work_ready_.notify_one();
}

// Nothing is being done, and nothing is left that may still be committed.
bool Pipeline::idle() const {
  if (busy_ != 0 || !writes_.empty()) return false;
  return failed() || state_.blocks == next_order_;
}

bool Pipeline::wait_until_done(std::chrono::milliseconds time) {
  std::unique_lock<std::mutex> lock(mutex_);
  return done_.wait_for(lock, time, [this] { return idle(); });
}

Failure Pipeline::failure() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return failure_;
}

Totals Pipeline::totals() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return totals_;
}

BuildState Pipeline::state() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return state_;
}

void Pipeline::work() {
  BlockEncoder encoder(settings_);
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    work_ready_.wait(lock, [this] { return stopping_ || !writes_.empty() || !blocks_.empty(); });
    if (stopping_) return;
    ++busy_;
    if (!writes_.empty()) {
      write(lock);
    } else {
      encode(lock, encoder);
    }
    --busy_;
    if (idle()) done_.notify_all();
  }
}

void Pipeline::encode(std::unique_lock<std::mutex>& lock, BlockEncoder& encoder) {
  Block block = std::move(blocks_.front());
  blocks_.pop_front();
  if (failed()) return;
  lock.unlock();
  std::unique_ptr<BlockResult> result = encoder.run(block);
  lock.lock();
  results_.emplace(result->order, std::move(result));
  place_ready();
}

// Gives every block whose predecessors are known its place in the output.
void Pipeline::place_ready() {
  while (!failed() && !results_.empty() && results_.begin()->first == next_placed_) {
    std::unique_ptr<BlockResult> result = std::move(results_.begin()->second);
    results_.erase(results_.begin());
    if (!check(*result)) return;
    ++next_placed_;
    Written& written = placed_[result->order];
    written.place = next_place_;
    next_place_.documents += result->documents;
    for (size_t i = 0; i < result->outputs.size(); ++i) {
      next_place_.outputs[i].bytes += result->outputs[i].tokens.bytes();
      next_place_.outputs[i].sequences += result->outputs[i].lengths.size();
    }
    written.result = std::move(result);
    writes_.push_back(&written);
    work_ready_.notify_one();
  }
}

// Counts the lines of a block, so that its rejected records know theirs; a block that must stop the run fails it.
bool Pipeline::check(BlockResult& result) {
  if (result.source != place_source_) {
    place_source_ = result.source;
    place_lines_ = 0;
  }
  for (RejectedRecord& record : result.rejected) record.line += place_lines_;
  place_lines_ += result.lines;
  Failure failure;
  failure.source = result.source;
  if (!result.rejected.empty() && !settings_.on_error_skip) {
    failure.kind = Failure::Kind::kRecord;
    failure.record = result.rejected.front();
  } else if (!result.failure.empty()) {
    failure.kind = Failure::Kind::kInput;
    failure.message = result.failure;
  } else {
    return true;
  }
  fail(std::move(failure));
  return false;
}

void Pipeline::fail(Failure failure) {
  if (!failed()) failure_ = std::move(failure);
  blocks_.clear();
  results_.clear();
  space_ready_.notify_all();
}

void Pipeline::write(std::unique_lock<std::mutex>& lock) {
  Written* task = writes_.front();
  writes_.pop_front();
  lock.unlock();
  std::string error;
  const bool written = writer_->write(*task->result, task->place, error);
  lock.lock();
  if (!written) {
    Failure failure;
    failure.kind = Failure::Kind::kOutput;
    failure.message = error;
    fail(std::move(failure));
    return;
  }
  task->written = true;
  commit_ready();
}

void Pipeline::commit_ready() {
  while (!placed_.empty() && placed_.begin()->first == state_.blocks && placed_.begin()->second.written) {
    const BlockResult& result = *placed_.begin()->second.result;
    std::string error;
    if (!writer_->commit(result, state_, error)) {
      Failure failure;
      failure.kind = Failure::Kind::kOutput;
      failure.message = error;
      fail(std::move(failure));
      return;
    }
    totals_.bytes += result.bytes_read;
    totals_.documents += result.documents;
    totals_.rejected += result.rejected.size();
    for (const OutputPart& part : result.outputs) totals_.tokens += part.counts.tokens;
    placed_.erase(placed_.begin());
    space_ready_.notify_all();
  }
}

}  // namespace ettin
