// Word starts by the table of a split automaton, for one instruction set. Included like word_encoder.h.

constexpr size_t kSplitTogether = 512;  // bytes that are split together

// Finds where words start, character by character; the same calls as those of Gpt2Splitter.
class StreamSplitter {
 public:
  StreamSplitter(const SplitStream& stream, std::string_view text)
      : stream_(stream),
        scanner_(stream.automaton(), text),
        text_(text.data()),
        size_(text.size()),
        row_(stream.first_row()) {}

  bool done() const { return done_; }
  // Behind the last byte beyond ASCII; 0 where there was none.
  size_t high_end() const { return high_end_; }

  // Appends the places where words start to the `words` in `starts`, until there are more than `most` or the text is at
  // its end; returns how many there are. Up to kSplitTogether + 16 more places are written over.
  size_t append_starts(uint32_t* starts, size_t words, size_t most) {
    while (words <= most && !done_) {
      words = left_                                            ? scan(starts, words)
              : size_ - at_ > kTogether && at_ >= alone_until_ ? follow_lanes(starts, words)
                                                               : follow(starts, words);
      // What is handed out must not turn out none.
      if (words > most && !done_ && !left_ && supposes()) words = leave(at_, words - 1);
    }
    return words;
  }

 private:
  static constexpr size_t kLanes = 2, kLaneBytes = kSplitTogether / kLanes, kLaneSearch = kLaneBytes / 2;
  static constexpr size_t kTogether = kSplitTogether;
  static constexpr size_t kReadAgain = 64;  // behind a word that the scanner found; more would take quadratic time

  // Follows the table for some characters.
  size_t follow(uint32_t* starts, size_t words) {
    const uint16_t* next_rows = stream_.next_rows();
    const uint8_t *flags = stream_.flags(), *columns = stream_.byte_columns();
    const size_t end = std::min(size_, at_ + 64);
    uint32_t row = row_;
    size_t at = at_;
    for (; at < end; ++at) {
      size_t place = row + columns[static_cast<uint8_t>(text_[at])];
      uint32_t said = flags[place];
      if (said > SplitStream::kStarts) {
        if (said == SplitStream::kDecodes) said = flags[place = row + high_column(at)];
        words -= said >> 2 & 1;
        if (__builtin_expect(said & SplitStream::kLeaves, 0)) return leave(at, words);
        starts[words] = static_cast<uint32_t>(at - 1);
        words += said >> 1 & 1;
      }
      row = next_rows[place];
      starts[words] = static_cast<uint32_t>(at);
      words += said & 1;
    }
    at_ = at;
    row_ = static_cast<uint16_t>(row);
    return at < size_ ? words : finish(starts, words);
  }

  bool supposes() const { return stream_.flags()[row_ + SplitStream::kEnd] & SplitStream::kSupposes; }

  // Follows the table in several places at once, so that their look-ups overlap, from where words surely start.
  size_t follow_lanes(uint32_t* starts, size_t words) {
    size_t begins[kLanes + 1] = {at_};
    for (size_t lane = 1; lane < kLanes; ++lane) {
      if (!(begins[lane] = certain_start(at_ + lane * kLaneBytes))) return alone(starts, words);
    }
    begins[kLanes] = at_ + kTogether;
    uint32_t found[kLanes][kLaneBytes + kLaneSearch + 2];
    // The first lane may take back the last start, which the others cannot.
    size_t counts[kLanes] = {1};
    found[0][0] = words ? starts[words - 1] : 0;
    if (!run(begins, found, counts)) return alone(starts, words);
    uint32_t* out = std::copy(found[0] + (words ? 0 : 1), found[0] + counts[0], starts + (words ? words - 1 : 0));
    for (size_t lane = 1; lane < kLanes; ++lane) out = std::copy(found[lane], found[lane] + counts[lane], out);
    at_ = begins[kLanes];
    return out - starts;
  }

