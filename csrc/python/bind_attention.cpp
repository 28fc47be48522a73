// Attention for Python: tensors come as addresses and strides, so that the extension does not depend on torch.
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

#include "kernels/attention.h"
#include "python/bind.h"

namespace py = pybind11;

namespace ettin {
namespace {

using Numbers = std::array<int64_t, 5>;

// Tensors that the caller keeps alive and of the given sizes. `reaches`: (left, right) of each segment, where they
// differ; else those of all.
class Attention {
 public:
  Attention(std::array<uintptr_t, 3> inputs, std::array<int64_t, 4> strides, bool bfloat16,
            const std::vector<Numbers>& segments, size_t tokens, size_t heads, size_t head_size, int64_t left,
            int64_t right, int threads, const std::vector<std::array<int64_t, 2>>& reaches) {
    problem_.inputs = {at(inputs[0]), at(inputs[1]), at(inputs[2]), strides[0],
                       strides[1],    strides[2],    strides[3],    bfloat16};
    if (!reaches.empty() && reaches.size() != segments.size()) throw py::value_error("one reach for each segment");
    for (size_t i = 0; i < segments.size(); ++i) {
      const Numbers& s = segments[i];
      const std::array<int64_t, 2> reach = reaches.empty() ? std::array<int64_t, 2>{left, right} : reaches[i];
      problem_.segments.push_back({s[0], s[1], s[2], s[3], s[4], reach[0], reach[1]});
    }
    problem_.tokens = tokens;
    problem_.heads = heads;
    problem_.head_size = head_size;
    problem_.threads = threads;
  }

  void forward(uintptr_t output, uintptr_t sums) {
    py::gil_scoped_release release;
    attention_forward(problem_, at(output), static_cast<float*>(at(sums)));
  }

  void backward(uintptr_t output, uintptr_t output_gradient, uintptr_t sums, std::array<uintptr_t, 3> gradients) {
    py::gil_scoped_release release;
    attention_backward(problem_, {at(output), at(output_gradient), static_cast<float*>(at(sums)), at(gradients[0]),
                                  at(gradients[1]), at(gradients[2])});
  }

 private:
  static void* at(uintptr_t address) { return reinterpret_cast<void*>(address); }
  AttentionProblem problem_;
};

}  // namespace

void bind_attention(py::module_& module) {
  py::class_<Attention>(module, "Attention")
      .def(py::init<std::array<uintptr_t, 3>, std::array<int64_t, 4>, bool, const std::vector<Numbers>&, size_t, size_t,
                    size_t, int64_t, int64_t, int, const std::vector<std::array<int64_t, 2>>&>(),
           py::arg("inputs"), py::arg("strides"), py::arg("bfloat16"), py::arg("segments"), py::arg("tokens"),
           py::arg("heads"), py::arg("head_size"), py::arg("left"), py::arg("right"), py::arg("threads"),
           py::arg("reaches") = std::vector<std::array<int64_t, 2>>{})
      .def("forward", &Attention::forward, py::arg("output"), py::arg("sums"))
      .def("backward", &Attention::backward, py::arg("output"), py::arg("output_gradient"), py::arg("sums"),
           py::arg("gradients"));
}

}  // namespace ettin
