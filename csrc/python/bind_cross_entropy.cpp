// Cross-entropy for Python: tensors come as addresses and sizes, so that the extension does not depend on torch.
#include <cstdint>

#include "python/bind.h"
#include "kernels/cross_entropy.h"

namespace py = pybind11;

namespace ettin {
namespace {

// Rows of logits that the caller keeps alive and of the given sizes.
class Rows {
 public:
  Rows(uintptr_t logits, bool bfloat16, size_t rows, size_t columns, uintptr_t bias, uintptr_t labels,
       int64_t first_row, int threads)
      : rows_{
            reinterpret_cast<void*>(logits),          bfloat16,  rows,   columns, reinterpret_cast<const float*>(bias),
            reinterpret_cast<const int64_t*>(labels), first_row, threads} {}

  void statistics(uintptr_t largest, uintptr_t sum, uintptr_t label) {
    py::gil_scoped_release release;
    row_statistics(rows_, reinterpret_cast<float*>(largest), reinterpret_cast<float*>(sum),
                   reinterpret_cast<float*>(label));
  }

  void gradients(uintptr_t log_sum, uintptr_t bias_gradient) {
    py::gil_scoped_release release;
    row_gradients(rows_, reinterpret_cast<const float*>(log_sum), reinterpret_cast<float*>(bias_gradient));
  }

 private:
  LogitRows rows_;
};

}  // namespace

void bind_cross_entropy(py::module_& module) {
  py::class_<Rows>(module, "LogitRows")
      .def(py::init<uintptr_t, bool, size_t, size_t, uintptr_t, uintptr_t, int64_t, int>(), py::arg("logits"),
           py::arg("bfloat16"), py::arg("rows"), py::arg("columns"), py::arg("bias"), py::arg("labels"),
           py::arg("first_row"), py::arg("threads"))
      .def("statistics", &Rows::statistics, py::arg("largest"), py::arg("sum"), py::arg("label"))
      .def("gradients", &Rows::gradients, py::arg("log_sum"), py::arg("bias_gradient"));
}

}  // namespace ettin
