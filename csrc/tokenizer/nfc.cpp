// NFC, stretch by stretch: a stretch starts at a character that normalization cannot touch and ends before the next
// one.
#include <algorithm>
#include <array>
#include <vector>

#include "tokenizer/text_scan.h"
#include "text/unicode.h"

namespace ettin {
namespace {

constexpr uint32_t kHangulBase = 0xAC00, kLeadBase = 0x1100, kVowelBase = 0x1161, kTailBase = 0x11A7;
constexpr uint32_t kLeadCount = 19, kVowelCount = 21, kTailCount = 28;
constexpr uint32_t kHangulCount = kLeadCount * kVowelCount * kTailCount;

void append_decomposition(uint32_t code, std::vector<uint32_t>& out) {
  const uint32_t hangul = code - kHangulBase;
  if (hangul < kHangulCount) {
    out.push_back(kLeadBase + hangul / (kVowelCount * kTailCount));
    out.push_back(kVowelBase + hangul / kTailCount % kVowelCount);
    if (hangul % kTailCount) out.push_back(kTailBase + hangul % kTailCount);
    return;
  }
  const uint32_t* end = decomposition_keys + decomposition_count;
  const uint32_t* found = std::lower_bound(decomposition_keys, end, code);
  if (found == end || *found != code) return out.push_back(code);
  const size_t at = found - decomposition_keys;
  out.insert(out.end(), decomposition_values + decomposition_offsets[at],
             decomposition_values + decomposition_offsets[at + 1]);
}

// The composed character, or 0.
uint32_t compose_pair(uint32_t first, uint32_t second) {
  if (first - kLeadBase < kLeadCount && second - kVowelBase < kVowelCount) {
    return kHangulBase + ((first - kLeadBase) * kVowelCount + second - kVowelBase) * kTailCount;
  }
  const uint32_t hangul = first - kHangulBase;
  if (hangul < kHangulCount && hangul % kTailCount == 0 && second - kTailBase - 1 < kTailCount - 1) {
    return first + second - kTailBase;
  }
  const uint64_t pair = static_cast<uint64_t>(first) << 32 | second;
  const uint64_t* end = composition_pairs + composition_count;
  const uint64_t* found = std::lower_bound(composition_pairs, end, pair);
  return found != end && *found == pair ? composition_values[found - composition_pairs] : 0;
}

// Sorts every run of non-starters by combining class, keeping the order of equals.
void reorder(std::vector<uint32_t>& codes) {
  auto by_class = [](uint32_t a, uint32_t b) { return combining_class(a) < combining_class(b); };
  for (size_t at = 0; at < codes.size();) {
    size_t end = at;
    while (end < codes.size() && combining_class(codes[end])) ++end;
    if (end - at > 1) std::stable_sort(codes.begin() + at, codes.begin() + end, by_class);
    at = end + 1;
  }
}

void compose(std::vector<uint32_t>& codes) {
  constexpr size_t kNone = ~static_cast<size_t>(0);
  size_t starter = kNone, size = 0;
  int previous = -1;  // class of the last character kept after the starter; -1 when there is none
  for (const uint32_t code : codes) {
    const int own = combining_class(code);
    if (starter != kNone && (previous < 0 || previous < own)) {  // nothing between them blocks
      if (const uint32_t composed = compose_pair(codes[starter], code)) {
        codes[starter] = composed;
        continue;
      }
    }
    if (!own) starter = size;
    previous = own ? own : -1;
    codes[size++] = code;
  }
  codes.resize(size);
}

// Finds stretches that normalization may change and rebuilds them; keeps its scratch between calls.
class Normalizer {
 public:
  __attribute__((noinline)) bool run(std::string_view text, std::string& out) {
    size_t kept = 0;  // text before this is in `out` already
    bool changed = false;
    for (size_t at = 0; (at = text_scan().find_normalizing(text, at)) < text.size();) {
      const size_t begin = at ? utf8_previous(text.data(), at) : 0;
      bool stays;
      const size_t end = load_stretch(text, begin, stays);
      if (!stays && rebuild()) {
        if (!changed) out.clear();
        changed = true;
        out.append(text, kept, begin - kept);
        for (const uint32_t code : codes_) utf8_append(out, code);
        kept = end;
      }
      at = end;
    }
    if (changed) out.append(text, kept, std::string_view::npos);
    return changed;
  }

 private:
  // Where the stretch of the character at `begin` and all that normalization may touch after it ends. `stays`: nothing
  // in it composes or decomposes, and marks are in order, so it is normalized; else it lies in `original_`.
  size_t load_stretch(std::string_view text, size_t begin, bool& stays) {
    stays = true;
    size_t at = begin;
    uint8_t previous = 0;
    do {
      size_t length;
      const uint32_t code = utf8_decode(text.data() + at, length);
      const uint8_t flags = property(code);
      if (at > begin && !(flags & kNormalizesFlag)) break;
      const uint8_t own = flags & kNormalizesFlag ? combining_class(code) : 0;
      stays &= !(flags & kRebuildsFlag) && (!own || previous <= own);
      previous = own;
      at += length;
    } while (at < text.size());
    if (!stays) decode(text.substr(begin, at - begin));
    return at;
  }

  void decode(std::string_view stretch) {
    original_.clear();
    for (size_t at = 0, length; at < stretch.size(); at += length) {
      original_.push_back(utf8_decode(stretch.data() + at, length));
    }
  }

  // Normalizes `original_` into `codes_`; whether that differs.
  bool rebuild() {
    codes_.clear();
    for (const uint32_t code : original_) append_decomposition(code, codes_);
    reorder(codes_);
    compose(codes_);
    return codes_ != original_;
  }

  std::vector<uint32_t> original_, codes_;
};

}  // namespace

const NormalizingStarts kNormalizingStarts = [] {
  NormalizingStarts starts{};
  for (uint32_t code = 0x80; code < 0x110000; ++code) {
    if (!(property(code) & kNormalizesFlag)) continue;
    const uint32_t lead = code < 0x800 ? 0xC0 | code >> 6 : code < 0x10000 ? 0xE0 | code >> 12 : 0xF0 | code >> 18;
    const uint32_t second = code < 0x800 ? code : code < 0x10000 ? code >> 6 : code >> 12;
    starts.leads[lead & 63] = 0xFF;
    starts.seconds[lead & 63] |= uint64_t{1} << (second & 63);
  }
  return starts;
}();

bool normalize_nfc(std::string_view text, std::string& out) {
  thread_local Normalizer normalizer;
  return normalizer.run(text, out);
}

}  // namespace ettin
