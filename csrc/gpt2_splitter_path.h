// Word starts of the GPT-2 pattern for one instruction set. Included like word_encoder_path.h.

// Finds where words start, 64 bytes at a time, by arithmetic on masks of classes: the pattern of GPT-2.
// Runs of two and more spaces are words of their own, and end the text before them, when they are added tokens.
class Gpt2Splitter {
 public:
  Gpt2Splitter(std::string_view text, bool runs) : text_(text.data()), size_(text.size()), runs_(runs) {}

  bool done() const { return base_ >= size_; }
  size_t base() const { return base_; }
  // Where the last block ends that has a byte beyond ASCII; 0 when none had.
  size_t high_end() const { return high_end_; }

  // Bit i: a word starts at base() + i. Moves on to the next block.
  uint64_t next() {
    char tail[64];
    const char* block = text_ + base_;
    uint64_t valid = ~0ull;
    if (size_ - base_ < 64) {
      std::memset(tail, 0, sizeof(tail));
      std::memcpy(tail, block, size_ - base_);
      block = tail;
      valid = (1ull << (size_ - base_)) - 1;
    }
    ByteMasks masks = classify(block);
    masks.other &= valid;
    uint64_t lone_starts = 0;  // white space beyond ASCII that starts a word because no white space follows
    if (masks.high | spill_) {
      lone_starts = add_high(masks);
      high_end_ = base_ + 64;
    }
    const uint64_t starts = word_starts(masks, lone_starts, valid);
    base_ += 64;
    return starts;
  }

 private:
  // Puts characters beyond ASCII into the masks of their classes.
  uint64_t add_high(ByteMasks& masks) {
    uint64_t lone = 0, by_class[4] = {0, 0, 0, 0};
    by_class[spill_class_] = spill_;
    spill_ = 0;
    for (uint64_t leads = masks.lead; leads; leads &= leads - 1) {
      const int at = __builtin_ctzll(leads);
      size_t length;
      const uint32_t code = utf8_decode(text_ + base_ + at, length);
      const auto kind = static_cast<CharacterClass>(property(code) & kClassMask);
      const uint64_t bits = (1ull << length) - 1;
      by_class[kind] |= bits << at;
      if (at + length > 64) {
        spill_ = bits >> (64 - at);
        spill_class_ = kind;
      }
      if (kind == kSpace && is_real(base_ + at + length)) lone |= 1ull << at;
    }
    masks.letter |= by_class[kLetter];
    masks.number |= by_class[kNumber];
    masks.other |= by_class[kOther];
    masks.white |= by_class[kSpace];
    return lone;
  }

  // Whether there is a character at `at` and it is not white space.
  bool is_real(size_t at) const {
    if (at >= size_) return false;
    size_t length;
    return (property(utf8_decode(text_ + at, length)) & kClassMask) != kSpace;
  }

  uint64_t word_starts(const ByteMasks& masks, uint64_t lone_starts, uint64_t valid) {
    const uint64_t letter = masks.letter, number = masks.number, other = masks.other;
    uint64_t run = 0;
    if (runs_) {
      const uint64_t next_space = base_ + 64 < size_ && text_[base_ + 64] == ' ';
      run = masks.space & ((masks.space << 1 | carry_.space) | (masks.space >> 1 | next_space << 63));
    }
    const uint64_t glue = masks.space & ~run, white = glue | masks.white;
    const uint64_t real = letter | number | other;
    const auto first = [](uint64_t mask, uint64_t carry) { return mask & ~(mask << 1 | carry); };
    uint64_t starts = first(letter, carry_.letter) | first(number, carry_.number) | first(other, carry_.other);
    starts &= ~(glue << 1 | carry_.glue);
    starts |= first(white, carry_.white) | first(run, carry_.run) | lone_starts;
    // The last character of two and more of white space, when something follows.
    const uint64_t trailing = white & (white << 1 | carry_.white) & ~masks.high;
    uint64_t followed = real >> 1;
    if (trailing >> 63) followed |= static_cast<uint64_t>(is_real(base_ + 64)) << 63;
    starts |= trailing & followed;
    starts = (starts & ~carry_.clear) | carry_.set;
    carry_ = {letter >> 63, number >> 63, other >> 63, masks.space >> 63, glue >> 63, white >> 63, run >> 63, 0, 0};
    for (uint64_t marks = masks.apostrophe & starts; marks; marks &= marks - 1) {
      contraction(__builtin_ctzll(marks), starts);
    }
    return starts & valid;
  }

  // "'s" and the like at a word's start: a word ends behind it, and none starts within it.
  void contraction(int at, uint64_t& starts) {
    const size_t mark = base_ + at;
    const Cursor cursor(std::string_view(text_, size_));
    const int length = static_cast<int>(contraction_end(cursor, mark, false) - mark);
    if (!length) return;
    const int inside = at + 1, behind = at + length;
    if (inside < 64) starts &= ~(1ull << inside);
    else carry_.clear |= 1ull << (inside - 64);
    if (behind < 64) starts |= 1ull << behind;
    else if (mark + length < size_) carry_.set |= 1ull << (behind - 64);
  }

  struct Carry {  // of the last byte of the block before; the last two change starts of the next block
    uint64_t letter, number, other, space, glue, white, run, clear, set;
  };

  const char* text_;
  size_t size_, base_ = 0, high_end_ = 0;
  bool runs_;
  Carry carry_{};
  uint64_t spill_ = 0;  // bytes of a character that reach into the next block
  CharacterClass spill_class_ = kOther;
};

