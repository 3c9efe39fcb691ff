// Prefill is bound by multiply-adds, decode by reading the pages. Both products of a block run through chain_rows:
// scores with lanes over the 64 tokens (keys lie transposed), values with lanes over the head. Queries of all rows and
// of all heads that share a key head go through a block together.
#include "ops/attention/attention_kernels.h"

#include "ops/cpu/chain.h"
#include "ops/cpu/kernel_table.h"
#include "ops/cpu/vec_math.h"

namespace weir::WEIR_ISA {
namespace {

constexpr float kNothing = -__builtin_inff();

void norm_and_rotate(const AttentionPrepareRow& row, const float* x, const float* weight, float* y) {
  const int64_t e = row.head_dim;
  const float mean = sum_squares(x, e) / static_cast<float>(e);
  const Vec scale = splat(1.0F / __builtin_sqrtf(mean + row.eps));
  for (int64_t i = 0; i < e; i += kLanes) {
    const Vec w = add(splat(1.0F), load_tail(weight, i, e));
    store_tail(y, mul(mul(load_tail(x, i, e), scale), w), i, e);
  }
  const int64_t half = row.rope_half;
  for (int64_t i = 0; i < half; i += kLanes) {
    const Vec a = load_tail(y, i, half);
    const Vec b = load_tail(y + half, i, half);
    const Vec c = load_tail(row.cos, i, half);
    const Vec s = load_tail(row.sin, i, half);
    store_tail(y, sub(mul(a, c), mul(b, s)), i, half);
    store_tail(y + half, add(mul(b, c), mul(a, s)), i, half);
  }
}

// Scores of one unit and block become exponentials, those of tokens outside [hidden, valid) zero; the earlier output is
// brought to the new maximum.
void update_unit(const AttendSegment& s, int64_t unit, int64_t hidden, int64_t valid) {
  float* scores = s.scores + unit * kAttentionBlock;
  Vec v[4];
  for (int64_t t = 0; t < 4; ++t) {
    const int64_t left = valid - t * kLanes;
    v[t] = load(scores + t * kLanes);
    if (left < kLanes) v[t] = select_first(left > 0 ? left : 0, v[t], splat(kNothing));
    const int64_t lead = hidden - t * kLanes;
    if (lead > 0) v[t] = select_first(lead < kLanes ? lead : kLanes, splat(kNothing), v[t]);
  }
  const float block_max = max_lanes(maximum(maximum(v[0], v[1]), maximum(v[2], v[3])));
  const float old_max = s.state.max[unit];
  const float new_max = old_max > block_max ? old_max : block_max;
  const Vec fade = exp(splat(old_max - new_max));
  for (int64_t t = 0; t < 4; ++t) {
    v[t] = exp(sub(v[t], splat(new_max)));
    store(scores + t * kLanes, v[t]);
  }
  float* sum = s.state.sum + unit * kLanes;
  store(sum, fma(load(sum), fade, add(add(v[0], v[1]), add(v[2], v[3]))));
  float* out = s.state.out + unit * s.value_stride;
  for (int64_t i = 0; i < s.value_stride; i += kLanes) store(out + i, mul(load(out + i), fade));
  s.state.max[unit] = new_max;
}

// Keys and values of a page of FP8 as they stand in one of float32.
void expand(const AttendSegment& s, const std::byte* page) {
  const int64_t key_rows = (s.head_dim + 3) / 4 * 4;
  const auto* steps = reinterpret_cast<const float*>(page + (key_rows + s.value_stride) * kAttentionBlock);
  Vec key_steps[kAttentionBlock / kLanes];
  for (int64_t t = 0; t < kAttentionBlock / kLanes; ++t) key_steps[t] = load(steps + t * kLanes);
  Vec w[4];
  for (int64_t e = 0; e < key_rows; e += 4) {
    for (int64_t t = 0; t < kAttentionBlock / kLanes; ++t, page += 4 * kLanes) {
      decode_fp8(page, w);
      for (int64_t j = 0; j < 4; ++j) {
        store(s.expanded + (e + j) * kAttentionBlock + t * kLanes, mul(w[j], key_steps[t]));
      }
    }
  }
  float* values = s.expanded + key_rows * kAttentionBlock;
  for (int64_t t = 0; t < kAttentionBlock; t += 4) {
    for (int64_t i = 0; i < s.value_stride; i += kLanes, page += 4 * kLanes) {
      decode_fp8(page, w);
      for (int64_t j = 0; j < 4; ++j) {
        store(values + (t + j) * s.value_stride + i, mul(w[j], splat(steps[kAttentionBlock + t + j])));
      }
    }
  }
}

void attend_block(const AttendSegment& s, int64_t block) {
  const int64_t start = block * kAttentionBlock;
  const auto* page = reinterpret_cast<const float*>(s.pages[block] + s.page_offset);
  const float* values = page + s.head_dim * kAttentionBlock;
  if (s.expanded != nullptr) {
    expand(s, s.pages[block] + s.page_offset);
    page = s.expanded;
    values = page + (s.head_dim + 3) / 4 * 4 * kAttentionBlock;
  }
  const int64_t first_row = start > s.position ? start - s.position : 0;  // the first row that sees the block
  const int64_t first = first_row * s.group;
  const int64_t units = s.rows * s.group;
  chain_rows<Start::kZero>(s.rows_of_a + first, units - first, page, kAttentionBlock, kAttentionBlock / kLanes,
                           s.head_dim, s.scores + first * kAttentionBlock, kAttentionBlock);
  // Only the visible values: what lies before and behind them in the page may be anything.
  const int64_t hidden = s.first > start ? s.first - start : 0;
  values += hidden * s.value_stride;
  const float** weights = s.rows_of_a + units;
  const int64_t vectors = s.value_stride / kLanes;
  int64_t full = units;  // the first unit that sees all of the block
  for (int64_t unit = first; unit < units; ++unit) {
    const int64_t visible = s.position + unit / s.group - start + 1;
    const int64_t valid = visible < kAttentionBlock ? visible : kAttentionBlock;
    update_unit(s, unit, hidden, valid);
    weights[unit] = s.scores + unit * kAttentionBlock + hidden;
    if (valid < kAttentionBlock) {
      chain_rows<Start::kC>(weights + unit, 1, values, s.value_stride, vectors, valid - hidden,
                            s.state.out + unit * s.value_stride, s.value_stride);
    } else if (full == units) {
      full = unit;
    }
  }
  chain_rows<Start::kC>(weights + full, units - full, values, s.value_stride, vectors, kAttentionBlock - hidden,
                        s.state.out + full * s.value_stride, s.value_stride);
}

}  // namespace

void attention_prepare_row(const AttentionPrepareRow& row) {
  const int64_t e = row.head_dim;
  for (int64_t h = 0; h < row.heads; ++h) {
    float* q = row.q + h * e;
    norm_and_rotate(row, row.qg + h * 2 * e, row.q_norm, q);
    for (int64_t i = 0; i < e; i += kLanes) store_tail(q, mul(load_tail(q, i, e), splat(row.scale)), i, e);
  }
  const int64_t head_floats = (e + row.value_stride) * kAttentionBlock;
  if (row.page == nullptr) {
    for (int64_t h = 0; h < row.kv_heads; ++h) norm_and_rotate(row, row.k + h * e, row.k_norm, row.temp + h * e);
    return;
  }
  for (int64_t h = 0; h < row.kv_heads; ++h) {
    norm_and_rotate(row, row.k + h * e, row.k_norm, row.temp);
    float* keys = row.page + h * head_floats;
    for (int64_t i = 0; i < e; ++i) keys[i * kAttentionBlock + row.column] = row.temp[i];
    float* values = keys + e * kAttentionBlock + row.column * row.value_stride;
    for (int64_t i = 0; i < e; i += kLanes) store(values + i, load_tail(row.v + h * e, i, e));
  }
}

void attend_segment(const AttendSegment& s) {
  const int64_t units = s.rows * s.group;
  for (int64_t unit = 0; unit < units; ++unit) {
    s.rows_of_a[unit] = s.q + unit / s.group * s.q_stride + unit % s.group * s.head_dim;
    s.state.max[unit] = kNothing;
    store(s.state.sum + unit * kLanes, zero());
    for (int64_t i = 0; i < s.value_stride; i += kLanes) store(s.state.out + unit * s.value_stride + i, zero());
  }
  const int64_t last = s.position + s.rows;
  const int64_t end = last < s.token_end ? last : s.token_end;
  for (int64_t token = s.token_begin; token < end; token += kAttentionBlock) attend_block(s, token / kAttentionBlock);
}

void attend_merge(const AttendMerge& merge) {
  for (int64_t unit = 0; unit < merge.units; ++unit) {
    const float later = merge.from.max[unit];
    if (later == kNothing) continue;
    const float earlier = merge.into.max[unit];
    const float both = earlier > later ? earlier : later;
    const Vec a = exp(splat(earlier - both));
    const Vec b = exp(splat(later - both));
    merge.into.max[unit] = both;
    float* sum = merge.into.sum + unit * kLanes;
    store(sum, fma(load(merge.from.sum + unit * kLanes), b, mul(load(sum), a)));
    float* out = merge.into.out + unit * merge.value_stride;
    const float* from = merge.from.out + unit * merge.value_stride;
    for (int64_t i = 0; i < merge.value_stride; i += kLanes) {
      store(out + i, fma(load(from + i), b, mul(load(out + i), a)));
    }
  }
}

void attend_finish(const AttendFinish& f) {
  const int64_t e = f.head_dim;
  for (int64_t unit = 0; unit < f.rows * f.group; ++unit) {
    const int64_t row = unit / f.group;
    const int64_t head = unit % f.group;
    const Vec inverse = splat(1.0F / sum_lanes(load(f.state.sum + unit * kLanes)));
    const float* out = f.state.out + unit * f.value_stride;
    const float* gate = f.gate + row * f.gate_stride + head * 2 * e;
    float* y = f.y + row * f.y_stride + head * e;
    for (int64_t i = 0; i < e; i += kLanes) {
      store_tail(y, mul(mul(load(out + i), inverse), sigmoid(load_tail(gate, i, e))), i, e);
    }
  }
}

}  // namespace weir::WEIR_ISA
