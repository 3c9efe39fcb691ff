#pragma once

#include <cstdint>

namespace weir {

inline constexpr int64_t kGdnRows = 64;  // rows of a chunk

// One key head of one sequence with its value heads: all its rows of the step.
struct GdnHead {
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  int64_t value_stride = 0;  // value_dim rounded up to 16: rows of the state and of the ring
  int64_t value_heads = 0;   // of this key head
  int64_t rows = 0;
  int64_t position = 0;  // of the first row
  int64_t base = 0;      // of the slot, in [position - 64, position]
  float norm_eps = 0;

  // Inputs at the sequence's first row; `channels` is the width of the convolution, *_channel this head's columns of
  // it.
  const float* u = nullptr;
  int64_t u_stride = 0;
  int64_t channels = 0;
  int64_t q_channel = 0;
  int64_t k_channel = 0;
  int64_t v_channel = 0;
  const float* conv = nullptr;  // [4][channels]
  // At this head's first value head.
  const float* z = nullptr;
  int64_t z_stride = 0;
  const float* b = nullptr;
  int64_t b_stride = 0;
  const float* a = nullptr;
  int64_t a_stride = 0;
  const float* decay = nullptr;
  const float* dt_bias = nullptr;
  const float* norm = nullptr;  // [value_dim]

  // The slot's parts of this head.
  float* state = nullptr;      // [value_heads][key_dim][value_stride]
  float* keys = nullptr;       // [key_dim][64], transposed
  float* update = nullptr;     // [value_heads][64][value_stride]
  float* log_decay = nullptr;  // [value_heads][64], cumulative since the base
  float* inputs = nullptr;     // [16][channels], the row of token t at t % 16

  float* y = nullptr;  // at this head's first value head
  int64_t y_stride = 0;
  float* scratch = nullptr;  // gdn_scratch_floats
};

// Scratch of one task in floats: q, k [64][dk]; v [64][dv] per value head; two [64][64] products; two [64][64]
// coefficient tables; S^T k and S^T q [128][dv]; gates [64] x 3 per value head; [dk][64] weighted keys; row pointers.
constexpr int64_t gdn_scratch_floats(int64_t key_dim, int64_t value_stride, int64_t value_heads) {
  const int64_t pointers = 2 * (key_dim > 2 * kGdnRows ? key_dim : 2 * kGdnRows);
  return 2 * kGdnRows * key_dim + value_heads * kGdnRows * value_stride + 4 * kGdnRows * kGdnRows +
         2 * kGdnRows * value_stride + 3 * value_heads * kGdnRows + key_dim * kGdnRows + pointers + 16;
}

}  // namespace weir
