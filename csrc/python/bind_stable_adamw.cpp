// StableAdamW for Python: tensors come as addresses and sizes, so that the extension does not depend on torch.
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>

#include "python/bind.h"
#include "kernels/stable_adamw.h"

namespace py = pybind11;

namespace ettin {
namespace {

using Addresses = std::vector<uintptr_t>;

std::vector<AdamTensor> tensors_of(const Addresses& parameters, const Addresses& gradients, const Addresses& firsts,
                                   const Addresses& seconds, const std::vector<size_t>& sizes) {
  for (const Addresses* addresses : {&parameters, &gradients, &firsts, &seconds})
    if (addresses->size() != sizes.size()) throw std::invalid_argument("one address of each kind for each size");
  std::vector<AdamTensor> tensors;
  tensors.reserve(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i)
    tensors.push_back({reinterpret_cast<float*>(parameters[i]), reinterpret_cast<const float*>(gradients[i]),
                       reinterpret_cast<float*>(firsts[i]), reinterpret_cast<float*>(seconds[i]), sizes[i]});
  return tensors;
}

// The float tensors of one optimizer step. The caller keeps the memory alive and of the given sizes.
class AdamStep {
 public:
  AdamStep(const Addresses& parameters, const Addresses& gradients, const Addresses& firsts, const Addresses& seconds,
           const std::vector<size_t>& sizes, int threads)
      : tensors_(tensors_of(parameters, gradients, firsts, seconds, sizes)), threads_(threads) {}

  std::vector<double> second_moments(float beta2, float epsilon) {
    py::gil_scoped_release release;
    return ettin::second_moments(tensors_, {0.0f, beta2, epsilon}, threads_);
  }

  void apply(float beta1, float epsilon, const std::vector<float>& rates, const std::vector<float>& keeps) {
    if (rates.size() != tensors_.size() || keeps.size() != tensors_.size())
      throw std::invalid_argument("one rate and one keep for each tensor");
    py::gil_scoped_release release;
    apply_moments(tensors_, {beta1, 0.0f, epsilon}, rates, keeps, threads_);
  }

 private:
  std::vector<AdamTensor> tensors_;
  int threads_;
};

std::vector<double> square_sums_of(const Addresses& gradients, const std::vector<size_t>& sizes, int threads) {
  const std::vector<AdamTensor> tensors = tensors_of(gradients, gradients, gradients, gradients, sizes);
  py::gil_scoped_release release;
  return square_sums(tensors, threads);
}

}  // namespace

void bind_stable_adamw(py::module_& module) {
  py::class_<AdamStep>(module, "AdamStep")
      .def(py::init<const Addresses&, const Addresses&, const Addresses&, const Addresses&, const std::vector<size_t>&,
                    int>(),
           py::arg("parameters"), py::arg("gradients"), py::arg("firsts"), py::arg("seconds"), py::arg("sizes"),
           py::arg("threads"))
      .def("second_moments", &AdamStep::second_moments, py::arg("beta2"), py::arg("epsilon"))
      .def("apply", &AdamStep::apply, py::arg("beta1"), py::arg("epsilon"), py::arg("rates"), py::arg("keeps"));
  module.def("square_sums", &square_sums_of, py::arg("gradients"), py::arg("sizes"), py::arg("threads"));
}

}  // namespace ettin
