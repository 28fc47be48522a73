// Python's view of the tokenizer: texts in, numpy arrays out.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "python/bind.h"
#include "python/bind_arrays.h"
#include "base/huge_array.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/json.h"

namespace py = pybind11;

namespace ettin {
namespace {

// Ids of many texts, growing without copies: pages that are not used cost nothing.
class IdBuffer {
 public:
  explicit IdBuffer(size_t capacity) : array_(std::make_unique<HugeArray<uint32_t>>(capacity)), capacity_(capacity) {}

  void append(const IdVector& ids) {
    if (size_ + ids.size() > capacity_) grow(size_ + ids.size());
    std::memcpy(array_->data() + size_, ids.data(), ids.size() * sizeof(uint32_t));
    size_ += ids.size();
  }
  size_t size() const { return size_; }

  // The ids as an array that owns them.
  py::array_t<uint32_t> release() && {
    uint32_t* data = array_->data();
    py::capsule owner(array_.release(), [](void* pointer) { delete static_cast<HugeArray<uint32_t>*>(pointer); });
    return py::array_t<uint32_t>(size_, data, owner);
  }

 private:
  void grow(size_t needed) {
    capacity_ = std::max(needed, capacity_ * 2);
    auto larger = std::make_unique<HugeArray<uint32_t>>(capacity_);
    std::memcpy(larger->data(), array_->data(), size_ * sizeof(uint32_t));
    array_ = std::move(larger);
  }

  std::unique_ptr<HugeArray<uint32_t>> array_;
  size_t capacity_, size_ = 0;
};

std::shared_ptr<const Tokenizer> load(std::string_view json) {
  std::string error;
  auto tokenizer = Tokenizer::from_json(json, error);
  if (!tokenizer) throw std::invalid_argument(error);
  return tokenizer;
}

// The id of a token by its content: an added token, or one of the model written in ASCII; -1 when there is none.
int64_t find_token(const Tokenizer& tokenizer, const std::string& content) {
  for (const AddedToken& token : tokenizer.file().added) {
    if (token.content == content) return token.id;
  }
  const auto& tokens = tokenizer.file().token_bytes;
  const auto found = std::find(tokens.begin(), tokens.end(), content);
  return found == tokens.end() ? -1 : found - tokens.begin();
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
    if (static_cast<size_t>(size) > Encoder::kLongestText) {
      throw std::length_error("text " + std::to_string(result.size()) + " has " + std::to_string(size) +
                              " bytes; the encoder takes up to " + std::to_string(Encoder::kLongestText));
    }
    result.emplace_back(data, size);
  }
  return result;
}

// (ids, offsets, special tokens met, index of the first rejected text or -1)
py::tuple encode_batch(Encoder& encoder, const py::list& texts) {
  const auto inputs = views(texts);
  size_t bytes = 0;
  for (const std::string_view text : inputs) bytes += text.size();
  IdBuffer ids(bytes + 1);  // hardly ever more than an id a byte
  IdVector own;
  std::vector<int64_t> offsets{0};
  uint64_t specials = 0;
  int64_t rejected = -1;
  {
    py::gil_scoped_release release;
    offsets.reserve(inputs.size() + 1);
    for (const std::string_view text : inputs) {
      own.clear();
      if (!encoder.encode(text, own, specials)) {
        rejected = static_cast<int64_t>(offsets.size()) - 1;
        break;
      }
      ids.append(own);
      offsets.push_back(static_cast<int64_t>(ids.size()));
    }
  }
  return py::make_tuple(std::move(ids).release(), adopt(std::move(offsets)), specials, rejected);
}

}  // namespace

void bind_tokenizer(py::module_& module) {
  py::class_<Tokenizer, std::shared_ptr<Tokenizer>>(module, "Tokenizer")
      .def(py::init([](std::string_view json) { return std::const_pointer_cast<Tokenizer>(load(json)); }),
           py::arg("json"))
      .def_property_readonly("vocabulary_size", &Tokenizer::vocabulary_size)
      .def("find_token", &find_token, py::arg("content"));
  module.def("compact_json", [](std::string_view json) { return py::bytes(compact_json(json)); }, py::arg("json"));

  py::enum_<SpecialPolicy>(module, "SpecialPolicy")
      .value("special", SpecialPolicy::kSpecial)
      .value("split", SpecialPolicy::kSplit)
      .value("reject", SpecialPolicy::kReject);

  py::class_<Encoder>(module, "Encoder")
      .def(py::init([](std::shared_ptr<Tokenizer> tokenizer, SpecialPolicy policy, InstructionSet set) {
             return std::make_unique<Encoder>(std::move(tokenizer), policy, set);
           }),
           py::arg("tokenizer"), py::arg("policy") = SpecialPolicy::kSpecial,
           py::arg("instructions") = best_instruction_set())
      .def("encode_batch", &encode_batch, py::arg("texts"))
      .def(
          "word_starts", [](Encoder& encoder, std::string_view text) { return adopt(encoder.word_starts(text)); },
          py::arg("text"));
}

}  // namespace ettin
