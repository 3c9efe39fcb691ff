#include "ops/gdn/gdn.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "ops/cpu/kernel_table.h"
#include "ops/gdn/gdn_kernels.h"
#include "ops/gdn/slot.h"

namespace weir {
namespace {

static_assert(kGdnChunk == kGdnRows);

constexpr int64_t kFloat = sizeof(float);

int64_t thread_bytes(const GdnShape& shape) {
  return round_up(
      gdn_scratch_floats(shape.key_dim, gdn_value_stride(shape), shape.value_heads / shape.key_heads) * kFloat,
      kCacheLine);
}

void set_base(std::byte* slot, int64_t base) {
  std::memcpy(slot, &base, sizeof(base));
}

GdnHead head_of(const GdnArgs& args, const GdnSequence& s, int64_t key_head) {
  const GdnParameters& p = *args.parameters;
  const GdnShape& shape = p.shape;
  const GdnSlotParts parts = gdn_slot_parts(shape);
  std::byte* slot = s.slot + args.slot_offset;
  const int64_t ratio = shape.value_heads / shape.key_heads;
  const int64_t value_head = key_head * ratio;
  const int64_t stride = gdn_value_stride(shape);
  const auto part = [slot](int64_t offset, int64_t floats) { return reinterpret_cast<float*>(slot + offset) + floats; };
  GdnHead head;
  head.key_dim = shape.key_dim;
  head.value_dim = shape.value_dim;
  head.value_stride = stride;
  head.value_heads = ratio;
  head.rows = s.row_count;
  head.position = s.position;
  head.base = gdn_slot_base(slot);
  head.norm_eps = shape.norm_eps;
  head.u = args.u + s.row_begin * args.u_stride;
  head.u_stride = args.u_stride;
  head.channels = shape.channels();
  head.q_channel = key_head * shape.key_dim;
  head.k_channel = (shape.key_heads + key_head) * shape.key_dim;
  head.v_channel = 2 * shape.key_heads * shape.key_dim + value_head * shape.value_dim;
  head.conv = p.conv.data();
  head.z = args.z + s.row_begin * args.z_stride + value_head * shape.value_dim;
  head.z_stride = args.z_stride;
  head.b = args.b + s.row_begin * args.b_stride + value_head;
  head.b_stride = args.b_stride;
  head.a = args.a + s.row_begin * args.a_stride + value_head;
  head.a_stride = args.a_stride;
  head.decay = p.decay.data() + value_head;
  head.dt_bias = p.dt_bias.data() + value_head;
  head.norm = p.norm.data();
  head.state = part(parts.state, value_head * shape.key_dim * stride);
  head.keys = part(parts.keys, key_head * shape.key_dim * kGdnChunk);
  head.update = part(parts.update, value_head * kGdnChunk * stride);
  head.log_decay = part(parts.log_decay, value_head * kGdnChunk);
  head.inputs = part(parts.inputs, 0);
  head.y = args.y + s.row_begin * args.y_stride + value_head * shape.value_dim;
  head.y_stride = args.y_stride;
  return head;
}

}  // namespace

GdnParameters make_gdn_parameters(const GdnShape& shape, VectorView conv, VectorView a_log, VectorView dt_bias,
                                  VectorView norm) {
  const int64_t channels = shape.channels();
  WEIR_CHECK(shape.key_heads > 0 && shape.value_heads % shape.key_heads == 0, "{} value heads over {} key heads",
             shape.value_heads, shape.key_heads);
  WEIR_CHECK(conv.size == channels * kGdnConvWidth, "{} values of convolution for {} channels", conv.size, channels);
  WEIR_CHECK(a_log.size == shape.value_heads && dt_bias.size == shape.value_heads, "{} and {} gates for {} heads",
             a_log.size, dt_bias.size, shape.value_heads);
  WEIR_CHECK(norm.size == shape.value_dim, "a norm of {} for heads of {}", norm.size, shape.value_dim);
  GdnParameters p;
  p.shape = shape;
  p.conv.resize(static_cast<size_t>(conv.size));
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t tap = 0; tap < kGdnConvWidth; ++tap) {
      p.conv[static_cast<size_t>(tap * channels + c)] = conv.data[c * kGdnConvWidth + tap];
    }
  }
  for (int64_t j = 0; j < shape.value_heads; ++j) {
    p.decay.push_back(static_cast<float>(-std::exp(static_cast<double>(a_log.data[j]))));
  }
  p.dt_bias.assign(dt_bias.data, dt_bias.data + dt_bias.size);
  p.norm.assign(norm.data, norm.data + norm.size);
  return p;
}

int64_t gdn_slot_bytes(const GdnShape& shape) {
  return gdn_slot_parts(shape).end;
}

void gdn_zero_slot(const GdnShape& shape, std::byte* slot) {
  std::memset(slot, 0, static_cast<size_t>(gdn_slot_bytes(shape)));
}

int64_t gdn_slot_base(const std::byte* slot) {
  int64_t base = 0;
  std::memcpy(&base, slot, sizeof(base));
  return base;
}

int64_t gdn_scratch_bytes(const GdnShape& shape, int threads) {
  return threads * thread_bytes(shape);
}

void gdn(Cpu& cpu, const GdnArgs& args) {
  const GdnShape& shape = args.parameters->shape;
  WEIR_CHECK(args.slot_offset % kCacheLine == 0, "slot offset {}", args.slot_offset);
  for (const GdnSequence& s : args.sequences) {
    const int64_t base = gdn_slot_base(s.slot + args.slot_offset);
    WEIR_CHECK(s.position >= base && s.position <= base + kGdnChunk, "position {} with a slot at {}", s.position, base);
  }
  Cpu::Frame frame(cpu);
  auto* scratch = frame.take<std::byte>(gdn_scratch_bytes(shape, cpu.threads()));
  const int64_t tasks = static_cast<int64_t>(args.sequences.size()) * shape.key_heads;
  cpu.pool().parallel_for(tasks, [&](int64_t task, int thread) {
    const GdnSequence& s = args.sequences[static_cast<size_t>(task / shape.key_heads)];
    if (s.row_count == 0) return;
    GdnHead head = head_of(args, s, task % shape.key_heads);
    head.scratch = reinterpret_cast<float*>(scratch + thread * thread_bytes(shape));
    cpu.kernels().gdn_head(head);
  });
  for (const GdnSequence& s : args.sequences) {
    if (s.row_count > 0) set_base(s.slot + args.slot_offset, gdn_base_before(s.position + s.row_count));
  }
}

}  // namespace weir
