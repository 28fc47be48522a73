#include "tokenizer.h"

#include "pretokenizer.h"
#include "unicode.h"

namespace ettin {

std::shared_ptr<const Tokenizer> Tokenizer::from_json(std::string_view json, std::string& error) {
  TokenizerFile file;
  if (!read_tokenizer_file(json, file, error)) return nullptr;
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(file)));
}

Tokenizer::Tokenizer(TokenizerFile file)
    : file_(std::move(file)), raw_added_(file_, false), normalized_added_(file_, true), model_(file_) {}

Encoder::Encoder(std::shared_ptr<const Tokenizer> tokenizer, SpecialPolicy policy)
    : tokenizer_(std::move(tokenizer)), policy_(policy) {}

Encoder::~Encoder() = default;

bool Encoder::encode(std::string_view text, std::vector<uint32_t>& ids, uint64_t& specials) {
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

void Encoder::encode_raw(std::string_view text, std::vector<uint32_t>& ids) {
  const AddedTokenSplitter& added = tokenizer_->raw_added_;
  added.split(text, policy_ == SpecialPolicy::kSplit, [&](const Part& part) {
    if (part.token != Part::kText) return add_token(added.token(part.token), ids);
    const std::string_view piece = text.substr(part.begin, part.end - part.begin);
    const bool changed = tokenizer_->file_.nfc && normalize_nfc(piece, normalized_);
    encode_normalized(changed ? std::string_view(normalized_) : piece, ids);
  });
}

void Encoder::encode_normalized(std::string_view text, std::vector<uint32_t>& ids) {
  const AddedTokenSplitter& added = tokenizer_->normalized_added_;
  added.split(text, policy_ == SpecialPolicy::kSplit, [&](const Part& part) {
    if (part.token != Part::kText) return add_token(added.token(part.token), ids);
    encode_words(text.substr(part.begin, part.end - part.begin), ids);
  });
}

void Encoder::encode_words(std::string_view text, std::vector<uint32_t>& ids) {
  if (tokenizer_->file_.prefix_space && text[0] != ' ') {
    prefixed_.assign(1, ' ').append(text);
    text = prefixed_;
  }
  split_words(text, tokenizer_->file_.split, [&](size_t begin, size_t end) {
    tokenizer_->model_.encode(text.substr(begin, end - begin), ids, scratch_);
  });
}

void Encoder::add_token(const AddedToken& token, std::vector<uint32_t>& ids) {
  ids.push_back(token.id);
  specials_ += token.special;
}

}  // namespace ettin
