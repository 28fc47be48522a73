// Packing, order, masks and row assembly for Python. Every long call releases the interpreter lock.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "bind.h"
#include "order.h"
#include "rows.h"
#include "text_hash.h"

namespace py = pybind11;

namespace ettin {
namespace {

// Becomes megatron_ettin.errors.DataError.
struct DataProblem : std::runtime_error {
  using std::runtime_error::runtime_error;
};

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const DataProblem& problem) {
    const py::object kind = py::module_::import("megatron_ettin.errors").attr("DataError");
    PyErr_SetString(kind.ptr(), problem.what());
  }
}

// A numpy array that owns what was in `values`.
template <typename T>
py::array_t<T> adopt(std::vector<T>&& values) {
  auto* kept = new std::vector<T>(std::move(values));
  py::capsule owner(kept, [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
  return py::array_t<T>({static_cast<py::ssize_t>(kept->size())}, {sizeof(T)}, kept->data(), owner);
}

template <typename T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <typename T>
void require_range(const Array<T>& values, uint64_t size, const char* what) {
  for (py::ssize_t i = 0; i < values.size(); ++i)
    if (values.data()[i] < 0 || static_cast<uint64_t>(values.data()[i]) >= size)
      throw py::index_error(std::string(what) + " " + std::to_string(values.data()[i]) + " is not in [0, " +
                            std::to_string(size) + ")");
}

// Runs job(i) for i in [0, count) on some threads; the first error wins.
template <typename Job>
void run_jobs(size_t count, int threads, const Job& job) {
  std::atomic<size_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::string first_error;
  const auto work = [&] {
    std::string error;
    for (size_t i = next++; i < count && !failed; i = next++) {
      if (job(i, error)) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      if (!failed.exchange(true)) first_error = error;
    }
  };
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads && static_cast<size_t>(t) < count; ++t) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failed) throw DataProblem(first_error);
}

using Corpus = std::shared_ptr<IndexedCorpus>;
using Pack = std::shared_ptr<PackFile>;

Corpus open_corpus(const std::string& prefix, bool appended_eod) {
  std::string error;
  auto corpus = IndexedCorpus::open(prefix, appended_eod, error);
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
  const uint32_t* hashes;  // of all documents, or null: no split
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
      if (is_held_out(split.hashes[first + d], split.key, split.below) != split.held_out) lengths[d] = 0;
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
  if (piece_length <= kPieceSpecials || piece_length > row_length || piece_length - kPieceSpecials > Entry::kLongestText)
    throw py::value_error("piece_length does not fit");
  if ((first + count - 1) * kBlockDocuments >= corpus->documents()) throw py::index_error("no such block");
  Array<uint32_t> held;
  Split split{nullptr, key, below, held_out};
  if (!hashes.is_none()) {
    held = hashes.cast<Array<uint32_t>>();
    if (static_cast<uint64_t>(held.size()) != corpus->documents()) throw py::value_error("one hash a document");
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

SimdLevel level_of(int level) {
  if (level < 0 || level > static_cast<int>(best_simd_level())) throw py::value_error("no such instruction set here");
  return static_cast<SimdLevel>(level);
}

template <void (Permutation::*map)(const int64_t*, size_t, int64_t*, SimdLevel) const noexcept>
py::array_t<int64_t> permute(const Permutation& permutation, const Array<int64_t>& values, int level) {
  require_range(values, permutation.size(), "row");
  const SimdLevel simd = level_of(level);
  std::vector<int64_t> result(static_cast<size_t>(values.size()));
  {
    py::gil_scoped_release release;
    (permutation.*map)(values.data(), result.size(), result.data(), simd);
  }
  return adopt(std::move(result));
}

// Memory of batches that Python has dropped, used again for the next ones: fresh pages cost more than filling them.
class BufferPool {
 public:
  using Buffer = std::vector<int32_t>;

  Buffer take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return {};
    Buffer buffer = std::move(idle_.back());
    idle_.pop_back();
    return buffer;
  }

  // The first `count` values as a numpy array; the memory comes back when the array is gone.
  static py::array_t<int32_t> lend(const std::shared_ptr<BufferPool>& pool, Buffer&& buffer, size_t count) {
    auto* loan = new Loan{pool, std::move(buffer)};
    py::capsule owner(loan, [](void* pointer) {
      std::unique_ptr<Loan> ended(static_cast<Loan*>(pointer));
      ended->pool->give_back(std::move(ended->buffer));
    });
    return py::array_t<int32_t>({static_cast<py::ssize_t>(count)}, {sizeof(int32_t)}, loan->buffer.data(), owner);
  }

 private:
  struct Loan {
    std::shared_ptr<BufferPool> pool;
    Buffer buffer;
  };

  void give_back(Buffer&& buffer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(buffer));
  }

  std::mutex mutex_;
  std::vector<Buffer> idle_;
};

