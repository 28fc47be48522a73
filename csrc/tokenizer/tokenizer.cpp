#include "tokenizer/tokenizer.h"

#include "text/unicode.h"

namespace ettin {

std::shared_ptr<const Tokenizer> Tokenizer::from_json(std::string_view json, std::string& error) {
  TokenizerFile file;
  if (!read_tokenizer_file(json, file, error)) return nullptr;
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(file)));
}

namespace {

constexpr size_t kShortestLimit = 16;  // a run that leaves a single space over must be longer than a cached word

bool only_spaces(const std::string& content) { return content.find_first_not_of(' ') == std::string::npos; }

// The runs of spaces among the added tokens, where nothing else about the tokenizer can interfere with them.
SpaceRuns find_space_runs(const TokenizerFile& file) {
  SpaceRuns runs;
  if (file.prefix_space || file.split) return {};
  for (const AddedToken& token : file.added) {
    if (!token.normalized) continue;
    if (token.lstrip || token.rstrip) return {};
    if (token.content.find(' ') == std::string::npos) continue;
    const size_t size = token.content.size();
    if (!only_spaces(token.content) || token.single_word || token.special || size < 2) return {};
    if (runs.ids.size() <= size) runs.ids.resize(size + 1, kNoRank);
    runs.ids[size] = token.id;
  }
  for (size_t size = 2; size < runs.ids.size(); ++size) {
    if (runs.ids[size] == kNoRank) return {};
  }
  return runs.longest() >= kShortestLimit ? runs : SpaceRuns();
}

}  // namespace

Tokenizer::Tokenizer(TokenizerFile file)
    : file_(std::move(file)),
      runs_(find_space_runs(file_)),
      raw_added_(file_, false, false),
      normalized_added_(file_, true, !runs_.ids.empty()),
      words_(file_, runs_) {}

Encoder::Encoder(std::shared_ptr<const Tokenizer> tokenizer, SpecialPolicy policy, InstructionSet set)
    : tokenizer_(std::move(tokenizer)), policy_(policy), words_(make_word_encoder(tokenizer_->words_, set)) {}

template <class Ids>
bool Encoder::encode(std::string_view text, Ids& ids, uint64_t& specials) {
  const size_t before = ids.size();
  specials_ = 0;
  encode_raw(text, ids);
  if (policy_ == SpecialPolicy::kReject && specials_) {
    ids.resize(before);
    return false;
  }
  specials += specials_;
  return true;
}

template <class Ids>
void Encoder::encode_raw(std::string_view text, Ids& ids) {
  const AddedTokenSplitter& added = tokenizer_->raw_added_;
  added.split(text, policy_ == SpecialPolicy::kSplit, [&](const Part& part) {
    if (part.token != Part::kText) return add_token(added.token(part.token), ids);
    const std::string_view piece = text.substr(part.begin, part.end - part.begin);
    const bool changed = tokenizer_->file_.nfc && normalize_nfc(piece, normalized_);
    encode_normalized(changed ? std::string_view(normalized_) : piece, ids);
  });
}

template <class Ids>
void Encoder::encode_normalized(std::string_view text, Ids& ids) {
  const AddedTokenSplitter& added = tokenizer_->normalized_added_;
  added.split(text, policy_ == SpecialPolicy::kSplit, [&](const Part& part) {
    if (part.token != Part::kText) return add_token(added.token(part.token), ids);
    encode_words(text.substr(part.begin, part.end - part.begin), ids);
  });
}

template <class Ids>
void Encoder::encode_words(std::string_view text, Ids& ids) {
  if (tokenizer_->file_.prefix_space && text[0] != ' ') {
    prefixed_.assign(1, ' ').append(text);
    text = prefixed_;
  }
  words_->encode(text, ids);
}

template <class Ids>
void Encoder::add_token(const AddedToken& token, Ids& ids) {
  ids.push_back(static_cast<typename Ids::value_type>(token.id));
  specials_ += token.special;
}

template bool Encoder::encode(std::string_view, IdVector&, uint64_t&);
template bool Encoder::encode(std::string_view, NarrowIdVector&, uint64_t&);

}  // namespace ettin
