#include "ops/reference.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "tensor/bf16.h"
#include "tensor/fp8.h"
#include "tensor/mxfp4.h"

namespace weir::reference {
namespace {

template <class T>
T read(const std::byte* p, int64_t index) {
  T value{};
  std::memcpy(&value, p + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

double scale(const WeightMatrix& w, int64_t index) {
  if (w.scale_dtype == DType::kU8) return static_cast<double>(e8m0_to_float(read<uint8_t>(w.scales, index)));
  if (w.scale_dtype == DType::kF32) return static_cast<double>(read<float>(w.scales, index));
  return static_cast<double>(bf16_to_float(read<uint16_t>(w.scales, index)));
}

double value(const WeightMatrix& w, int64_t n, int64_t k) {
  const std::byte* row = w.data + n * w.row_bytes;
  switch (w.format) {
    case WeightFormat::kF32:
      return static_cast<double>(read<float>(row, k));
    case WeightFormat::kBf16:
      return static_cast<double>(bf16_to_float(read<uint16_t>(row, k)));
    case WeightFormat::kFp8Block:
      return static_cast<double>(fp8_e4m3_to_float(read<uint8_t>(row, k))) *
             scale(w, n / kFp8Block * w.scale_stride + k / kFp8Block);
    case WeightFormat::kFp8Row:
      return static_cast<double>(fp8_e4m3_to_float(read<uint8_t>(row, k))) * scale(w, n * w.scale_stride);
    case WeightFormat::kMxfp4: {
      const auto pair = read<uint8_t>(row, k / 2);
      const auto code = static_cast<uint8_t>(k % 2 == 0 ? pair & 15 : pair >> 4);
      return static_cast<double>(e2m1_to_float(code)) * scale(w, n * w.scale_stride + k / kMxfp4Group);
    }
  }
  return 0;
}

double dot(const double* a, const double* b, int64_t n) {
  return std::inner_product(a, a + n, b, 0.0);
}

// Normalised and rotated head of one row.
Row head(const AttentionShape& shape, double theta, const double* x, std::span<const float> norm, int64_t position) {
  Row y = rms_norm(Row(x, x + shape.head_dim), norm, true, static_cast<double>(shape.eps));
  const int64_t half = shape.rope_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double rate = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(shape.rope_dim));
    const double angle = static_cast<double>(position) * rate;
    double& a = y[static_cast<size_t>(i)];
    double& b = y[static_cast<size_t>(i + half)];
    const double old = a;
    a = a * std::cos(angle) - b * std::sin(angle);
    b = b * std::cos(angle) + old * std::sin(angle);
  }
  return y;
}

}  // namespace

Rows values(const WeightMatrix& weight) {
  Rows rows(static_cast<size_t>(weight.n), Row(static_cast<size_t>(weight.k)));
  for (int64_t n = 0; n < weight.n; ++n) {
    for (int64_t k = 0; k < weight.k; ++k) rows[static_cast<size_t>(n)][static_cast<size_t>(k)] = value(weight, n, k);
  }
  return rows;
}

Rows linear(const Rows& x, const Rows& weight) {
  Rows y;
  for (const Row& row : x) {
    Row& out = y.emplace_back();
    for (const Row& w : weight) out.push_back(dot(row.data(), w.data(), static_cast<int64_t>(w.size())));
  }
  return y;
}

Row rms_norm(const Row& x, std::span<const float> weight, bool zero_centred, double eps) {
  const auto n = static_cast<int64_t>(x.size());
  const double factor = 1.0 / std::sqrt(dot(x.data(), x.data(), n) / static_cast<double>(n) + eps);
  Row y;
  for (size_t i = 0; i < x.size(); ++i) {
    y.push_back(x[i] * factor * ((zero_centred ? 1.0 : 0.0) + static_cast<double>(weight[i])));
  }
  return y;
}

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}
double silu(double x) {
  return x * sigmoid(x);
}

