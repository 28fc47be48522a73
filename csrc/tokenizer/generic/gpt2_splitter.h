// Word starts of the GPT-2 pattern for one instruction set. Included like word_encoder.h.

// Finds where words start, 64 bytes at a time, by arithmetic on masks of classes: the pattern of GPT-2.
// Runs of two and more spaces are words of their own, and end the text before them, when they are added tokens.
class Gpt2Splitter {
 public:
  Gpt2Splitter(std::string_view text, bool runs) : text_(text.data()), size_(text.size()), runs_(runs) {}

  bool done() const { return base_ >= size_; }
  // Where the last window ends that has a byte beyond ASCII; 0 when none had.
  size_t high_end() const { return high_end_; }

  // Appends the places where words start to the `words` in `starts`, until there are more than `most` or the text is at
  // its end; returns how many there are. Up to 64 more places are written over.
  size_t append_starts(uint32_t* starts, size_t words, size_t most) {
    while (words <= most && !done()) {
      words += append_bits(next(), static_cast<uint32_t>(base_), starts + words);
      base_ += 64;
    }
    return words;
  }

 private:
  // Bit i: a word starts at base_ + i.
  uint64_t next() {
    char tail[64];
    const char* window = text_ + base_;
    uint64_t valid = ~0ull;
    if (__builtin_expect(size_ - base_ < 64, 0)) {
      std::memset(tail, 0, sizeof(tail));
      std::memcpy(tail, window, size_ - base_);
      window = tail;
      valid = (1ull << (size_ - base_)) - 1;
    }
#if defined(ETTIN_AVX512)
    const __m512i bytes = _mm512_loadu_si512(window);
    if (!(_mm512_movepi8_mask(bytes) | spill_)) return plain_starts(bytes, valid) & valid;
#endif
    return mixed_starts(classify(window), valid) & valid;
  }

#if defined(ETTIN_AVX512)
  // Of a window in ASCII: a class ends where a byte's differs from that of the byte before.
  uint64_t plain_starts(__m512i bytes, uint64_t valid) {
    const __m512i classes = ascii_classes(bytes);
    const __m512i before = _mm512_alignr_epi8(classes, _mm512_alignr_epi64(classes, last_classes_, 6), 15);
    const auto having = [&](int bits) {
      return _mm512_test_epi8_mask(classes, _mm512_set1_epi8(static_cast<char>(bits)));
    };
    last_classes_ = classes;
    const uint64_t real = having(kRealBits) & valid;
    return starts_of({real, _mm512_cmpneq_epi8_mask(classes, before) & real, having(kSpaceBit), having(kWhiteBit),
                      _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8('\'')), 0, 0});
  }
#endif

  uint64_t mixed_starts(ByteMasks masks, uint64_t valid) {
    masks.other &= valid;
    uint64_t lone_starts = 0;  // white space beyond ASCII that starts a word because no white space follows
    if (masks.high | spill_) {
      lone_starts = add_high(masks);
      high_end_ = base_ + 64;
    }
    const uint8_t last = last_class();
    const auto first = [](uint64_t mask, uint64_t before) { return mask & ~(mask << 1 | before); };
    const uint64_t firsts = first(masks.letter, last == kLetterBit) | first(masks.number, last == kNumberBit) |
                            first(masks.other, last == kOtherBit);
    const auto bit = [](uint64_t mask, AsciiBit named) { return static_cast<uint8_t>(mask >> 63 ? named : 0); };
    set_last_class(bit(masks.letter, kLetterBit) | bit(masks.number, kNumberBit) | bit(masks.other, kOtherBit));
    return starts_of({masks.letter | masks.number | masks.other, firsts, masks.space, masks.white, masks.apostrophe,
                      masks.high, lone_starts});
  }

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

  struct Classes {    // of a window
    uint64_t real;    // letters, numbers and others
    uint64_t firsts;  // of those, the bytes whose class is not that of the byte before
    uint64_t space, white, apostrophe, high, lone_starts;
  };

  uint64_t starts_of(const Classes& window) {
    uint64_t run = 0;
    if (runs_) {
      const uint64_t next_space = base_ + 64 < size_ && text_[base_ + 64] == ' ';
      run = window.space & ((window.space << 1 | carry_.space) | (window.space >> 1 | next_space << 63));
    }
    const uint64_t glue = window.space & ~run, white = glue | window.white;
    const uint64_t after_white = white << 1 | carry_.white;
    uint64_t starts = window.firsts & ~(glue << 1 | carry_.glue);
    starts |= (white & ~after_white) | (run & ~(run << 1 | carry_.run)) | window.lone_starts;
    // The last character of two and more of white space, when something follows.
    const uint64_t trailing = white & after_white & ~window.high;
    uint64_t followed = window.real >> 1;
    if (trailing >> 63) followed |= static_cast<uint64_t>(is_real(base_ + 64)) << 63;
    starts |= trailing & followed;
    starts = (starts & ~carry_.clear) | carry_.set;
    carry_ = {window.space >> 63, glue >> 63, white >> 63, run >> 63, 0, 0};
    for (uint64_t marks = window.apostrophe & starts; marks; marks &= marks - 1) {
      contraction(__builtin_ctzll(marks), starts);
    }
    return starts;
  }

  // "'s" and the like at a word's start: a word ends behind it, and none starts within it.
  void contraction(int at, uint64_t& starts) {
    const size_t mark = base_ + at;
    const int length = static_cast<int>(contraction_end(std::string_view(text_, size_), mark) - mark);
    if (!length) return;
    const int inside = at + 1, behind = at + length;
    if (inside < 64)
      starts &= ~(1ull << inside);
    else
      carry_.clear |= 1ull << (inside - 64);
    if (behind < 64)
      starts |= 1ull << behind;
    else if (mark + length < size_)
      carry_.set |= 1ull << (behind - 64);
  }

  struct Carry {  // of the last byte of the window before; the last two change starts of the next window
    uint64_t space, glue, white, run, clear, set;
  };

  const char* text_;
  size_t size_, base_ = 0, high_end_ = 0;
  bool runs_;
  Carry carry_{};
  uint64_t spill_ = 0;  // bytes of a character that reach into the next window
  CharacterClass spill_class_ = kOther;
#if defined(ETTIN_AVX512)
  __m512i last_classes_ = _mm512_setzero_si512();  // of the window before; its last byte counts
  uint8_t last_class() const {
    return static_cast<uint8_t>(_mm_extract_epi8(_mm512_extracti32x4_epi32(last_classes_, 3), 15));
  }
  void set_last_class(int bit) { last_classes_ = _mm512_set1_epi8(static_cast<char>(bit)); }
#else
  uint8_t last_class_ = 0;  // of the last byte of the window before
  uint8_t last_class() const { return last_class_; }
  void set_last_class(int bit) { last_class_ = static_cast<uint8_t>(bit); }
#endif
};
