// Prefill is bound by multiply-adds, decode by reading the state once. A chunk's rows go through the same chains one at
// a time or sixty-four at once: products with the base state and with the ring run over register tiles of rows, and the
// triangular part (row j of the ring on row i > j) runs as tiles for the rows before a group of up to six and one by
// one inside the group, in ascending j either way.
#include "ops/gdn/gdn_kernels.h"

#include "ops/cpu/chain.h"
#include "ops/cpu/kernel_table.h"
#include "ops/cpu/vec_math.h"

namespace weir::WEIR_ISA {
namespace {

constexpr float kL2Eps = 1e-6F;  // inside the square root of the query and key norms
constexpr int64_t kInputs = 16;  // rows of the input ring
constexpr int64_t kTaps = 4;

// The chunk in flight: rows [done, done + rows) of the call are rows [first, first + rows) of the 64-token chunk.
struct Chunk {
  int64_t done;
  int64_t first;
  int64_t rows;
};

struct Scratch {
  float* q;
  float* k;
  float* v;           // [value_heads][64][value_stride]
  float* kk;          // [64][64]: k_i . k_j
  float* qk;          // [64][64]: q_i . k_j
  float* minus_a;     // [64][64]: -e^(G_i - G_j) k_i . k_j
  float* b;           // [64][64]: e^(G_i - G_j) q_i . k_j
  float* from_state;  // [2][64][value_stride]: S^T k_i, then S^T q_i
  float* beta;        // [value_heads][64]
  float* decay;       // [value_heads][64]
  float* fade;        // [64]: e^G_i
  float* weighted;    // [dk][64]
  const float** rows;

