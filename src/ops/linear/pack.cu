// Weights from their stored rows to the order of ops/linear/packed.h: a block per strip, a warp per tile. Runs once per
// load; bound by the copy that brings the rows.
#include "device/kernel.h"
#include "ops/linear/linear_packed_args.h"
#include "ops/linear/mxfp4_word.h"

namespace weir {
namespace {

// A row of the strip in its stored form; null behind the last.
struct Source {
  const uint8_t* row = nullptr;
  const uint8_t* scales = nullptr;  // MXFP4: of the row
};

WEIR_DEVICE Source source_of(const GpuPackArgs& args, int row) {
  const int strip = static_cast<int>(blockIdx.x);
  const bool second = args.interleaved != 0 && row >= kStripRows / 2;
  const GpuMatrix& from = second ? args.second : args.source;
  const int64_t n =
      args.interleaved != 0 ? strip * (kStripRows / 2) + row % (kStripRows / 2) : strip * kStripRows + row;
  Source out;
  if (n >= from.n) return out;
  out.row = from.data + n * from.row_bytes;
  if (from.format == kGpuMxfp4) out.scales = from.scales + n * from.scale_stride;
  return out;
}

WEIR_DEVICE uint32_t bf16_pair(const Source& s, int64_t k) {
  return s.row == nullptr ? 0 : *reinterpret_cast<const uint32_t*>(s.row + 2 * k);
}
// Codes k, k + 1, k + 8 and k + 9.
WEIR_DEVICE uint32_t fp8_word(const Source& s, int64_t k) {
  if (s.row == nullptr) return 0;
  const uint32_t low = *reinterpret_cast<const uint16_t*>(s.row + k);
  const uint32_t high = *reinterpret_cast<const uint16_t*>(s.row + k + 8);
  return low | high << 16;
}
// Codes k and k + 1 as what a packed word has of register i.
WEIR_DEVICE uint32_t fp4_pair(const Source& s, int64_t k, int i) {
  if (s.row == nullptr) return 0;
  const uint32_t pair = s.row[k / 2];
  return mxfp4_bits(pair & 15U, pair >> 4, i);
}

WEIR_DEVICE void pack_tile(const GpuPackArgs& args, int tile, uint8_t* to) {
  const int lane = device::lane();
  const int g = lane / 4;
  const int t = lane % 4;
  const Source low = source_of(args, g);
  const Source high = source_of(args, g + 8);
  auto* words = reinterpret_cast<uint32_t*>(to);
  for (int j = 0; j < 4; ++j) {
    const int64_t k = int64_t{tile} * kTileK + 16 * j + 2 * t;
    if (args.target.format == kGpuBf16) {
      uint32_t* a = words + (j * device::kWarp + lane) * 4;
      a[0] = bf16_pair(low, k);
      a[1] = bf16_pair(high, k);
      a[2] = bf16_pair(low, k + 8);
      a[3] = bf16_pair(high, k + 8);
    } else if (args.target.format == kGpuMxfp4) {
      words[lane * 4 + j] =
          fp4_pair(low, k, 0) | fp4_pair(high, k, 1) | fp4_pair(low, k + 8, 2) | fp4_pair(high, k + 8, 3);
    } else {
      words[lane * 4 + j] = fp8_word(low, k);
      words[(device::kWarp + lane) * 4 + j] = fp8_word(high, k);
    }
  }
  if (args.target.format == kGpuMxfp4) {
    // Byte t of group g: rows g, g, g + 8, g + 8; k 0, 32, 0, 32.
    const Source& of = t < 2 ? low : high;
    to[512 + lane] = of.scales == nullptr ? 0 : of.scales[tile * 2 + t % 2];
  }
}

WEIR_DEVICE void pack_scales(const GpuPackArgs& args) {
  const int strip = static_cast<int>(blockIdx.x);
  const int thread = static_cast<int>(threadIdx.x);
  const int blocks = (args.target.tiles + 1) / 2;
  const auto stored_row = [&](int row) {
    return static_cast<int64_t>(args.interleaved != 0 ? strip * (kStripRows / 2) + row % (kStripRows / 2)
                                                      : strip * kStripRows + row);
  };
  const auto matrix = [&](int row) -> const GpuMatrix& {
    return args.interleaved != 0 && row >= kStripRows / 2 ? args.second : args.source;
  };
  if (args.target.format == kGpuFp8Block) {
    auto* scales = const_cast<float*>(args.target.scales) + int64_t{strip} * blocks * 2;
    for (int i = thread; i < blocks * 2; i += static_cast<int>(blockDim.x)) {
      const int row = i % 2 * 8;
      const GpuMatrix& m = matrix(row);
      const int64_t n = stored_row(row);
      scales[i] = n < m.n ? reinterpret_cast<const float*>(m.scales)[n / 128 * m.scale_stride + i / 2] : 0.0F;
    }
  } else if (args.target.format == kGpuFp8Row && thread < kStripRows) {
    const GpuMatrix& m = matrix(thread);
    const int64_t n = stored_row(thread);
    const_cast<float*>(args.target.row_scales)[strip * kStripRows + thread] =
        n < m.n ? reinterpret_cast<const float*>(m.scales)[n * m.scale_stride] : 0.0F;
  }
}

}  // namespace

WEIR_KERNEL(weir_pack, GpuPackArgs) {
  const int tile_bytes = packed_tile_bytes(args.target.format);
  uint8_t* strip = const_cast<uint8_t*>(args.target.data) + int64_t{blockIdx.x} * args.target.tiles * tile_bytes;
  for (int tile = device::warp(); tile < args.target.tiles; tile += static_cast<int>(blockDim.x) / device::kWarp) {
    pack_tile(args, tile, strip + int64_t{tile} * tile_bytes);
  }
  pack_scales(args);
}

}  // namespace weir
