// Order, masks and row assembly for Python. Every long call releases the interpreter lock.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <optional>

#include "python/bind.h"
#include "python/bind_arrays.h"
#include "rows/order.h"
#include "rows/row_assembler.h"

namespace py = pybind11;

namespace ettin {
namespace {

using Corpus = std::shared_ptr<IndexedCorpus>;
using Pack = std::shared_ptr<PackFile>;

template <void (Permutation::*map)(const int64_t*, size_t, int64_t*, InstructionSet) const noexcept>
py::array_t<int64_t> permute(const Permutation& permutation, const Array<int64_t>& values, InstructionSet set) {
  require_range(values, permutation.size(), "row");
  std::vector<int64_t> result(static_cast<size_t>(values.size()));
  {
    py::gil_scoped_release release;
    (permutation.*map)(values.data(), result.size(), result.data(), set);
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
  Assembler(std::vector<SourceRows> sources, RowFormat format, InstructionSet set)
      : sources_(std::move(sources)), format_(std::move(format)), set_(set) {
    std::sort(format_.mask.protected_ids.begin(), format_.mask.protected_ids.end());
    for (auto& pool : pools_) pool = std::make_shared<BufferPool>();
  }

  py::dict assemble(const Array<int64_t>& rows, const Array<int32_t>& sources, const Array<uint32_t>& passes,
                    const std::optional<Array<uint32_t>>& mask_bounds) {
    std::vector<RowRequest> requests = checked(rows, sources, passes);
    if (mask_bounds) set_masks(requests, *mask_bounds);
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
    result["next_token"] = adopt(std::move(out.next_token));
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
      requests[i] = {rows.data()[i], sources.data()[i], passes.data()[i], format_.mask.bounds};
      if (requests[i].row < 0) continue;
      if (requests[i].source < 0 || static_cast<size_t>(requests[i].source) >= sources_.size() ||
          static_cast<uint64_t>(requests[i].row) >= sources_[static_cast<size_t>(requests[i].source)].pack->rows())
        throw py::index_error("no row " + std::to_string(requests[i].row) + " in source " +
                              std::to_string(requests[i].source));
    }
    return requests;
  }

  // Three bounds a row, in the order of MaskBounds, in place of those of the format.
  static void set_masks(std::vector<RowRequest>& requests, const Array<uint32_t>& bounds) {
    if (bounds.ndim() != 2 || static_cast<size_t>(bounds.shape(0)) != requests.size() || bounds.shape(1) != 3)
      throw py::value_error("three mask bounds for each row");
    const uint32_t* next = bounds.data();
    for (RowRequest& request : requests) {
      request.masks = {next[0], next[1], next[2]};
      next += 3;
    }
  }

  std::unique_ptr<RowAssembler> borrow() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return std::make_unique<RowAssembler>(sources_, format_, set_);
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
  InstructionSet set_;
  std::array<std::shared_ptr<BufferPool>, 5> pools_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<RowAssembler>> idle_;
};

py::array_t<uint32_t> draws_of_row(PhiloxKey key, uint64_t row, uint32_t pass, uint32_t count, InstructionSet set) {
  std::vector<uint32_t> draws((size_t{count} + kDrawGroup - 1) / kDrawGroup * kDrawGroup);
  row_draws({key, row, pass}, count, draws.data(), set);
  draws.resize(count);
  return adopt(std::move(draws));
}

// Masks whole rows of text (no specials of the layout), for measurements and comparison with other ways.
py::tuple mask_rows(Array<int32_t> rows, const MaskRule& rule, PhiloxKey choice_key, PhiloxKey replacement_key,
                    uint64_t first_row, uint32_t pass, InstructionSet set) {
  if (rows.ndim() != 2) throw py::value_error("rows must have two dimensions");
  const auto count = static_cast<uint64_t>(rows.shape(0));
  const auto length = static_cast<uint32_t>(rows.shape(1));
  std::vector<int32_t> ids(rows.data(), rows.data() + rows.size());
  Labels labels;
  {
    py::gil_scoped_release release;
    MaskScratch scratch;
    for (uint64_t r = 0; r < count; ++r) {
      start_row_masks({choice_key, first_row + r, pass}, length, scratch, set);
      mask_span(ids.data() + r * length, 0, length, rule, {replacement_key, first_row + r, pass},
                static_cast<int32_t>(r * length), labels, scratch, set);
    }
  }
  labels.positions.resize(labels.count);
  labels.ids.resize(labels.count);
  return py::make_tuple(adopt(std::move(ids)), adopt(std::move(labels.positions)), adopt(std::move(labels.ids)));
}

void bind_order(py::module_& module) {
  py::class_<Permutation>(module, "Permutation")
      .def(py::init<uint64_t, const Permutation::Keys&>(), py::arg("size"), py::arg("keys"))
      .def("at", &permute<&Permutation::at>, py::arg("positions"), py::arg("instructions") = best_instruction_set())
      .def("position_of", &permute<&Permutation::positions_of>, py::arg("values"),
           py::arg("instructions") = best_instruction_set());
  module.def("philox", &philox, py::arg("counter"), py::arg("key"));
}

void bind_masking(py::module_& module) {
  py::class_<MaskRule>(module, "MaskRule")
      .def(py::init([](uint32_t mask_below, uint32_t random_below, uint32_t chosen_below, int32_t mask_id,
                       uint32_t vocabulary, std::vector<int32_t> protected_ids) {
             std::sort(protected_ids.begin(), protected_ids.end());
             return MaskRule{{mask_below, random_below, chosen_below}, mask_id, vocabulary, std::move(protected_ids)};
           }),
           py::kw_only(), py::arg("mask_below"), py::arg("random_below"), py::arg("chosen_below"), py::arg("mask_id"),
           py::arg("vocabulary"), py::arg("protected_ids"));
  module.def("row_draws", &draws_of_row, py::arg("key"), py::arg("row"), py::arg("pass_number"), py::arg("count"),
             py::arg("instructions") = best_instruction_set());
  module.def("mask_rows", &mask_rows, py::arg("rows"), py::arg("rule"), py::arg("choice_key"),
             py::arg("replacement_key"), py::arg("first_row"), py::arg("pass_number"),
             py::arg("instructions") = best_instruction_set());
}

void bind_assembly(py::module_& module) {
  py::class_<SourceRows>(module, "SourceRows")
      .def(py::init([](const Corpus& corpus, const Pack& pack, std::string name, PhiloxKey choice_key,
                       PhiloxKey replacement_key, PhiloxKey kind_key) {
             return SourceRows{corpus, pack, std::move(name), choice_key, replacement_key, kind_key};
           }),
           py::kw_only(), py::arg("corpus"), py::arg("pack"), py::arg("name"), py::arg("choice_key"),
           py::arg("replacement_key"), py::arg("kind_key") = PhiloxKey{});
  py::class_<RowFormat>(module, "RowFormat")
      .def(py::init([](uint32_t row_length, int32_t cls_id, int32_t sep_id, int32_t pad_id, bool always_ends,
                       bool masked, int32_t label_offset, MaskRule mask, uint32_t next_token_below) {
             return RowFormat{row_length, cls_id,       sep_id,          pad_id,          always_ends,
                              masked,     label_offset, std::move(mask), next_token_below};
           }),
           py::kw_only(), py::arg("row_length"), py::arg("cls_id"), py::arg("sep_id"), py::arg("pad_id"),
           py::arg("always_ends"), py::arg("masked"), py::arg("label_offset"), py::arg("mask"),
           py::arg("next_token_below") = 0);
  py::class_<Assembler>(module, "Assembler")
      .def(py::init<std::vector<SourceRows>, RowFormat, InstructionSet>(), py::kw_only(), py::arg("sources"),
           py::arg("format"), py::arg("instructions") = best_instruction_set())
      .def("assemble", &Assembler::assemble, py::arg("rows"), py::arg("sources"), py::arg("passes"),
           py::arg("mask_bounds") = py::none());
}

}  // namespace

void bind_rows(py::module_& module) {
  bind_order(module);
  bind_masking(module);
  bind_assembly(module);
}

}  // namespace ettin
