// Packed weights times the rows of a prompt: bound by the matrix units, and for few rows by reading the weights. Tiles,
// threads and synchronisation: ops/linear/prompt_tile.h. One block a multiprocessor; units that run at the same time
// share twelve tiles of tokens, so that what they read together stays in the second-level cache.
#include "ops/linear/prompt_tile.h"

namespace weir {
namespace {

inline constexpr int kTokenTilesTogether = 12;

template <bool kQuantised>
struct LinearWork {
  static constexpr bool kE4m3 = kQuantised;
  static constexpr bool kKnownBefore = true;
  static constexpr bool kCounted = false;
  static constexpr int kBeside = 0;
  const GpuPromptArgs& args;

  WEIR_DEVICE int count() const { return args.row_tiles * args.token_tiles; }
  WEIR_DEVICE PromptUnit unit(int i) const {
    const int group = i / (kTokenTilesTogether * args.row_tiles);
    const int together = min(kTokenTilesTogether, args.token_tiles - group * kTokenTilesTogether);
    const int rest = i - group * kTokenTilesTogether * args.row_tiles;
    const int row_tile = rest / together;
    PromptUnit unit;
    unit.index = 0;
    while (row_tile >= args.outputs[unit.index].tile_end) ++unit.index;
    const int before = unit.index > 0 ? args.outputs[unit.index - 1].tile_end : 0;
    unit.take(args.outputs[unit.index].weight, (row_tile - before) * args.strips, args.strips);
    if constexpr (kE4m3) {
      unit.x = reinterpret_cast<const uint16_t*>(args.x_e4m3);
    } else {
      unit.x = operand_type(unit.format) == kOperandF16 ? args.x_f16 : args.x_bf16;
    }
    unit.first = (group * kTokenTilesTogether + rest % together) * args.unit_rows;
    unit.rows = min(args.unit_rows, args.rows - unit.first);
    unit.columns = args.columns;
    unit.split = args.unit_rows > args.columns ? 1 : 0;
    return unit;
  }
  WEIR_DEVICE int64_t row(const PromptUnit& unit, int r) const { return unit.first + r; }
  WEIR_DEVICE int64_t x_stride() const { return kE4m3 ? args.x_stride / 2 : args.x_stride; }
  WEIR_DEVICE const float* x_scales() const { return args.x_scales; }
  WEIR_DEVICE int64_t scale_stride() const { return args.scale_stride; }

  // Row g + 8 h of a strip: eight lanes write 32 bytes that follow each other. What is there is read for all tokens
  // at once, so that the reads do not wait for each other. `tokens`: how many there are, unless there are all.
  template <int kSize, bool kAdd, bool kAll>
  WEIR_DEVICE static void write(float* y, int64_t stride, int tokens, int h, float scale,
                                const float (&total)[kSize / 2]) {
    constexpr int kTogether = kSize / 4;
#pragma unroll
    for (int first = 0; first < kSize / 4; first += kTogether) {
      float old[kTogether] = {};
      if constexpr (kAdd) {
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          const int token = 8 * ((first + i) / 2) + i % 2;
          if (kAll || token < tokens) old[i] = __ldcs(y + token * stride);
        }
      }
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int token = 8 * ((first + i) / 2) + i % 2;
        const float sum = total[4 * ((first + i) / 2) + 2 * h + i % 2] * scale;
        if (kAll || token < tokens) __stcs(y + token * stride, kAdd ? old[i] + sum : sum);
      }
    }
  }
  template <int kSize>
  WEIR_DEVICE void finish(const PromptUnit& unit, const PromptPart& part, const float (&total)[kSize / 2],
                          uint8_t*) const {
    const GpuPromptOutput& out = args.outputs[unit.index];
    const int n = part.strip * kStripRows + device::lane() / 4;
    const int t = device::lane() % 4;
    const int rows = unit.rows - part.row;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (n + 8 * h >= unit.n) return;
      const float scale = unit.row_scales != nullptr ? unit.row_scales[n + 8 * h] : 1.0F;
      float* y = out.y + static_cast<int64_t>(unit.first + part.row + 2 * t) * out.y_stride + n + 8 * h;
      const int tokens = rows - 2 * t;
      if (out.add == 0 && rows >= kSize) {
        write<kSize, false, true>(y, out.y_stride, tokens, h, scale, total);
      } else if (out.add == 0) {
        write<kSize, false, false>(y, out.y_stride, tokens, h, scale, total);
      } else if (rows >= kSize) {
        write<kSize, true, true>(y, out.y_stride, tokens, h, scale, total);
      } else {
        write<kSize, true, false>(y, out.y_stride, tokens, h, scale, total);
      }
    }
  }
};

}  // namespace

WEIR_KERNEL_BOUNDED(weir_linear_prompt, GpuPromptArgs, kPromptThreads, 1) {
  prompt_products(LinearWork<false>{args}, args.slots, args.weight_bytes);
}
WEIR_KERNEL_BOUNDED(weir_linear_prompt_e4m3, GpuPromptArgs, kPromptThreads, 1) {
  prompt_products(LinearWork<true>{args}, args.slots, args.weight_bytes);
}

}  // namespace weir
