// Python's view of the tokenizer: texts in, numpy arrays out.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <memory>
#include <stdexcept>

#include "bind.h"
#include "tokenizer.h"

namespace py = pybind11;

namespace ettin {
namespace {

// A one-dimensional array that owns `values` without copying them.
template <class T>
py::array_t<T> as_array(std::vector<T>&& values) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  T* data = owner->data();
  const size_t size = owner->size();
  py::capsule release(owner.release(), [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
  return py::array_t<T>(size, data, release);
}

std::shared_ptr<const Tokenizer> load(const std::string& json) {
  std::string error;
  auto tokenizer = Tokenizer::from_json(json, error);
  if (!tokenizer) throw std::invalid_argument(error);
  return tokenizer;
}

// The UTF-8 bytes of a list of str, without copies; the list must stay alive.
std::vector<std::string_view> views(const py::list& texts) {
  std::vector<std::string_view> result;
  result.reserve(texts.size());
  for (const py::handle text : texts) {
    Py_ssize_t size;
    const char* data = PyUnicode_Check(text.ptr()) ? PyUnicode_AsUTF8AndSize(text.ptr(), &size) : nullptr;
    if (!data) {
      if (PyErr_Occurred()) throw py::error_already_set();
      throw py::type_error("texts must be str");
    }
    result.emplace_back(data, size);
  }
  return result;
}

// (ids, offsets, special tokens met, index of the first rejected text or -1)
py::tuple encode_batch(Encoder& encoder, const py::list& texts) {
  const auto inputs = views(texts);
  std::vector<uint32_t> ids;
  std::vector<int64_t> offsets{0};
  uint64_t specials = 0;
  int64_t rejected = -1;
  {
    py::gil_scoped_release release;
    offsets.reserve(inputs.size() + 1);
    for (const std::string_view text : inputs) {
      if (!encoder.encode(text, ids, specials)) {
        rejected = static_cast<int64_t>(offsets.size()) - 1;
        break;
      }
      offsets.push_back(static_cast<int64_t>(ids.size()));
    }
  }
  return py::make_tuple(as_array(std::move(ids)), as_array(std::move(offsets)), specials, rejected);
}

}  // namespace

void bind_tokenizer(py::module_& module) {
  py::class_<Tokenizer, std::shared_ptr<Tokenizer>>(module, "Tokenizer")
      .def(py::init([](const std::string& json) { return std::const_pointer_cast<Tokenizer>(load(json)); }), py::arg("json"))
      .def_property_readonly("vocabulary_size", &Tokenizer::vocabulary_size)
      .def_property_readonly("added_tokens", [](const Tokenizer& tokenizer) {
        py::list result;
        for (const AddedToken& token : tokenizer.file().added) {
          result.append(py::make_tuple(token.content, token.id, token.special));
        }
        return result;
      });

  py::enum_<SpecialPolicy>(module, "SpecialPolicy")
      .value("special", SpecialPolicy::kSpecial)
      .value("split", SpecialPolicy::kSplit)
      .value("reject", SpecialPolicy::kReject);

  py::enum_<CpuPath>(module, "CpuPath")
      .value("portable", CpuPath::kPortable)
      .value("avx2", CpuPath::kAvx2)
      .value("avx512", CpuPath::kAvx512);
  module.def("best_cpu_path", &best_cpu_path);

  py::class_<Encoder>(module, "Encoder")
      .def(py::init([](std::shared_ptr<Tokenizer> tokenizer, SpecialPolicy policy, CpuPath path) {
             return std::make_unique<Encoder>(std::move(tokenizer), policy, path);
           }),
           py::arg("tokenizer"), py::arg("policy") = SpecialPolicy::kSpecial, py::arg("path") = best_cpu_path())
      .def("encode_batch", &encode_batch, py::arg("texts"));
}

}  // namespace ettin
