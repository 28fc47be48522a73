#include "splits/pattern_reader.h"

#include "text/unicode.h"

namespace ettin {
namespace {

constexpr uint32_t kAllCategories = (1u << kCategories) - 1;
constexpr uint32_t kWhite = 1u << kZs | 1u << kZl | 1u << kZp | 1u << kWhiteControl;

constexpr std::string_view kCategoryNames[] = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl",
                                               "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc",
                                               "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "Cn", "Cc"};

// The categories called `name`, one or two letters; none where it is no name. Surrogates are in no text.
uint32_t categories_called(std::string_view name) {
  uint32_t found = 0;
  for (uint32_t category = 0; category < kCategories; ++category) {
    if (name.size() <= 2 && kCategoryNames[category].substr(0, name.size()) == name) found |= 1u << category;
  }
  return name.empty() ? 0 : found;
}

void add(CodePointSet& set, uint32_t code) { set.ranges.emplace_back(code, code); }

}  // namespace

PatternReader::PatternReader(std::string_view pattern) {
  for (size_t at = 0, length; at < pattern.size(); at += length) {
    codes_.push_back(utf8_decode(pattern.data() + at, length));
  }
}

bool PatternReader::take(std::string_view expected) {
  for (size_t at = 0; at < expected.size(); ++at) {
    if (peek(at) != static_cast<uint8_t>(expected[at])) return false;
  }
  at_ += expected.size();
  return true;
}

bool PatternReader::number(uint32_t most, uint32_t& value) {
  if (peek() < '0' || peek() > '9') return fail("a quantifier without a number");
  for (value = 0; peek() >= '0' && peek() <= '9'; ++at_) {
    value = value * 10 + (peek() - '0');
    if (value > most) return fail("a quantifier above 64");
  }
  return true;
}

bool PatternReader::brackets(CodePointSet& set) {
  set.negated = take("^");
  for (bool first = true; first || peek() != ']'; first = false) {
    CodePointSet part, last;
    bool single, single_last;
    const bool dash = peek() == '-';
    if (dash && !first && peek(1) != ']') return fail("'-' in an unclear place");
    if (peek() == '&' && peek(1) == '&') return fail("an intersection of classes");
    if (!character(part, single, "[]")) return false;
    if (peek() == '-' && peek(1) != ']') {
      ++at_;
      if (dash || !single || !character(last, single_last, "[]-")) return fail("'-' in an unclear place");
      if (!single_last || last.ranges[0].first < part.ranges[0].first) return fail("a range without a sensible end");
      part.ranges[0].second = last.ranges[0].first;
    }
    set.categories |= part.categories;
    set.ranges.insert(set.ranges.end(), part.ranges.begin(), part.ranges.end());
  }
  ++at_;
  return true;
}

bool PatternReader::character(CodePointSet& set, bool& single, std::string_view special) {
  if (at_end()) return fail("the end of the expression in an unclear place");
  const uint32_t code = peek();
  single = true;
  if (code == '\\') return escape(set, single);
  if (code < 0x80 && special.find(static_cast<char>(code)) != std::string_view::npos)
    return fail("a character with a meaning that is not reproduced in this place");
  ++at_;
  add(set, code);
  return true;
}

bool PatternReader::escape(CodePointSet& set, bool& single) {
  const uint32_t code = peek(1);
  if (code == kNothing) return fail("'\\' at the end");
  single = false;
  const bool all_but = code == 'S' || code == 'D' || code == 'P';
  if (code == 's' || code == 'S') {
    set.categories = kWhite;
  } else if (code == 'd' || code == 'D') {
    set.categories = 1u << kNd;
  } else if (code == 'p' || code == 'P') {
    return property(set, all_but);
  } else {
    return escaped(set, code, single);
  }
  if (all_but) set.categories ^= kAllCategories;
  at_ += 2;
  return true;
}

bool PatternReader::escaped(CodePointSet& set, uint32_t code, bool& single) {
  constexpr std::string_view kLetters = "rntfv", kMeant = "\r\n\t\f\v";
  constexpr std::string_view kThemselves = R"(\[](){}.*+?|^$-/#&~!",:;=@% _)";
  const auto place = [&](std::string_view list) {
    return code < 0x80 ? list.find(static_cast<char>(code)) : std::string_view::npos;
  };
  const size_t known = place(kLetters);
  if (known == std::string_view::npos && place(kThemselves) == std::string_view::npos)
    return fail("an escape that is not reproduced");
  const uint32_t meant = known == std::string_view::npos ? code : static_cast<uint8_t>(kMeant[known]);
  single = true;
  add(set, meant);
  at_ += 2;
  return true;
}

bool PatternReader::property(CodePointSet& set, bool all_but) {
  std::string name;
  if (peek(2) != '{') return fail("a property without a name");
  size_t length = 3;
  for (; peek(length) < 0x80 && peek(length) != '}' && name.size() < 3; ++length) {
    name += static_cast<char>(peek(length));
  }
  set.categories = categories_called(name);
  if (peek(length) != '}' || !set.categories)
    return fail("a property that is no general category of one or two letters");
  if (all_but) set.categories ^= kAllCategories;
  at_ += length + 1;
  return true;
}

}  // namespace ettin
