#include "corpus/writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iterator>
#include <type_traits>

#include "base/crc32c.h"

namespace ettin {
namespace {

constexpr uint64_t kJournalMagic = 0x314C4E524A545445ull;  // "ETTJRNL1"

// A number of `Owner` as a word of the journal.
template <typename Owner>
struct Field {
  const char* name;
  uint64_t (*get)(const Owner&);
  void (*set)(Owner&, uint64_t);
};

template <auto kMember, typename Owner>
constexpr Field<Owner> field(const char* name) {
  return {
      name, [](const Owner& owner) { return static_cast<uint64_t>(owner.*kMember); },
      [](Owner& owner, uint64_t word) { owner.*kMember = static_cast<std::decay_t<decltype(owner.*kMember)>>(word); }};
}

template <uint64_t OutputCounts::* kMember>
constexpr Field<BuildState::Output> count(const char* name) {
  return {name, [](const BuildState::Output& output) { return output.source.*kMember; },
          [](BuildState::Output& output, uint64_t word) { output.source.*kMember = word; }};
}

// The layout of a record. corpus/build reads records by these names.
constexpr Field<BuildState> kFields[] = {
    field<&BuildState::blocks, BuildState>("blocks"),
    field<&BuildState::documents, BuildState>("documents"),
    field<&BuildState::rejects_bytes, BuildState>("rejects_bytes"),
    field<&BuildState::source, BuildState>("source"),
    field<&BuildState::end, BuildState>("end"),
    field<&BuildState::lines, BuildState>("lines"),
    field<&BuildState::ends_source, BuildState>("ends_source"),
    field<&BuildState::source_bytes, BuildState>("source_bytes"),
    field<&BuildState::source_checksum, BuildState>("source_checksum"),
    field<&BuildState::source_documents, BuildState>("source_documents"),
    field<&BuildState::blank_lines, BuildState>("blank_lines"),
};
constexpr Field<BuildState::Output> kOutputFields[] = {
    field<&BuildState::Output::bytes, BuildState::Output>("bytes"),
    field<&BuildState::Output::checksum, BuildState::Output>("checksum"),
    field<&BuildState::Output::sequences, BuildState::Output>("sequences"),
    count<&OutputCounts::empty_documents>("empty_documents"),
    count<&OutputCounts::tokens>("tokens"),
    count<&OutputCounts::text_bytes>("text_bytes"),
    count<&OutputCounts::lone_surrogates>("lone_surrogates"),
    count<&OutputCounts::specials>("specials"),
};
constexpr size_t kFixedWords = 1 + std::size(kFields) + 1 + kRejectKinds;
constexpr size_t kOutputWords = std::size(kOutputFields);

uint64_t checksum_of(const std::vector<uint64_t>& words, size_t count) {
  return crc32c(0, words.data(), count * sizeof(uint64_t));
}

std::string json_text(const std::string& text) {
  std::string out = "\"";
  constexpr const char* digits = "0123456789abcdef";
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte >= 0x7F) {
      out += "\\u00";
      out += digits[byte >> 4];
      out += digits[byte & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace

size_t BuildState::words(size_t outputs) { return kFixedWords + kOutputWords * outputs + 1; }

std::vector<const char*> BuildState::fields() {
  std::vector<const char*> names;
  for (const auto& field : kFields) names.push_back(field.name);
  return names;
}

std::vector<const char*> BuildState::output_fields() {
  std::vector<const char*> names;
  for (const auto& field : kOutputFields) names.push_back(field.name);
  return names;
}

std::vector<uint64_t> BuildState::encode() const {
  std::vector<uint64_t> words{kJournalMagic};
  for (const auto& field : kFields) words.push_back(field.get(*this));
  words.push_back(0);
  words.insert(words.end(), rejected.begin(), rejected.end());
  for (const Output& output : outputs) {
    for (const auto& field : kOutputFields) words.push_back(field.get(output));
  }
  words.push_back(checksum_of(words, words.size()));
  return words;
}

bool BuildState::decode(const std::vector<uint64_t>& words, size_t outputs, BuildState& state) {
  if (words.size() != BuildState::words(outputs) || words[0] != kJournalMagic) return false;
  if (words.back() != checksum_of(words, words.size() - 1)) return false;
  size_t at = 1;
  for (const auto& field : kFields) field.set(state, words[at++]);
  ++at;
  for (uint64_t& kind : state.rejected) kind = words[at++];
  state.outputs.resize(outputs);
  for (Output& output : state.outputs) {
    for (const auto& field : kOutputFields) field.set(output, words[at++]);
  }
  return true;
}

void BuildState::add(const BlockResult& result) {
  if (result.source != source || ends_source) {
    source = result.source;
    lines = source_bytes = source_documents = blank_lines = 0;
    source_checksum = 0;
    rejected = {};
    for (Output& output : outputs) output.source = {};
  }
  ++blocks;
  end = result.end;
  lines += result.lines;
  blank_lines += result.blank_lines;
  documents += result.documents;
  source_documents += result.documents;
  source_bytes += result.bytes_read;
  source_checksum =
      result.has_checksum ? result.checksum : crc32c_combine(source_checksum, result.bytes_checksum, result.bytes_read);
  ends_source = result.ends_source;
  for (const RejectedRecord& record : result.rejected) ++rejected[static_cast<size_t>(record.kind)];
  for (size_t i = 0; i < outputs.size(); ++i) {
    const OutputPart& part = result.outputs[i];
    outputs[i].checksum = crc32c_combine(outputs[i].checksum, part.checksum, part.tokens.bytes());
    outputs[i].bytes += part.tokens.bytes();
    outputs[i].sequences += part.lengths.size();
    outputs[i].source.empty_documents += part.counts.empty_documents;
    outputs[i].source.tokens += part.counts.tokens;
    outputs[i].source.text_bytes += part.counts.text_bytes;
    outputs[i].source.lone_surrogates += part.counts.lone_surrogates;
    outputs[i].source.specials += part.counts.specials;
  }
}

CorpusWriter::~CorpusWriter() {
  for (const int descriptor : descriptors_) ::close(descriptor);
}

bool CorpusWriter::open_file(const std::string& path, File& file, std::string& error) {
  file.path = path;
  file.descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (file.descriptor < 0) {
    error = path + ": " + std::strerror(errno);
    return false;
  }
  descriptors_.push_back(file.descriptor);
  return true;
}

bool CorpusWriter::open(const std::vector<Paths>& outputs, const std::string& rejects, const std::string& journal,
                        std::vector<std::string> source_names, const BuildState& state, std::string& error) {
  source_names_ = std::move(source_names);
  outputs_.resize(outputs.size());
  if (state.outputs.size() != outputs.size()) {
    error = "the journal is of a build with other outputs";
    return false;
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!open_file(outputs[i].tokens, outputs_[i].tokens, error)) return false;
    if (!open_file(outputs[i].lengths, outputs_[i].lengths, error)) return false;
    if (!open_file(outputs[i].documents, outputs_[i].documents, error)) return false;
    if (!open_file(outputs[i].hashes, outputs_[i].hashes, error)) return false;
  }
  return open_file(rejects, rejects_, error) && open_file(journal, journal_, error);
}

bool CorpusWriter::write_at(const File& file, const void* data, size_t size, uint64_t offset, std::string& error) {
  const auto* bytes = static_cast<const char*>(data);
  size_t done = 0;
  while (done < size) {
    const ssize_t count = ::pwrite(file.descriptor, bytes + done, size - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      error = file.path + ": " + std::strerror(errno);
      return false;
    }
    done += static_cast<size_t>(count);
  }
  return true;
}

bool CorpusWriter::write(const BlockResult& result, const Place& place, std::string& error) const {
  std::vector<int64_t> ends;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const OutputPart& part = result.outputs[i];
    const Place::Output& at = place.outputs[i];
    ends.clear();
    auto end = static_cast<int64_t>(at.sequences);
    for (const uint32_t count : part.sequences) ends.push_back(end += count);
    if (!write_at(outputs_[i].tokens, part.tokens.data(), part.tokens.bytes(), at.bytes, error)) return false;
    if (!write_at(outputs_[i].lengths, part.lengths.data(), part.lengths.size() * 4, at.sequences * 4, error)) {
      return false;
    }
    if (!write_at(outputs_[i].documents, ends.data(), ends.size() * 8, place.documents * 8, error)) return false;
    if (!write_at(outputs_[i].hashes, part.hashes.data(), part.hashes.size() * 4, place.documents * 4, error)) {
      return false;
    }
  }
  return true;
}

std::string CorpusWriter::rejects_text(const BlockResult& result) const {
  std::string text;
  for (const RejectedRecord& record : result.rejected) {
    text += "{\"file\": " + source_names_[result.source] + ", \"line\": " + std::to_string(record.line) +
            ", \"offset\": " + std::to_string(record.offset) + ", \"kind\": \"" + reject_name(record.kind) +
            "\", \"reason\": " + json_text(record.reason) + "}\n";
  }
  return text;
}

bool CorpusWriter::commit(const BlockResult& result, BuildState& state, std::string& error) {
  const std::string rejects = rejects_text(result);
  if (!write_at(rejects_, rejects.data(), rejects.size(), state.rejects_bytes, error)) return false;
  BuildState next = state;
  next.add(result);
  next.rejects_bytes += rejects.size();
  const std::vector<uint64_t> words = next.encode();
  const uint64_t size = words.size() * sizeof(uint64_t);
  if (!write_at(journal_, words.data(), size, state.blocks * size, error)) return false;
  state = std::move(next);
  return true;
}

}  // namespace ettin