// Row assemblers keep scratch memory, so each thread borrows one.
class Assembler {
 public:
  Assembler(std::vector<SourceRows> sources, RowFormat format, int level)
      : sources_(std::move(sources)), format_(std::move(format)), level_(level_of(level)) {
    std::sort(format_.mask.protected_ids.begin(), format_.mask.protected_ids.end());
    for (auto& pool : pools_) pool = std::make_shared<BufferPool>();
  }

  py::dict assemble(const Array<int64_t>& rows, const Array<int32_t>& sources, const Array<uint32_t>& passes) {
    const std::vector<RowRequest> requests = checked(rows, sources, passes);
    AssembledRows out;
    BufferPool::Buffer* const parts[] = {&out.input_ids, &out.positions, &out.segments, &out.labels.positions,
                                         &out.labels.ids};
    for (size_t i = 0; i < std::size(parts); ++i) *parts[i] = pools_[i]->take();
    std::string error;
    bool sound;
    {
      py::gil_scoped_release release;
      std::unique_ptr<RowAssembler> worker = borrow();
      sound = worker->assemble(requests, out, error);
      give_back(std::move(worker));
    }
    if (!sound) throw DataProblem(error);
    constexpr const char* names[] = {"input_ids", "positions", "segments", "label_positions", "label_ids"};
    const size_t counts[] = {out.input_ids.size(), out.positions.size(), out.segments.size(), out.labels.count,
                             out.labels.count};
    py::dict result;
    for (size_t i = 0; i < std::size(parts); ++i)
      result[names[i]] = BufferPool::lend(pools_[i], std::move(*parts[i]), counts[i]);
    result["tokens"] = out.tokens;
    return result;
  }

 private:
  std::vector<RowRequest> checked(const Array<int64_t>& rows, const Array<int32_t>& sources,
                                  const Array<uint32_t>& passes) const {
    const auto count = static_cast<size_t>(rows.size());
    if (static_cast<size_t>(sources.size()) != count || static_cast<size_t>(passes.size()) != count)
      throw py::value_error("one source and one pass for each row");
    if (count * format_.row_length > INT32_MAX) throw py::value_error("a batch holds fewer than 2^31 positions");
    std::vector<RowRequest> requests(count);
    for (size_t i = 0; i < count; ++i) {
      requests[i] = {rows.data()[i], sources.data()[i], passes.data()[i]};
      if (requests[i].row < 0) continue;
      if (requests[i].source < 0 || static_cast<size_t>(requests[i].source) >= sources_.size() ||
          static_cast<uint64_t>(requests[i].row) >= sources_[static_cast<size_t>(requests[i].source)].pack->rows())
        throw py::index_error("no row " + std::to_string(requests[i].row) + " in source " +
                              std::to_string(requests[i].source));
    }
    return requests;
  }

  std::unique_ptr<RowAssembler> borrow() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return std::make_unique<RowAssembler>(sources_, format_, level_);
    std::unique_ptr<RowAssembler> worker = std::move(idle_.back());
    idle_.pop_back();
    return worker;
  }

  void give_back(std::unique_ptr<RowAssembler> worker) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(worker));
  }

  std::vector<SourceRows> sources_;
  RowFormat format_;
  SimdLevel level_;
  std::array<std::shared_ptr<BufferPool>, 5> pools_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<RowAssembler>> idle_;
};

py::array_t<uint32_t> draws_of_row(PhiloxKey key, uint64_t row, uint32_t pass, uint32_t count, int level) {
  std::vector<uint32_t> draws((size_t{count} + kDrawGroup - 1) / kDrawGroup * kDrawGroup);
  row_draws({key, row, pass}, count, draws.data(), level_of(level));
  draws.resize(count);
  return adopt(std::move(draws));
}

// Masks whole rows of text (no specials of the layout), for measurements and comparison with other ways.
py::tuple mask_rows(Array<int32_t> rows, const MaskRule& rule, PhiloxKey choice_key, PhiloxKey replacement_key,
                    uint64_t first_row, uint32_t pass, int level) {
  if (rows.ndim() != 2) throw py::value_error("rows must have two dimensions");
  const auto count = static_cast<uint64_t>(rows.shape(0));
  const auto length = static_cast<uint32_t>(rows.shape(1));
  std::vector<int32_t> ids(rows.data(), rows.data() + rows.size());
  Labels labels;
  {
    py::gil_scoped_release release;
    MaskScratch scratch;
    const SimdLevel simd = level_of(level);
    for (uint64_t r = 0; r < count; ++r) {
      start_row_masks({choice_key, first_row + r, pass}, length, scratch, simd);
      mask_span(ids.data() + r * length, 0, length, rule, {replacement_key, first_row + r, pass},
                static_cast<int32_t>(r * length), labels, scratch, simd);
    }
  }
  labels.positions.resize(labels.count);
  labels.ids.resize(labels.count);
  return py::make_tuple(adopt(std::move(ids)), adopt(std::move(labels.positions)), adopt(std::move(labels.ids)));
}

