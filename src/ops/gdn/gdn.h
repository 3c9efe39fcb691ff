// The Gated DeltaNet mixer between its projections: causal convolution, gates, delta rule, gated norm. One operation,
// because every part is independent per key head.
//
// The slot of one (sequence, layer) holds the float32 state at a multiple of 64 tokens (its base), a ring of the rows
// since then (normalised keys, updates, cumulative log decay) and the last raw inputs of the convolution. The output of
// row i of a 64-token chunk is computed from the base state S and rows j of the ring, in ascending j:
//   delta_i = beta_i (v_i - e^G_i S^T k_i - sum_{j<i} e^(G_i - G_j) (k_j . k_i) delta_j)
//   o_i     = e^G_i S^T q_i + sum_{j<=i} e^(G_i - G_j) (q_i . k_j) delta_j
// The state moves to the next multiple of 64 when the first row behind it is computed (S <- e^G_63 S + sum_j e^(G_63 -
// G_j) k_j delta_j^T), so taking back up to kGdnRollbackMax rows that do not cross a multiple of 64 only means to
// continue at an earlier position.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/cpu/cpu.h"
#include "tensor/dtype.h"

namespace weir {

inline constexpr int64_t kGdnChunk = 64;
inline constexpr int64_t kGdnConvWidth = 4;
inline constexpr int64_t kGdnInputRing = 16;  // raw rows kept: 3 of the convolution's window, the rest for rollback
inline constexpr int64_t kGdnRollbackMax = kGdnInputRing - (kGdnConvWidth - 1);

struct GdnShape {
  int64_t key_heads = 0;    // nk
  int64_t value_heads = 0;  // nv, a multiple of nk: value head j belongs to key head j / (nv / nk)
  int64_t key_dim = 0;      // dk: width of a key head
  int64_t value_dim = 0;    // dv: width of a value head
  float norm_eps = 1e-6F;   // of the gated norm

  int64_t channels() const { return 2 * key_heads * key_dim + value_heads * value_dim; }  // C: q, k, v heads
  int64_t values() const { return value_heads * value_dim; }
};

// Small parameters of one layer, made once at load.
struct GdnParameters {
  GdnShape shape;
  std::vector<float> conv;     // [4][C]: the kernel, tap-major
  std::vector<float> decay;    // [nv]: -exp(A_log)
  std::vector<float> dt_bias;  // [nv]
  std::vector<float> norm;     // [dv], plain weight
};

// conv: [C * 4] as stored (channel-major, the last tap multiplies the current row). Programmer error: wrong sizes.
GdnParameters make_gdn_parameters(const GdnShape& shape, VectorView conv, VectorView a_log, VectorView dt_bias,
                                  VectorView norm);

// Bytes of one layer's slot, a multiple of 64:
// 64 + 4 * (nv dk dv + nk dk 64 + nv 64 (dv + 1) + 16 C), the last terms rounded up.
int64_t gdn_slot_bytes(const GdnShape& shape);
// The slot of a sequence at token 0.
void gdn_zero_slot(const GdnShape& shape, std::byte* slot);
// The multiple of 64 at which the slot's state stands. Rows may continue at positions in [base, base + 64].
int64_t gdn_slot_base(const std::byte* slot);

// Rows [row_begin, row_begin + row_count) of the step are tokens [position, ...) of the sequence whose slot this is.
struct GdnSequence {
  int64_t row_begin = 0;
  int64_t row_count = 0;
  int64_t position = 0;
  std::byte* slot = nullptr;  // base of the sequence's slot, aligned to 64
};

struct GdnArgs {
  const GdnParameters* parameters = nullptr;
  const float* u = nullptr;  // [T, C]: in_proj_qkv(x)
  int64_t u_stride = 0;
  const float* z = nullptr;  // [T, nv * dv]
  int64_t z_stride = 0;
  const float* b = nullptr;  // [T, nv]
  int64_t b_stride = 0;
  const float* a = nullptr;  // [T, nv]
  int64_t a_stride = 0;
  std::span<const GdnSequence> sequences;
  int64_t slot_offset = 0;  // bytes from a slot's base to this layer's part, a multiple of 64
  float* y = nullptr;       // [T, nv * dv]: norm(o) * SiLU(z), the input of out_proj
  int64_t y_stride = 0;
};

// One parallel region over (sequence, key head). Programmer error: a position outside [base, base + 64].
void gdn(Cpu& cpu, const GdnArgs& args);

int64_t gdn_scratch_bytes(const GdnShape& shape, int threads);

}  // namespace weir
