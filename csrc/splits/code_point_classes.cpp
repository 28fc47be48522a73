#include "splits/code_point_classes.h"

#include <algorithm>
#include <map>

namespace ettin {
namespace {

// Places between which the ranges of all sets, and ASCII, neither begin nor end; the last is behind all code points.
std::vector<uint32_t> bounds_of(const std::vector<CodePointSet>& sets) {
  std::vector<uint32_t> bounds{0, 0x80, kLastCodePoint + 1};
  for (const CodePointSet& set : sets) {
    for (const auto& [first, last] : set.ranges) bounds.insert(bounds.end(), {first, last + 1});
  }
  std::sort(bounds.begin(), bounds.end());
  bounds.erase(std::unique(bounds.begin(), bounds.end()), bounds.end());
  return bounds;
}

bool has(const CodePointSet& set, uint32_t code, uint32_t category) {
  const auto inside = [code](const auto& range) { return range.first <= code && code <= range.second; };
  const bool found = set.categories >> category & 1 || std::any_of(set.ranges.begin(), set.ranges.end(), inside);
  return found != set.negated;
}

}  // namespace

bool CodePointClasses::build(const std::vector<CodePointSet>& sets) {
  const std::vector<uint32_t> bounds = bounds_of(sets);
  std::map<std::pair<uint64_t, bool>, uint8_t> classes;
  constexpr uint8_t kUnknown = 0xFF;
  std::vector<uint8_t> known(bounds.size() * kCategories, kUnknown);
  // The class of a category's code points from bounds[interval] on.
  const auto class_of = [&](size_t interval, uint32_t category) {
    uint8_t& place = known[interval * kCategories + category];
    if (place != kUnknown) return place;
    uint64_t members = 0;
    for (size_t set = 0; set < sets.size(); ++set) {
      members |= static_cast<uint64_t>(has(sets[set], bounds[interval], category)) << set;
    }
    const bool ascii = bounds[interval] < 0x80;
    const auto added = classes.emplace(std::pair(members, ascii), static_cast<uint8_t>(classes.size()));
    if (added.second) members_.push_back(members), ascii_.push_back(ascii);
    return place = added.first->second;
  };
  std::map<std::pair<size_t, uint16_t>, uint16_t> shared;  // blocks by their interval and categories
  size_t interval = 0;
  for (uint32_t block = 0; block < kUnicodeBlocks; ++block) {
    const uint32_t begin = block * kUnicodeBlock, end = begin + kUnicodeBlock;
    while (bounds[interval + 1] <= begin) ++interval;
    const bool whole = bounds[interval + 1] >= end;
    const auto number = static_cast<uint16_t>(blocks_.size() / kUnicodeBlock);
    const auto found =
        whole ? shared.emplace(std::pair(interval, category_index[block]), number) : std::pair(shared.end(), true);
    index_.push_back(found.second ? number : found.first->second);
    if (!found.second) continue;
    for (uint32_t code = begin, inside = 0; code < end; ++code) {
      while (bounds[interval + inside + 1] <= code) ++inside;
      blocks_.push_back(class_of(interval + inside, category(code)));
      if (classes.size() > kMostClasses) return false;
    }
  }
  return true;
}

}  // namespace ettin
