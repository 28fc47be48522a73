// Instruction sets: which there are, which of them this machine has, and what every dispatcher made of that.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define ETTIN_X86 1
#endif

// Functions between these two may use the given instruction sets. Templates of the standard library stay outside:
// the linker may take their code for everybody's.
#define ETTIN_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define ETTIN_BEGIN_TARGET(features) \
  ETTIN_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define ETTIN_END_TARGET ETTIN_PRAGMA(clang attribute pop)
#else
#define ETTIN_BEGIN_TARGET(features) ETTIN_PRAGMA(GCC push_options) ETTIN_PRAGMA(GCC target(features))
#define ETTIN_END_TARGET ETTIN_PRAGMA(GCC pop_options)
#endif
// x86-64-v3 and x86-64-v4.
#if defined(__clang__)
#define ETTIN_V3 "avx,avx2,bmi,bmi2,f16c,fma,lzcnt,movbe,popcnt,sse4.2"
#define ETTIN_V4 ETTIN_V3 ",avx512f,avx512bw,avx512cd,avx512dq,avx512vl"
#else
#define ETTIN_V3 "arch=x86-64-v3"
#define ETTIN_V4 "arch=x86-64-v4"
#endif
// For small functions of every version: they take on the instruction set of their caller.
#define ETTIN_INLINE inline __attribute__((always_inline))

namespace ettin {

// Each has everything of those before it.
enum class InstructionSet : uint8_t {
  kPortable,
  kSse42,       // CRC-32C
  kAvx2,        // with FMA, BMI2: x86-64-v3
  kAvx512,      // F, BW, CD, DQ, VL: x86-64-v4
  kAvx512Vbmi,  // with VBMI, VBMI2 and VPCLMULQDQ: Ice Lake, Zen 4
};

// The best of this machine. ETTIN_CPU_PATH=portable|avx2|avx512 in the environment lowers it; avx512 means all of them.
InstructionSet best_instruction_set();
// A value of ETTIN_CPU_PATH that is none of these, or nothing.
std::string unknown_override();

// The best version for this machine out of those that a dispatcher has besides the portable one, in ascending order.
// The choice is on record under the dispatcher's name; to be called once for each, while the extension is loaded.
InstructionSet choose(const char* dispatcher, std::initializer_list<InstructionSet> versions);

struct Choice {
  const char* dispatcher;
  InstructionSet chosen;
};
// What each dispatcher chose.
const std::vector<Choice>& choices();

}  // namespace ettin
