#include "ops/gdn/gdn_gpu.h"

#include "base/check.h"
#include "ops/gdn/slot.h"

namespace weir {
namespace {

constexpr int64_t kThreads = 512;  // of gdn.cu

}  // namespace

void set_shape(const GdnShape& shape, GpuGdnArgs* args) {
  const GdnSlotParts parts = gdn_slot_parts(shape);
  args->state_offset = parts.state;
  args->keys_offset = parts.keys;
  args->update_offset = parts.update;
  args->log_decay_offset = parts.log_decay;
  args->inputs_offset = parts.inputs;
  args->key_heads = static_cast<int32_t>(shape.key_heads);
  args->ratio = static_cast<int32_t>(shape.value_heads / shape.key_heads);
  args->key_dim = static_cast<int32_t>(shape.key_dim);
  args->value_dim = static_cast<int32_t>(shape.value_dim);
  args->value_stride = static_cast<int32_t>(gdn_value_stride(shape));
  args->channels = static_cast<int32_t>(shape.channels());
  args->eps = shape.norm_eps;
}

int64_t gdn_shared_bytes(const GpuGdnArgs& args) {
  // The parts of Head in gdn.cu.
  constexpr int64_t kRing = 64;
  const int64_t floats =
      2 * args.key_dim + int64_t{args.ratio} * (2 * args.value_stride + 2 * kRing + 2) + 2 * kThreads + kThreads / 32;
  return floats * static_cast<int64_t>(sizeof(float));
}

void gdn(Gpu& gpu, const GpuGdnArgs& args, int64_t sequences) {
  WEIR_CHECK(args.ratio > 0, "{} value heads of a key head", args.ratio);
  if (sequences == 0) return;
  device::Grid grid;
  grid.x = sequences;
  grid.y = args.key_heads;
  grid.threads = static_cast<int>(kThreads);
  grid.shared_bytes = gdn_shared_bytes(args);
  gpu.launch("weir_gdn", grid, args);
}

}  // namespace weir
