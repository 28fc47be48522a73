// Corpora, pack indexes and how they are made, for Python. Every long call releases the interpreter lock.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include "python/bind.h"
#include "python/bind_arrays.h"
#include "rows/row_assembler.h"
#include "base/text_hash.h"
#include "base/threads.h"

namespace py = pybind11;

namespace ettin {
namespace {

using Corpus = std::shared_ptr<IndexedCorpus>;
using Pack = std::shared_ptr<PackFile>;

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const DataProblem& problem) {
    const py::object kind = py::module_::import("megatron_ettin.errors").attr("DataError");
    PyErr_SetString(kind.ptr(), problem.what());
  }
}

// Runs job(i) for i in [0, count) on some threads; the first error wins.
template <typename Job>
void run_jobs(size_t count, int threads, const Job& job) {
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::string first_error;
  one_by_one(count, threads, [&](size_t i) {
    std::string error;
    if (failed || job(i, error)) return;
    const std::lock_guard<std::mutex> lock(mutex);
    if (!failed.exchange(true)) first_error = error;
  });
  if (failed) throw DataProblem(first_error);
}

Corpus open_corpus(const std::vector<std::string>& prefixes, bool appended_eod) {
  std::string error;
  auto corpus = IndexedCorpus::open(prefixes, appended_eod, error);
  if (corpus == nullptr) throw DataProblem(error);
  return std::const_pointer_cast<IndexedCorpus>(corpus);
}

Pack open_pack(const std::string& path, uint64_t table_offset, uint64_t blocks, uint64_t documents,
               uint32_t row_length) {
  std::string error;
  auto pack = PackFile::open(path, table_offset, blocks, documents, row_length, error);
  if (pack == nullptr) throw DataProblem(error);
  return std::const_pointer_cast<PackFile>(pack);
}

// Which documents a pack index takes: all, or one side of the split by text hash.
struct Split {
  const uint32_t* hashes;  // of the documents of all blocks that are packed, or null: no split
  uint64_t first;          // document of the first of them
  uint64_t key, below;
  bool held_out;
};

bool pack_one(const IndexedCorpus& corpus, uint64_t block, uint32_t row_length, uint32_t piece_length,
              bool concatenated, const Split& split, PackedBlock& packed, std::string& error) {
  const uint64_t first = block * kBlockDocuments;
  const auto count = static_cast<uint32_t>(std::min<uint64_t>(kBlockDocuments, corpus.documents() - first));
  std::vector<uint32_t> lengths(count);
  if (!corpus.text_lengths(first, count, lengths.data(), error)) return false;
  if (split.hashes != nullptr)
    for (uint32_t d = 0; d < count; ++d)
      if (is_held_out(split.hashes[first - split.first + d], split.key, split.below) != split.held_out) lengths[d] = 0;
  if (concatenated) {
    concatenate(lengths.data(), count, row_length, piece_length, packed);
  } else {
    BestFitPacker(row_length, piece_length).pack(lengths.data(), count, packed);
  }
  return true;
}

py::list pack_blocks(const Corpus& corpus, uint64_t first, uint64_t count, uint32_t row_length, uint32_t piece_length,
                     bool concatenated, const py::object& hashes, uint64_t key, uint64_t below, bool held_out,
                     int threads) {
  if (piece_length <= kPieceSpecials || piece_length > row_length ||
      piece_length - kPieceSpecials > Entry::kLongestText)
    throw py::value_error("piece_length does not fit");
  if ((first + count - 1) * kBlockDocuments >= corpus->documents()) throw py::index_error("no such block");
  Array<uint32_t> held;
  Split split{nullptr, first * kBlockDocuments, key, below, held_out};
  if (!hashes.is_none()) {
    held = hashes.cast<Array<uint32_t>>();
    const uint64_t end = std::min((first + count) * kBlockDocuments, corpus->documents());
    if (static_cast<uint64_t>(held.size()) != end - split.first) throw py::value_error("one hash a document");
    split.hashes = held.data();
  }
  std::vector<PackedBlock> packed(count);
  {
    py::gil_scoped_release release;
    run_jobs(count, threads, [&](size_t i, std::string& error) {
      return pack_one(*corpus, first + i, row_length, piece_length, concatenated, split, packed[i], error);
    });
  }
  py::list result;
  for (PackedBlock& block : packed)
    result.append(py::make_tuple(adopt(std::move(block.entries)), adopt(std::move(block.directory)), block.rows,
                                 block.text_tokens));
  return result;
}

