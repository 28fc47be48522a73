// What the bindings share: numpy arrays in and out, and the error that becomes a DataError.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ettin {

namespace py = pybind11;

// Becomes megatron_ettin.errors.DataError.
struct DataProblem : std::runtime_error {
  using std::runtime_error::runtime_error;
};

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

// The bytes of a contiguous buffer; the owner must stay alive.
inline std::string_view buffer_view(const py::buffer_info& info) {
  py::ssize_t expected = info.itemsize;
  for (size_t i = info.shape.size(); i-- > 0;) {
    if (info.shape[i] > 1 && info.strides[i] != expected) throw std::invalid_argument("the buffer is not contiguous");
    expected *= info.shape[i];
  }
  return {static_cast<const char*>(info.ptr), static_cast<size_t>(info.size * info.itemsize)};
}

}  // namespace ettin