  Scratch(const GdnHead& h) {
    float* p = h.scratch;
    const auto take = [&p](int64_t n) {
      float* part = p;
      p += n;
      return part;
    };
    rows = reinterpret_cast<const float**>(take(2 * (h.key_dim > 2 * kGdnRows ? h.key_dim : 2 * kGdnRows)));
    q = take(kGdnRows * h.key_dim);
    k = take(kGdnRows * h.key_dim);
    v = take(h.value_heads * kGdnRows * h.value_stride);
    kk = take(kGdnRows * kGdnRows);
    qk = take(kGdnRows * kGdnRows);
    minus_a = take(kGdnRows * kGdnRows);
    b = take(kGdnRows * kGdnRows);
    from_state = take(2 * kGdnRows * h.value_stride);
    beta = take(h.value_heads * kGdnRows);
    decay = take(h.value_heads * kGdnRows);
    fade = take(kGdnRows);
    weighted = take(h.key_dim * kGdnRows);
  }
};

// The raw input row of the call's row `row` (negative: before the call), or null before the sequence's first token.
WEIR_VEC const float* input_row(const GdnHead& h, int64_t row) {
  if (row >= 0) return h.u + row * h.u_stride;
  const int64_t token = h.position + row;
  return token < 0 ? nullptr : h.inputs + token % kInputs * h.channels;
}

// SiLU of the convolution for `count` channels of one row; taps in ascending order, those before token 0 left out.
void convolve(const GdnHead& h, int64_t row, int64_t channel, int64_t count, float* out) {
  const float* x[kTaps];
  for (int64_t tap = 0; tap < kTaps; ++tap) x[tap] = input_row(h, row - (kTaps - 1) + tap);
  for (int64_t i = 0; i < count; i += kLanes) {
    Vec sum = zero();
    for (int64_t tap = 0; tap < kTaps; ++tap) {
      if (x[tap] == nullptr) continue;
      const Vec w = load_tail(h.conv + tap * h.channels + channel, i, count);
      sum = fma(w, load_tail(x[tap] + channel, i, count), sum);
    }
    store_tail(out, silu(sum), i, count);
  }
}

void scale_row(float* x, int64_t n, float first, float second) {
  for (int64_t i = 0; i < n; i += kLanes) {
    store_tail(x, mul(mul(load_tail(x, i, n), splat(first)), splat(second)), i, n);
  }
}

void make_rows(const GdnHead& h, const Scratch& s, const Chunk& chunk) {
  const float q_scale = 1.0F / __builtin_sqrtf(static_cast<float>(h.key_dim));
  for (int64_t r = 0; r < chunk.rows; ++r) {
    float* q = s.q + r * h.key_dim;
    float* k = s.k + r * h.key_dim;
    convolve(h, chunk.done + r, h.q_channel, h.key_dim, q);
    convolve(h, chunk.done + r, h.k_channel, h.key_dim, k);
    scale_row(q, h.key_dim, 1.0F / __builtin_sqrtf(sum_squares(q, h.key_dim) + kL2Eps), q_scale);
    scale_row(k, h.key_dim, 1.0F / __builtin_sqrtf(sum_squares(k, h.key_dim) + kL2Eps), 1.0F);
    for (int64_t j = 0; j < h.value_heads; ++j) {
      float* v = s.v + (j * kGdnRows + r) * h.value_stride;
      store(v + h.value_stride - kLanes, zero());
      convolve(h, chunk.done + r, h.v_channel + j * h.value_dim, h.value_dim, v);
    }
  }
  for (int64_t d = 0; d < h.key_dim; ++d) {
    for (int64_t r = 0; r < chunk.rows; ++r) h.keys[d * kGdnRows + chunk.first + r] = s.k[r * h.key_dim + d];
  }
}

// beta = sigmoid(b); log decay = -e^A softplus(a + dt), summed up since the base.
void make_gates(const GdnHead& h, const Scratch& s, const Chunk& chunk) {
  for (int64_t j = 0; j < h.value_heads; ++j) {
    float* beta = s.beta + j * kGdnRows;
    float* decay = s.decay + j * kGdnRows;
    for (int64_t r = 0; r < chunk.rows; ++r) {
      beta[r] = h.b[(chunk.done + r) * h.b_stride + j];
      decay[r] = h.a[(chunk.done + r) * h.a_stride + j] + h.dt_bias[j];
    }
    for (int64_t r = 0; r < chunk.rows; r += kLanes) {
      store_tail(beta, sigmoid(load_tail(beta, r, chunk.rows)), r, chunk.rows);
      store_tail(decay, mul(splat(h.decay[j]), softplus(load_tail(decay, r, chunk.rows))), r, chunk.rows);
    }
    float* total = h.log_decay + j * kGdnRows;
    for (int64_t r = 0; r < chunk.rows; ++r) {
      const int64_t i = chunk.first + r;
      total[i] = (i == 0 ? 0.0F : total[i - 1]) + decay[r];
    }
  }
}

// k_i . k_j and q_i . k_j for all j of the ring; columns j > i are never used.
void make_products(const GdnHead& h, const Scratch& s, const Chunk& chunk) {
  const int64_t vectors = (chunk.first + chunk.rows + kLanes - 1) / kLanes;
  for (int64_t r = 0; r < chunk.rows; ++r) {
    s.rows[r] = s.k + r * h.key_dim;
    s.rows[chunk.rows + r] = s.q + r * h.key_dim;
  }
  if (chunk.rows == 1) {  // one pass over the keys
    chain_rows<Start::kZero>(s.rows, 2, h.keys, kGdnRows, vectors, h.key_dim, s.kk, s.qk - s.kk);
    return;
  }
  chain_rows<Start::kZero>(s.rows, chunk.rows, h.keys, kGdnRows, vectors, h.key_dim, s.kk, kGdnRows);
  chain_rows<Start::kZero>(s.rows + chunk.rows, chunk.rows, h.keys, kGdnRows, vectors, h.key_dim, s.qk, kGdnRows);
}

void make_coefficients(const GdnHead& h, const Scratch& s, const Chunk& chunk, int64_t j) {
  const float* total = h.log_decay + j * kGdnRows;
  for (int64_t r = 0; r < chunk.rows; ++r) {
    const int64_t i = chunk.first + r;
    const Vec here = splat(total[i]);
    for (int64_t t = 0; t <= i; t += kLanes) {
      const Vec e = exp(sub(here, load(total + t)));
      store(s.minus_a + r * kGdnRows + t, sub(zero(), mul(e, load(s.kk + r * kGdnRows + t))));
      store(s.b + r * kGdnRows + t, mul(e, load(s.qk + r * kGdnRows + t)));
    }
  }
  for (int64_t r = 0; r < chunk.rows; r += kLanes) {
    store_tail(s.fade, exp(load_tail(total + chunk.first, r, chunk.rows)), r, chunk.rows);
  }
}

// The rest of delta_rule for a single row: its update and its output go through the ring in one pass. The chains are
// those of the tiles.
void delta_row(const GdnHead& h, const Scratch& s, const Chunk& chunk, int64_t j) {
  const int64_t stride = h.value_stride;
  float* update = h.update + j * kGdnRows * stride;
  float* own = update + chunk.first * stride;
  float* sum = s.from_state;
  float* out = s.from_state + stride;
  const Vec beta = splat(s.beta[j * kGdnRows]);
  const Vec b = splat(s.b[chunk.first]);
  const float* coefficients[2] = {s.minus_a, s.b};
  for (int64_t c = 0; c < stride; c += kLanes) store(sum + c, load(own + c));
  chain_rows<Start::kC>(coefficients, 2, update, stride, stride / kLanes, chunk.first, sum, stride);
  for (int64_t c = 0; c < stride; c += kLanes) {
    const Vec delta = mul(beta, load(sum + c));
    store(own + c, delta);
    store(out + c, fma(b, delta, load(out + c)));
  }
}

// The ring's updates of the chunk's rows, and the outputs in from_state's second half.
void delta_rule(const GdnHead& h, const Scratch& s, const Chunk& chunk, int64_t j) {
  const int64_t stride = h.value_stride;
  const int64_t vectors = stride / kLanes;
  const float* state = h.state + j * h.key_dim * stride;
  float* update = h.update + j * kGdnRows * stride;
  float* out = s.from_state + chunk.rows * stride;
  chain_rows<Start::kZero>(s.rows, 2 * chunk.rows, state, stride, vectors, h.key_dim, s.from_state, stride);
  for (int64_t r = 0; r < chunk.rows; ++r) {
    const Vec fade = splat(s.fade[r]);
    const float* v = s.v + (j * kGdnRows + r) * stride;
    float* delta = update + (chunk.first + r) * stride;
    for (int64_t c = 0; c < stride; c += kLanes) {
      store(delta + c, fma(sub(zero(), fade), load(s.from_state + r * stride + c), load(v + c)));
      store(out + r * stride + c, mul(fade, load(out + r * stride + c)));
    }
  }
  if (chunk.rows == 1) return delta_row(h, s, chunk, j);
  const float* a_rows[kTileRowsMax];
  const float* b_rows[kTileRowsMax];
  for (int64_t r = 0; r < chunk.rows;) {
    const int group = next_rows(chunk.rows - r);
    const int64_t before = chunk.first + r;
    for (int g = 0; g < group; ++g) {
      a_rows[g] = s.minus_a + (r + g) * kGdnRows;
      b_rows[g] = s.b + (r + g) * kGdnRows;
    }
    chain_rows<Start::kC>(a_rows, group, update, stride, vectors, before, update + before * stride, stride);
    for (int g = 0; g < group; ++g) {
      float* delta = update + (before + g) * stride;
      const float* a = a_rows[g] + before;
      chain_rows<Start::kC>(&a, 1, update + before * stride, stride, vectors, g, delta, stride);
      const Vec beta = splat(s.beta[j * kGdnRows + r + g]);
      for (int64_t c = 0; c < stride; c += kLanes) store(delta + c, mul(beta, load(delta + c)));
    }
    chain_rows<Start::kC>(b_rows, group, update, stride, vectors, before, out + r * stride, stride);
    for (int g = 0; g < group; ++g) {
      const float* b = b_rows[g] + before;
      chain_rows<Start::kC>(&b, 1, update + before * stride, stride, vectors, g + 1, out + (r + g) * stride, stride);
    }
    r += group;
  }
}

void gated_norm(const GdnHead& h, const Scratch& s, const Chunk& chunk, int64_t j) {
  const int64_t n = h.value_dim;
  const float* out = s.from_state + chunk.rows * h.value_stride;
  for (int64_t r = 0; r < chunk.rows; ++r) {
    const float* o = out + r * h.value_stride;
    const float* z = h.z + (chunk.done + r) * h.z_stride + j * n;
    float* y = h.y + (chunk.done + r) * h.y_stride + j * n;
    const float mean = sum_squares(o, n) / static_cast<float>(n);
    const Vec scale = splat(1.0F / __builtin_sqrtf(mean + h.norm_eps));
    for (int64_t i = 0; i < n; i += kLanes) {
      const Vec normed = mul(mul(load_tail(o, i, n), scale), load_tail(h.norm, i, n));
      store_tail(y, mul(normed, silu(load_tail(z, i, n))), i, n);
    }
  }
}

// S <- e^G_63 S + sum_j e^(G_63 - G_j) k_j delta_j^T.
void fold(const GdnHead& h, const Scratch& s) {
  for (int64_t j = 0; j < h.value_heads; ++j) {
    const float* total = h.log_decay + j * kGdnRows;
    const Vec last = splat(total[kGdnRows - 1]);
    Vec weight[kGdnRows / kLanes];
    for (int64_t t = 0; t < kGdnRows / kLanes; ++t) weight[t] = exp(sub(last, load(total + t * kLanes)));
    for (int64_t d = 0; d < h.key_dim; ++d) {
      s.rows[d] = s.weighted + d * kGdnRows;
      for (int64_t t = 0; t < kGdnRows / kLanes; ++t) {
        const int64_t at = d * kGdnRows + t * kLanes;
        store(s.weighted + at, mul(weight[t], load(h.keys + at)));
      }
    }
    float* state = h.state + j * h.key_dim * h.value_stride;
    const Vec fade = exp(last);
    for (int64_t i = 0; i < h.key_dim * h.value_stride; i += kLanes) store(state + i, mul(fade, load(state + i)));
    chain_rows<Start::kC>(s.rows, h.key_dim, h.update + j * kGdnRows * h.value_stride, h.value_stride,
                          h.value_stride / kLanes, kGdnRows, state, h.value_stride);
  }
}

// The last raw rows of this head's channels go to the ring.
void keep_inputs(const GdnHead& h) {
  const int64_t first = h.rows > kInputs ? h.rows - kInputs : 0;
  const auto copy = [](float* to, const float* from, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) store_tail(to, load_tail(from, i, n), i, n);
  };
  for (int64_t r = first; r < h.rows; ++r) {
    const float* from = h.u + r * h.u_stride;
    float* to = h.inputs + (h.position + r) % kInputs * h.channels;
    copy(to + h.q_channel, from + h.q_channel, h.key_dim);
    copy(to + h.k_channel, from + h.k_channel, h.key_dim);
    copy(to + h.v_channel, from + h.v_channel, h.value_heads * h.value_dim);
  }
}

}  // namespace

void gdn_head(const GdnHead& h) {
  const Scratch s(h);
  int64_t base = h.base;
  Chunk chunk{0, 0, 0};
  while (chunk.done < h.rows) {
    const int64_t position = h.position + chunk.done;
    if (position - base == kGdnRows) {
      fold(h, s);
      base = position;
    }
    chunk.first = position - base;
    const int64_t room = kGdnRows - chunk.first;
    chunk.rows = h.rows - chunk.done < room ? h.rows - chunk.done : room;
    make_rows(h, s, chunk);
    make_gates(h, s, chunk);
    make_products(h, s, chunk);
    for (int64_t j = 0; j < h.value_heads; ++j) {
      make_coefficients(h, s, chunk, j);
      delta_rule(h, s, chunk, j);
      gated_norm(h, s, chunk, j);
    }
    chunk.done += chunk.rows;
  }
  keep_inputs(h);
}

}  // namespace weir::WEIR_ISA
