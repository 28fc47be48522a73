// Attention for any machine.
#include "kernels/attention_versions.h"

namespace ettin {
namespace portable {
constexpr int kLanes = 4, kWide = 2;
#include "kernels/generic/vectors.h"
#include "kernels/generic/attention.h"
}  // namespace portable

const AttentionPath portable_attention = {portable::forward, portable::backward};

}  // namespace ettin
