// Instruction sets for Python: which this process may use, and what each dispatcher chose.
#include <pybind11/stl.h>

#include "base/cpu.h"
#include "python/bind.h"

namespace py = pybind11;

namespace ettin {

void bind_cpu(py::module_& module) {
  const std::string unknown = unknown_override();
  if (!unknown.empty()) {
    throw py::import_error("ETTIN_CPU_PATH=" + unknown +
                           " is no instruction set; use portable, avx2 or avx512, or unset it");
  }
  py::enum_<InstructionSet> sets(module, "InstructionSet", py::arithmetic());
  sets.value("portable", InstructionSet::kPortable)
      .value("sse42", InstructionSet::kSse42)
      .value("avx2", InstructionSet::kAvx2)
      .value("avx512", InstructionSet::kAvx512)
      .value("avx512_vbmi", InstructionSet::kAvx512Vbmi);
  // The instruction sets that this process may use, ascending.
  module.def("instruction_sets", [] {
    std::vector<InstructionSet> usable;
    for (int set = 0; set <= static_cast<int>(best_instruction_set()); ++set) {
      usable.push_back(static_cast<InstructionSet>(set));
    }
    return usable;
  });
  // What each dispatcher chose, by its name.
  module.def("instruction_choices", [] {
    py::dict chosen;
    for (const Choice& choice : choices()) chosen[choice.dispatcher] = choice.chosen;
    return chosen;
  });
}

}  // namespace ettin
