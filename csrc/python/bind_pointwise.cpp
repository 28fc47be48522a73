// Rotary embedding, gated GELU and dropout for Python: tensors come as addresses and sizes.
#include <cstdint>
#include <stdexcept>

#include "python/bind.h"
#include "kernels/pointwise.h"

namespace py = pybind11;

namespace ettin {
namespace {

void* at(uintptr_t address) { return reinterpret_cast<void*>(address); }
const float* floats(uintptr_t address) { return reinterpret_cast<const float*>(address); }

}  // namespace

void bind_pointwise(py::module_& module) {
  module.def(
      "rotate",
      [](uintptr_t projection, bool bfloat16, size_t tokens, size_t heads, size_t head_size, uintptr_t cosine,
         uintptr_t sine, int threads) {
        py::gil_scoped_release release;
        rotate({at(projection), bfloat16, tokens, heads, head_size, floats(cosine), floats(sine), threads});
      },
      py::arg("projection"), py::arg("bfloat16"), py::arg("tokens"), py::arg("heads"), py::arg("head_size"),
      py::arg("cosine"), py::arg("sine"), py::arg("threads"));
  module.def(
      "gated_gelu",
      [](uintptr_t gated, bool bfloat16, size_t rows, size_t width, uintptr_t output, int threads) {
        py::gil_scoped_release release;
        gated_gelu({at(gated), bfloat16, rows, width, threads}, at(output));
      },
      py::arg("gated"), py::arg("bfloat16"), py::arg("rows"), py::arg("width"), py::arg("output"), py::arg("threads"));
  module.def(
      "gated_gelu_backward",
      [](uintptr_t gated, bool bfloat16, size_t rows, size_t width, uintptr_t gradient, uintptr_t gated_gradient,
         int threads) {
        py::gil_scoped_release release;
        gated_gelu_backward({at(gated), bfloat16, rows, width, threads}, at(gradient), at(gated_gradient));
      },
      py::arg("gated"), py::arg("bfloat16"), py::arg("rows"), py::arg("width"), py::arg("gradient"),
      py::arg("gated_gradient"), py::arg("threads"));
  module.def(
      "drop",
      [](uint64_t key, uint32_t step, uint32_t layer, uint32_t dropped_below, float scale, uintptr_t places,
         size_t tokens, size_t channels, bool bfloat16, uintptr_t residual, uintptr_t x, uintptr_t output,
         int threads) {
        if (channels > kMostDroppedChannels || layer >= 1u << 16)
          throw std::invalid_argument("dropout counts up to 2^18 channels and 2^16 layers");
        py::gil_scoped_release release;
        drop({key, step, layer, dropped_below, scale, reinterpret_cast<const int64_t*>(places), tokens, channels,
              bfloat16, threads},
             at(residual), at(x), at(output));
      },
      py::arg("key"), py::arg("step"), py::arg("layer"), py::arg("dropped_below"), py::arg("scale"), py::arg("places"),
      py::arg("tokens"), py::arg("channels"), py::arg("bfloat16"), py::arg("residual"), py::arg("x"), py::arg("output"),
      py::arg("threads"));
}

}  // namespace ettin
