// The Python module megatron_ettin._native.
#include "python/bind.h"

PYBIND11_MODULE(_native, module) {
  module.doc() = "Native parts of megatron_ettin: tokenizer, corpus builder, packing, order and masks.";
  ettin::bind_cpu(module);
  ettin::bind_packing(module);
  ettin::bind_rows(module);
  ettin::bind_stable_adamw(module);
  ettin::bind_cross_entropy(module);
  ettin::bind_attention(module);
  ettin::bind_pointwise(module);
  ettin::bind_checks(module);
  ettin::bind_memory(module);
  ettin::bind_builder(module);
  ettin::bind_tokenizer(module);
}