Row fp8_row(const Row& x) {
  double largest = 0;
  for (const double value : x) largest = std::max(largest, std::abs(value));
  if (largest == 0) return x;
  const int scale = std::ilogb(largest) - 7;
  Row y;
  for (const double value : x) {
    const double scaled = std::ldexp(value, -scale);
    const int step = std::max(scaled == 0 ? -6 : std::ilogb(scaled), -6) - 3;  // three bits of mantissa
    y.push_back(std::ldexp(std::nearbyint(std::ldexp(scaled, -step)), step + scale));
  }
  return y;
}

Rows attention(const AttentionShape& shape, double theta, std::span<const float> q_norm, std::span<const float> k_norm,
               const Rows& qg, const Rows& k, const Rows& v) {
  const int64_t e = shape.head_dim;
  Rows out;
  const auto kept = [&](const Row& row) { return shape.fp8 ? fp8_row(row) : row; };
  std::vector<Rows> keys(static_cast<size_t>(shape.kv_heads));
  std::vector<Rows> values(static_cast<size_t>(shape.kv_heads));
  for (size_t t = 0; t < qg.size(); ++t) {
    const auto position = static_cast<int64_t>(t);
    Row& y = out.emplace_back();
    for (int64_t h = 0; h < shape.kv_heads; ++h) {
      keys[static_cast<size_t>(h)].push_back(kept(head(shape, theta, k[t].data() + h * e, k_norm, position)));
      values[static_cast<size_t>(h)].push_back(kept(Row(v[t].data() + h * e, v[t].data() + (h + 1) * e)));
    }
    for (int64_t h = 0; h < shape.heads; ++h) {
      const int64_t kv = h / (shape.heads / shape.kv_heads);
      const Row q = head(shape, theta, qg[t].data() + h * 2 * e, q_norm, position);
      Row p;
      for (const Row& key : keys[static_cast<size_t>(kv)]) {
        p.push_back(dot(q.data(), key.data(), e) / std::sqrt(static_cast<double>(e)));
      }
      const double max = *std::max_element(p.begin(), p.end());
      for (double& s : p) s = std::exp(s - max);
      const double sum = std::accumulate(p.begin(), p.end(), 0.0);
      for (int64_t i = 0; i < e; ++i) {
        double o = 0;
        for (size_t j = 0; j < p.size(); ++j) o += p[j] * values[static_cast<size_t>(kv)][j][static_cast<size_t>(i)];
        y.push_back(o / sum * sigmoid(qg[t][static_cast<size_t>(h * 2 * e + e + i)]));
      }
    }
  }
  return out;
}

namespace {

class GdnSequenceReference {
 public:
  GdnSequenceReference(const GdnShape& shape, std::span<const float> conv, std::span<const float> a_log,
                       std::span<const float> dt_bias, std::span<const float> norm, const GdnInputs& in)
      : shape_(shape), conv_(conv), a_log_(a_log), dt_bias_(dt_bias), norm_(norm), in_(in) {
    state_.assign(static_cast<size_t>(shape.value_heads),
                  Rows(static_cast<size_t>(shape.key_dim), Row(static_cast<size_t>(shape.value_dim))));
  }

  Row step(size_t t) {
    const Row x = convolved(t);
    Row y;
    for (int64_t j = 0; j < shape_.value_heads; ++j) {
      const int64_t key_head = j / (shape_.value_heads / shape_.key_heads);
      const Row q = unit(x.data() + key_head * shape_.key_dim, 1.0 / std::sqrt(static_cast<double>(shape_.key_dim)));
      const Row k = unit(x.data() + (shape_.key_heads + key_head) * shape_.key_dim, 1.0);
      const Row o = head(t, j, q, k, x.data() + 2 * shape_.key_heads * shape_.key_dim + j * shape_.value_dim);
      const Row n = rms_norm(o, norm_, false, static_cast<double>(shape_.norm_eps));
      for (int64_t i = 0; i < shape_.value_dim; ++i) {
        y.push_back(n[static_cast<size_t>(i)] * silu(in_.z[t][static_cast<size_t>(j * shape_.value_dim + i)]));
      }
    }
    return y;
  }

