// Positioned reads of one input file, shared by threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/fresh_vector.h"

namespace ettin {

class InputFile {
 public:
  // Null, with the reason, when the file cannot be opened.
  static std::shared_ptr<const InputFile> open(const std::string& path, std::string& error);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  // Appends the bytes [begin, end) to `out`, fewer at the end of the file. False, with the reason, when a read fails.
  bool read(uint64_t begin, uint64_t end, FreshVector<char>& out, std::string& error) const;

  // Fills [to, to + size) from `begin`; `read` is what the file had. False, with the reason, when a read fails.
  bool read_into(char* to, uint64_t begin, size_t size, size_t& read, std::string& error) const;

  const std::string& path() const { return path_; }

 private:
  InputFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  std::string path_;
  int descriptor_;
};

// The lines whose first byte lies in [begin, end) of a file.
struct LineRange {
  FreshVector<char> bytes;       // the bytes [begin, end), and then up to the end of the last line
  size_t first = 0;              // where the first line of the range starts in `bytes`
  uint64_t in_range = 0;         // bytes of [begin, end) that the file has
  bool too_long = false;         // the last line is above the limit: it stops early in `bytes`
  uint64_t too_long_offset = 0;  // where that line starts in the file
};

// Reads the lines of a range. A line above `maximum_line` bytes is not held in memory.
bool read_line_range(const InputFile& file, uint64_t begin, uint64_t end, uint64_t maximum_line, LineRange& lines,
                     std::string& error);

}  // namespace ettin
