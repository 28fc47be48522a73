#include "corpus/input_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>

namespace ettin {
namespace {

constexpr uint64_t kStep = 1 << 18;  // bytes read at once when looking for the end of a line

}  // namespace

std::shared_ptr<const InputFile> InputFile::open(const std::string& path, std::string& error) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    error = path + ": " + std::strerror(errno);
    return nullptr;
  }
  return std::shared_ptr<const InputFile>(new InputFile(path, descriptor));
}

InputFile::~InputFile() { ::close(descriptor_); }

bool InputFile::read_into(char* to, uint64_t begin, size_t size, size_t& read, std::string& error) const {
  for (read = 0; read < size;) {
    const ssize_t count = ::pread(descriptor_, to + read, size - read, static_cast<off_t>(begin + read));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      error = path_ + ": read at byte " + std::to_string(begin + read) + " failed: " + std::strerror(errno);
      return false;
    }
    if (count == 0) break;
    read += static_cast<size_t>(count);
  }
  return true;
}

bool InputFile::read(uint64_t begin, uint64_t end, FreshVector<char>& out, std::string& error) const {
  const size_t kept = out.size();
  size_t done = 0;
  out.resize(kept + (end - begin));
  const bool read = read_into(out.data() + kept, begin, end - begin, done, error);
  out.resize(kept + done);
  return read;
}

bool read_line_range(const InputFile& file, uint64_t begin, uint64_t end, uint64_t maximum_line, LineRange& lines,
                     std::string& error) {
  FreshVector<char>& bytes = lines.bytes;
  bytes.clear();
  lines.too_long = false;
  lines.in_range = 0;
  const uint64_t lead = begin > 0 ? 1 : 0;  // the byte before tells whether a line starts at `begin`
  bytes.reserve(end - begin + lead + kStep);
  if (!file.read(begin - lead, end, bytes, error)) return false;
  if (bytes.size() <= lead) {
    lines.first = bytes.size();
    return true;
  }
  lines.in_range = bytes.size() - lead;
  lines.first = 0;
  if (lead != 0) {
    const void* newline = std::memchr(bytes.data(), '\n', bytes.size() - 1);
    if (newline == nullptr) {
      lines.first = bytes.size();  // the whole range lies inside a line of an earlier one
      return true;
    }
    lines.first = static_cast<size_t>(static_cast<const char*>(newline) - bytes.data()) + 1;
  }
  if (bytes.back() == '\n' || begin + lines.in_range < end) return true;
  const size_t last = std::string_view(bytes.data(), bytes.size()).rfind('\n');
  const size_t line = last == std::string_view::npos ? 0 : last + 1;
  for (uint64_t next = end;;) {
    const size_t before = bytes.size();
    const bool readable = file.read(next, next + kStep, bytes, error);
    const void* newline = std::memchr(bytes.data() + before, '\n', bytes.size() - before);
    if (newline != nullptr) {
      bytes.resize(static_cast<size_t>(static_cast<const char*>(newline) - bytes.data()) + 1);
      error.clear();  // what cannot be read belongs to later lines
      return true;
    }
    if (!readable) return false;
    if (bytes.size() == before) return true;
    if (bytes.size() - line > maximum_line) {
      lines.too_long = true;
      lines.too_long_offset = begin - lead + line;
      bytes.resize(line);
      return true;
    }
    next += bytes.size() - before;
  }
}

}  // namespace ettin