py::array_t<uint32_t> text_hashes(const Corpus& corpus, uint64_t first, uint64_t count, int threads) {
  constexpr uint64_t kStep = 256;  // documents read together
  if (first + count > corpus->documents()) throw py::index_error("no such documents");
  std::vector<uint32_t> hashes(count);
  {
    py::gil_scoped_release release;
    run_jobs((count + kStep - 1) / kStep, threads, [&](size_t i, std::string& error) {
      const uint64_t begin = i * kStep, n = std::min(kStep, count - begin);
      return corpus->text_hashes(first + begin, n, hashes.data() + begin, error);
    });
  }
  return adopt(std::move(hashes));
}

std::vector<std::tuple<uint64_t, uint32_t, uint32_t>> pieces_of_row(const Pack& pack, uint64_t row) {
  std::vector<Piece> pieces;
  std::vector<uint64_t> scratch;
  std::string error;
  if (row >= pack->rows()) throw py::index_error("no such row");
  if (!pack->row(row, pieces, scratch, error)) throw DataProblem(error);
  std::vector<std::tuple<uint64_t, uint32_t, uint32_t>> result;
  for (const Piece& piece : pieces) result.emplace_back(piece.document, piece.start, piece.length);
  return result;
}

std::vector<std::tuple<uint64_t, uint32_t, uint32_t>> pieces_of_document(const Pack& pack, uint64_t document) {
  std::vector<PlacedPiece> pieces;
  std::string error;
  if (!pack->document(document, pieces, error)) throw DataProblem(error);
  std::vector<std::tuple<uint64_t, uint32_t, uint32_t>> result;
  for (const PlacedPiece& piece : pieces) result.emplace_back(piece.row, piece.start, piece.length);
  return result;
}

py::array_t<int64_t> tokens_of_rows(const Pack& pack, const Array<int64_t>& rows) {
  require_range(rows, pack->rows(), "row");
  std::vector<int64_t> tokens(static_cast<size_t>(rows.size()));
  std::string error;
  bool sound = true;
  {
    py::gil_scoped_release release;
    std::vector<Piece> pieces;
    std::vector<uint64_t> scratch;
    for (size_t i = 0; i < tokens.size() && sound; ++i) {
      sound = pack->row(static_cast<uint64_t>(rows.data()[i]), pieces, scratch, error);
      for (const Piece& piece : pieces) tokens[i] += piece.length + kPieceSpecials;
    }
  }
  if (!sound) throw DataProblem(error);
  return adopt(std::move(tokens));
}

}  // namespace

void bind_packing(py::module_& module) {
  py::register_exception_translator(&translate);
  py::class_<IndexedCorpus, Corpus>(module, "IndexedCorpus")
      .def(py::init(&open_corpus), py::arg("prefixes"), py::arg("appended_eod"))
      .def_property_readonly("documents", &IndexedCorpus::documents);
  py::class_<PackFile, Pack>(module, "PackFile")
      .def(py::init(&open_pack), py::arg("path"), py::arg("table_offset"), py::arg("blocks"), py::arg("documents"),
           py::arg("row_length"))
      .def_property_readonly("rows", &PackFile::rows)
      .def_property_readonly("entries", &PackFile::entries)
      .def_property_readonly("text_tokens", &PackFile::text_tokens)
      .def("row", &pieces_of_row)
      .def("document", &pieces_of_document)
      .def("row_tokens", &tokens_of_rows);
  module.def("pack_blocks", &pack_blocks, py::arg("corpus"), py::arg("first"), py::arg("count"), py::kw_only(),
             py::arg("row_length"), py::arg("piece_length"), py::arg("concatenated"), py::arg("hashes"), py::arg("key"),
             py::arg("below"), py::arg("held_out"), py::arg("threads"));
  module.def("text_hashes", &text_hashes, py::arg("corpus"), py::arg("first"), py::arg("count"), py::arg("threads"));
  module.attr("BLOCK_DOCUMENTS") = kBlockDocuments;
  module.attr("LONGEST_TEXT") = Entry::kLongestText;
}

}  // namespace ettin