 private:
  Row convolved(size_t t) const {
    Row x;
    for (int64_t c = 0; c < shape_.channels(); ++c) {
      double sum = 0;
      for (size_t tap = 0; tap < 4; ++tap) {
        if (t + tap < 3) continue;
        sum +=
            static_cast<double>(conv_[static_cast<size_t>(c) * 4 + tap]) * in_.u[t + tap - 3][static_cast<size_t>(c)];
      }
      x.push_back(silu(sum));
    }
    return x;
  }

  Row unit(const double* x, double factor) const {
    const double norm = std::sqrt(dot(x, x, shape_.key_dim) + 1e-6);
    Row y(x, x + shape_.key_dim);
    for (double& v : y) v *= factor / norm;
    return y;
  }

  Row head(size_t t, int64_t j, const Row& q, const Row& k, const double* v) {
    const auto h = static_cast<size_t>(j);
    const double gate = in_.a[t][h] + static_cast<double>(dt_bias_[h]);
    const double fade = std::exp(-std::exp(static_cast<double>(a_log_[h])) * std::log1p(std::exp(gate)));
    const double beta = sigmoid(in_.b[t][h]);
    Rows& state = state_[h];
    Row o;
    for (size_t c = 0; c < static_cast<size_t>(shape_.value_dim); ++c) {
      double seen = 0;
      for (size_t d = 0; d < k.size(); ++d) {
        state[d][c] *= fade;
        seen += k[d] * state[d][c];
      }
      const double delta = beta * (v[c] - seen);
      double out = 0;
      for (size_t d = 0; d < k.size(); ++d) {
        state[d][c] += k[d] * delta;
        out += q[d] * state[d][c];
      }
      o.push_back(out);
    }
    return o;
  }

  const GdnShape& shape_;
  std::span<const float> conv_;
  std::span<const float> a_log_;
  std::span<const float> dt_bias_;
  std::span<const float> norm_;
  const GdnInputs& in_;
  std::vector<Rows> state_;
};

}  // namespace

Rows gdn(const GdnShape& shape, std::span<const float> conv, std::span<const float> a_log,
         std::span<const float> dt_bias, std::span<const float> norm, const GdnInputs& inputs) {
  GdnSequenceReference sequence(shape, conv, a_log, dt_bias, norm, inputs);
  Rows y;
  for (size_t t = 0; t < inputs.u.size(); ++t) y.push_back(sequence.step(t));
  return y;
}

Row mlp(const Expert& expert, const Row& x) {
  const Row gate = linear({x}, expert.gate)[0];
  Row hidden = linear({x}, expert.up)[0];
  for (size_t i = 0; i < hidden.size(); ++i) hidden[i] *= silu(gate[i]);
  return linear({hidden}, expert.down)[0];
}

Row moe(const Rows& router, const std::vector<Expert>& experts, int64_t top_k, const Rows& shared_gate,
        const Expert& shared, const Row& x) {
  const Row logits = linear({x}, router)[0];
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  order.resize(static_cast<size_t>(top_k));
  double sum = 0;
  for (const size_t e : order) sum += std::exp(logits[e] - logits[order[0]]);
  Row y(x.size());
  const auto add = [&y](const Row& part, double weight) {
    for (size_t i = 0; i < y.size(); ++i) y[i] += weight * part[i];
  };
  for (const size_t e : order) add(mlp(experts[e], x), std::exp(logits[e] - logits[order[0]]) / sum);
  if (!shared_gate.empty()) add(mlp(shared, x), sigmoid(linear({x}, shared_gate)[0][0]));
  return y;
}

}  // namespace weir::reference