  // Runs lanes to their ends; false where one leaves the table.
  template <size_t kSize>
  bool run(const size_t (&begins)[kLanes + 1], uint32_t (&found)[kLanes][kSize], size_t (&counts)[kLanes]) {
    const uint16_t* next_rows = stream_.next_rows();
    const uint8_t *flags = stream_.flags(), *columns = stream_.byte_columns();
    const char* text = text_;
    uint32_t rows[kLanes], leaves = 0;
    size_t steps = kTogether, words[kLanes];
    for (size_t lane = 0; lane < kLanes; ++lane) {
      steps = std::min(steps, begins[lane + 1] - begins[lane]);
      rows[lane] = lane ? stream_.first_row() : row_;
      words[lane] = counts[lane];
    }
    const auto take = [&](size_t lane, size_t at) {
      size_t place = rows[lane] + columns[static_cast<uint8_t>(text[at])];
      uint32_t said = flags[place];
      if (said > SplitStream::kStarts) {
        if (said == SplitStream::kDecodes) said = flags[place = rows[lane] + high_column(at)];
        leaves |= said;
        words[lane] -= said >> 2 & 1;
        found[lane][words[lane]] = static_cast<uint32_t>(at - 1);
        words[lane] += said >> 1 & 1;
      }
      rows[lane] = next_rows[place];
      found[lane][words[lane]] = static_cast<uint32_t>(at);
      words[lane] += said & 1;
    };
    for (size_t step = 0; step < steps; ++step) {
#pragma GCC unroll 8
      for (size_t lane = 0; lane < kLanes; ++lane) take(lane, begins[lane] + step);
    }
#pragma GCC unroll 8
    for (size_t lane = 0; lane < kLanes; ++lane) {
      for (size_t at = begins[lane] + steps; at < begins[lane + 1]; ++at) take(lane, at);
      counts[lane] = words[lane];
    }
    if (leaves & SplitStream::kLeaves) return false;
    row_ = rows[kLanes - 1];
    return true;
  }

  size_t alone(uint32_t* starts, size_t words) {
    alone_until_ = at_ + kTogether;
    return follow(starts, words);
  }

  // The first place at or after `from` where a word surely starts; 0 where none is near.
  size_t certain_start(size_t from) const {
    while (is_continuation(text_[from])) ++from;
    size_t length;
    uint8_t before = stream_.column(utf8_decode(text_ + from, length));
    const size_t end = from + kLaneSearch - 4;
    for (size_t at = from + length; at < end; at += length) {
      const uint8_t column = stream_.column(utf8_decode(text_ + at, length));
      if (stream_.always_starts(before, column)) return at;
      before = column;
    }
    return 0;
  }

  size_t leave(size_t at, size_t words) {
    left_ = true;
    at_ = at;
    return words;
  }

  // The end of the text may tell that a word starts at the last character.
  size_t finish(uint32_t* starts, size_t words) {
    const uint8_t said = stream_.flags()[row_ + SplitStream::kEnd];
    words -= said >> 2 & 1;
    if (said & SplitStream::kLeaves) return leave(size_, words);
    done_ = true;
    starts[words] = static_cast<uint32_t>(size_ - 1);
    return words + (said >> 1 & 1);
  }

  uint32_t high_column(size_t at) {
    size_t length;
    const uint32_t code = utf8_decode(text_ + at, length);
    high_end_ = std::max(high_end_, at + length);
    return stream_.column(code);
  }

  // Finds the end of the last word where the table could not tell, and goes back to the table behind that place.
  size_t scan(uint32_t* starts, size_t words) {
    const size_t end = scanner_.word_end(starts[words - 1]);
    if (end >= size_) {
      done_ = true;
      return words;
    }
    starts[words] = static_cast<uint32_t>(end);
    if (end + kReadAgain < at_) return words + 1;
    left_ = false;
    size_t length;
    row_ = stream_.row_behind(stream_.column(utf8_decode(text_ + end, length)));
    at_ = end + length;
    if (length > 1) high_end_ = std::max(high_end_, at_);
    return at_ < size_ ? words + 1 : finish(starts, words + 1);
  }

  const SplitStream& stream_;
  SplitScanner scanner_;
  const char* text_;
  size_t size_, at_ = 0, high_end_ = 0;
  uint32_t row_;
  bool left_ = false, done_ = false;
  size_t alone_until_ = 0;
};
