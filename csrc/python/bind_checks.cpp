// Checksums, scans of ids, one parsed line, and the check of a written corpus, for Python.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "python/bind.h"
#include "python/bind_arrays.h"
#include "corpus/check.h"
#include "base/crc32c.h"
#include "corpus/id_scan.h"
#include "corpus/input_file.h"
#include "corpus/json_record.h"
#include "text/utf8.h"

namespace py = pybind11;

namespace ettin {
namespace {

py::tuple parse_json_line(const py::bytes& line, const std::vector<std::string>& keys) {
  const auto view = static_cast<std::string_view>(line);
  if (utf8_valid_prefix(view.data(), view.size()) != view.size()) return py::make_tuple("invalid_utf8", py::none());
  JsonRecord record(keys);
  const Reject kind = record.parse(view);
  if (kind != Reject::kNone) return py::make_tuple(reject_name(kind), record.reason());
  py::list values;
  for (size_t i = 0; i < keys.size(); ++i) {
    py::list texts;
    for (uint32_t k = 0; k < record.field(i).count; ++k) texts.append(py::bytes(std::string(record.texts(i)[k])));
    if (record.field(i).kind == JsonField::Kind::kText) {
      values.append(texts[0]);
    } else {
      values.append(texts);
    }
  }
  return py::make_tuple(py::none(), values);
}

py::tuple piece(const PieceChecksum& checksum) { return py::make_tuple(checksum.value, checksum.bytes); }

py::dict check_documents(const std::string& index_path, const std::string& tokens_path, uint64_t sequences,
                         uint64_t documents, uint64_t token_bytes, uint32_t itemsize, uint64_t first, uint64_t last,
                         int64_t eod, int64_t first_special) {
  if (first > last || last > documents || (itemsize != 2 && itemsize != 4)) {
    throw std::invalid_argument("no such range of documents");
  }
  CheckedRange range;
  {
    const py::gil_scoped_release release;
    std::string error;
    const auto index = InputFile::open(index_path, error);
    const auto tokens = InputFile::open(tokens_path, error);
    if (!index || !tokens) throw std::runtime_error(error);
    range =
        check_range(*index, *tokens, {sequences, documents, token_bytes, itemsize}, first, last, eod, first_special);
  }
  py::dict result;
  result["problem"] = range.problem;
  result["lengths"] = piece(range.lengths);
  result["pointers"] = piece(range.pointers);
  result["documents"] = piece(range.documents);
  result["tokens"] = piece(range.tokens);
  result["token_count"] = range.token_count;
  result["empty_documents"] = range.empty_documents;
  result["without_eod"] = range.without_eod;
  result["starts_special"] = range.starts_special;
  result["largest_id"] = range.largest_id;
  return result;
}

py::tuple checksum_index(const std::string& index_path, uint64_t sequences, uint64_t documents, uint64_t bytes_before,
                         uint64_t sequences_before) {
  MovedIndex moved;
  std::string error;
  {
    const py::gil_scoped_release release;
    const auto index = InputFile::open(index_path, error);
    const IndexShape shape{sequences, documents, 0, 0};
    if (index && checksum_moved(*index, shape, bytes_before, sequences_before, moved, error)) error.clear();
  }
  if (!error.empty()) throw std::runtime_error(error);
  return py::make_tuple(piece(moved.lengths), piece(moved.pointers), piece(moved.documents));
}

uint32_t checksum_of_buffer(const py::buffer& data, uint32_t crc, bool portable) {
  const py::buffer_info info = data.request();
  const std::string_view bytes = buffer_view(info);
  const py::gil_scoped_release release;
  return portable ? crc32c_portable(crc, bytes.data(), bytes.size()) : crc32c(crc, bytes.data(), bytes.size());
}

py::tuple scan_buffer(const py::buffer& data, uint32_t itemsize, uint32_t crc, bool portable) {
  const py::buffer_info info = data.request();
  const std::string_view bytes = buffer_view(info);
  if ((itemsize != 2 && itemsize != 4) || bytes.size() % itemsize != 0) throw std::invalid_argument("not whole ids");
  uint32_t largest = 0;
  const py::gil_scoped_release release;
  (portable ? scan_ids_portable : scan_ids)(bytes.data(), bytes.size(), itemsize, crc, largest);
  const py::gil_scoped_acquire acquire;
  return py::make_tuple(crc, largest);
}

}  // namespace

void bind_checks(py::module_& module) {
  module.def("crc32c", &checksum_of_buffer, py::arg("data"), py::arg("crc") = 0, py::arg("portable") = false);
  module.def("scan_ids", &scan_buffer, py::arg("data"), py::arg("itemsize"), py::arg("crc") = 0,
             py::arg("portable") = false);
  module.def("crc32c_combine", &crc32c_combine, py::arg("crc_a"), py::arg("crc_b"), py::arg("size_b"));
  module.def("check_documents", &check_documents, py::arg("index_path"), py::arg("tokens_path"), py::arg("sequences"),
             py::arg("documents"), py::arg("token_bytes"), py::arg("itemsize"), py::arg("first"), py::arg("last"),
             py::arg("eod"), py::arg("first_special"));
  module.def("checksum_index", &checksum_index, py::arg("index_path"), py::arg("sequences"), py::arg("documents"),
             py::kw_only(), py::arg("bytes_before"), py::arg("sequences_before"));
  module.def("parse_json_line", &parse_json_line, py::arg("line"), py::arg("keys"));
  module.def("utf8_valid_prefix", [](const py::bytes& data) {
    const auto view = static_cast<std::string_view>(data);
    return utf8_valid_prefix(view.data(), view.size());
  });
}

}  // namespace ettin
