// Each area of the extension registers its functions through one of these.
#pragma once

#include <pybind11/pybind11.h>

namespace ettin {

void bind_cpu(pybind11::module_& module);
void bind_packing(pybind11::module_& module);
void bind_rows(pybind11::module_& module);
void bind_stable_adamw(pybind11::module_& module);
void bind_cross_entropy(pybind11::module_& module);
void bind_attention(pybind11::module_& module);
void bind_pointwise(pybind11::module_& module);
void bind_checks(pybind11::module_& module);
void bind_memory(pybind11::module_& module);
void bind_builder(pybind11::module_& module);
void bind_tokenizer(pybind11::module_& module);

}  // namespace ettin
