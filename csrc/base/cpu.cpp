#include "base/cpu.h"

#include <algorithm>
#include <cstdlib>

namespace ettin {
namespace {

struct Override {
  const char* name;
  InstructionSet highest;
};
constexpr Override kOverrides[] = {
    {"portable", InstructionSet::kPortable}, {"avx2", InstructionSet::kAvx2}, {"avx512", InstructionSet::kAvx512Vbmi}};

std::string wanted_override() {
  const char* wanted = std::getenv("ETTIN_CPU_PATH");
  return wanted ? wanted : "";
}

InstructionSet detect() {
#if defined(ETTIN_X86)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("sse4.2")) return InstructionSet::kPortable;
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
        __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt"))) {
    return InstructionSet::kSse42;
  }
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))) {
    return InstructionSet::kAvx2;
  }
  if (!(__builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
        __builtin_cpu_supports("vpclmulqdq"))) {
    return InstructionSet::kAvx512;
  }
  return InstructionSet::kAvx512Vbmi;
#else
  return InstructionSet::kPortable;
#endif
}

std::vector<Choice>& record() {
  static std::vector<Choice> choices;
  return choices;
}

}  // namespace

InstructionSet best_instruction_set() {
  static const InstructionSet best = [] {
    const std::string wanted = wanted_override();
    InstructionSet set = detect();
    for (const Override& known : kOverrides) {
      if (wanted == known.name) set = std::min(set, known.highest);
    }
    return set;
  }();
  return best;
}

std::string unknown_override() {
  const std::string wanted = wanted_override();
  for (const Override& known : kOverrides) {
    if (wanted == known.name) return "";
  }
  return wanted;
}

InstructionSet choose(const char* dispatcher, std::initializer_list<InstructionSet> versions) {
  InstructionSet chosen = InstructionSet::kPortable;
#if defined(ETTIN_X86)
  for (const InstructionSet version : versions) {
    if (version <= best_instruction_set()) chosen = version;
  }
#else
  (void)versions;
#endif
  record().push_back({dispatcher, chosen});
  return chosen;
}

const std::vector<Choice>& choices() { return record(); }

}  // namespace ettin
