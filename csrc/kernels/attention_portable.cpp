// Attention for any machine.
#include "kernels/attention_versions.h"

namespace ettin {
namespace portable {
constexpr int kLanes = 4, kTileVectors = 2;
#include "kernels/generic/vectors.h"
#include "kernels/generic/attention.h"
}  // namespace portable

const AttentionVersion portable_attention = {portable::forward, portable::backward};

}  // namespace ettin
