// The memory allocator's habits, for Python.
#include "python/bind.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace ettin {

void bind_memory(pybind11::module_& module) {
  // Blocks up to the limit come from memory that is kept when they are freed; larger ones go back to the system as
  // ever. False where the allocator has no such setting.
  module.def(
      "keep_freed_memory",
      [](int largest_block) {
#if defined(__GLIBC__)
        return mallopt(M_MMAP_THRESHOLD, largest_block) == 1 && mallopt(M_TRIM_THRESHOLD, -1) == 1;
#else
        (void)largest_block;
        return false;
#endif
      },
      pybind11::arg("largest_block"));
}

}  // namespace ettin
