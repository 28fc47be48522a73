#include "corpus/writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/crc32c.h"

namespace ettin {
namespace {

constexpr uint64_t journal_magic = 0x314C4E524A545445ull;  // "ETTJRNL1"
constexpr size_t fixed_words = 13 + reject_kinds;
constexpr size_t output_words = 8;

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

size_t BuildState::words(size_t outputs) { return fixed_words + output_words * outputs + 1; }

std::vector<uint64_t> BuildState::encode() const {
  std::vector<uint64_t> words{journal_magic, blocks,       documents,       rejects_bytes,    source,      end, lines,
                              ends_source,   source_bytes, source_checksum, source_documents, blank_lines, 0};
  words.insert(words.end(), rejected.begin(), rejected.end());
  for (const Output& output : outputs) {
    const OutputCounts& counts = output.source;
    words.insert(words.end(), {output.bytes, output.checksum, output.sequences, counts.empty_documents, counts.tokens,
                               counts.text_bytes, counts.lone_surrogates, counts.specials});
  }
  words.push_back(checksum_of(words, words.size()));
  return words;
}

bool BuildState::decode(const std::vector<uint64_t>& words, size_t outputs, BuildState& state) {
  if (words.size() != BuildState::words(outputs) || words[0] != journal_magic) return false;
  if (words.back() != checksum_of(words, words.size() - 1)) return false;
  state.blocks = words[1];
  state.documents = words[2];
  state.rejects_bytes = words[3];
  state.source = static_cast<uint32_t>(words[4]);
  state.end = words[5];
  state.lines = words[6];
  state.ends_source = words[7] != 0;
  state.source_bytes = words[8];
  state.source_checksum = static_cast<uint32_t>(words[9]);
  state.source_documents = words[10];
  state.blank_lines = words[11];
  for (size_t i = 0; i < reject_kinds; ++i) state.rejected[i] = words[13 + i];
  state.outputs.resize(outputs);
  for (size_t i = 0; i < outputs; ++i) {
    const uint64_t* from = words.data() + fixed_words + output_words * i;
    Output& output = state.outputs[i];
    output.bytes = from[0];
    output.checksum = static_cast<uint32_t>(from[1]);
    output.sequences = from[2];
    output.source = {from[3], from[4], from[5], from[6], from[7]};
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
  source_checksum = result.has_checksum ? result.checksum
                                        : crc32c_combine(source_checksum, result.bytes_checksum, result.bytes_read);
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
