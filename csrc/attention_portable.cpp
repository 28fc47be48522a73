// Attention for any machine.
#include "attention_paths.h"

namespace ettin {
namespace portable {
constexpr int kLanes = 4, kWide = 2;
#include "vectors_path.h"
#include "attention_path.h"
}  // namespace portable

const AttentionPath portable_attention = {portable::forward, portable::backward};

}  // namespace ettin