void bind_packing(py::module_& module) {
  py::class_<IndexedCorpus, Corpus>(module, "IndexedCorpus")
      .def(py::init(&open_corpus), py::arg("prefix"), py::arg("appended_eod"))
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
             py::arg("row_length"), py::arg("piece_length"), py::arg("concatenated"), py::arg("hashes"),
             py::arg("key"), py::arg("below"), py::arg("held_out"), py::arg("threads"));
  module.def("text_hashes", &text_hashes, py::arg("corpus"), py::arg("first"), py::arg("count"), py::arg("threads"));
  module.attr("BLOCK_DOCUMENTS") = kBlockDocuments;
  module.attr("LONGEST_TEXT") = Entry::kLongestText;
}

void bind_order(py::module_& module) {
  py::class_<Permutation>(module, "Permutation")
      .def(py::init<uint64_t, const Permutation::Keys&>(), py::arg("size"), py::arg("keys"))
      .def("at", &permute<&Permutation::at>, py::arg("positions"), py::arg("level") = static_cast<int>(best_simd_level()))
      .def("position_of", &permute<&Permutation::positions_of>, py::arg("values"),
           py::arg("level") = static_cast<int>(best_simd_level()));
  module.def("philox", &philox, py::arg("counter"), py::arg("key"));
}

void bind_masking(py::module_& module) {
  py::class_<MaskRule>(module, "MaskRule")
      .def(py::init([](uint32_t mask_below, uint32_t random_below, uint32_t chosen_below, int32_t mask_id,
                       uint32_t vocabulary, std::vector<int32_t> protected_ids) {
             std::sort(protected_ids.begin(), protected_ids.end());
             return MaskRule{mask_below, random_below, chosen_below, mask_id, vocabulary, std::move(protected_ids)};
           }),
           py::kw_only(), py::arg("mask_below"), py::arg("random_below"), py::arg("chosen_below"), py::arg("mask_id"),
           py::arg("vocabulary"), py::arg("protected_ids"));
  module.def("row_draws", &draws_of_row, py::arg("key"), py::arg("row"), py::arg("pass_number"), py::arg("count"),
             py::arg("level"));
  module.def("mask_rows", &mask_rows, py::arg("rows"), py::arg("rule"), py::arg("choice_key"),
             py::arg("replacement_key"), py::arg("first_row"), py::arg("pass_number"), py::arg("level"));
  module.def("simd_level", [] { return static_cast<int>(best_simd_level()); });
}

void bind_assembly(py::module_& module) {
  py::class_<SourceRows>(module, "SourceRows")
      .def(py::init([](const Corpus& corpus, const Pack& pack, std::string name, PhiloxKey choice_key,
                       PhiloxKey replacement_key) {
             return SourceRows{corpus, pack, std::move(name), choice_key, replacement_key};
           }),
           py::kw_only(), py::arg("corpus"), py::arg("pack"), py::arg("name"), py::arg("choice_key"),
           py::arg("replacement_key"));
  py::class_<RowFormat>(module, "RowFormat")
      .def(py::init([](uint32_t row_length, int32_t cls_id, int32_t sep_id, int32_t pad_id, bool always_ends,
                       bool masked, int32_t label_offset, MaskRule mask) {
             return RowFormat{row_length, cls_id, sep_id, pad_id, always_ends, masked, label_offset, std::move(mask)};
           }),
           py::kw_only(), py::arg("row_length"), py::arg("cls_id"), py::arg("sep_id"), py::arg("pad_id"),
           py::arg("always_ends"), py::arg("masked"), py::arg("label_offset"), py::arg("mask"));
  py::class_<Assembler>(module, "Assembler")
      .def(py::init<std::vector<SourceRows>, RowFormat, int>(), py::kw_only(), py::arg("sources"), py::arg("format"),
           py::arg("level"))
      .def("assemble", &Assembler::assemble, py::arg("rows"), py::arg("sources"), py::arg("passes"));
}

}  // namespace

void bind_rows(py::module_& module) {
  py::register_exception_translator(&translate);
  bind_packing(module);
  bind_order(module);
  bind_masking(module);
  bind_assembly(module);
}

}  // namespace ettin
