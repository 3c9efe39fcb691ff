#include "ops/moe/moe_packed_gpu.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "ops/linear/packed_test_tools.h"

namespace weir {
namespace {

struct Experts {
  int64_t d = 0;
  int64_t f = 0;
  int32_t experts = 0;
  int32_t top_k = 0;
  std::vector<TestMatrix> gate, up, down;  // the shared expert last
  std::vector<PackedOnDevice> gate_up_packed, down_packed;
  OnDevice<GpuPackedMlp> table;
};

class MoePacked : public GpuTest {
 protected:
  Experts make(int64_t d, int64_t f, int32_t experts, int32_t top_k, int32_t routed_format, int32_t shared_format) {
    Experts m;
    m.d = d;
    m.f = f;
    m.experts = experts;
    m.top_k = top_k;
    std::vector<GpuPackedMlp> table;
    for (int32_t e = 0; e <= experts; ++e) {
      const auto seed = static_cast<uint64_t>(10 * e);
      const int32_t format = e < experts ? routed_format : shared_format;
      m.gate.push_back(random_matrix(f, d, format, seed + 1));
      m.up.push_back(random_matrix(f, d, format, seed + 2));
      m.down.push_back(random_matrix(d, f, format, seed + 3));
      m.gate_up_packed.push_back(pack_on_device(gpu(), m.gate.back(), &m.up.back()));
      m.down_packed.push_back(pack_on_device(gpu(), m.down.back()));
      table.push_back({m.gate_up_packed.back().packed, m.down_packed.back().packed});
    }
    m.table = upload(table);
    return m;
  }

  Experts make(int64_t d, int64_t f, int32_t experts, int32_t top_k, int32_t format) {
    return make(d, f, experts, top_k, format, format);
  }

  // y of rows x (in the operand type) with these router logits [rows][experts + 1].
  std::vector<float> run(const Experts& m, const std::vector<float>& x, const std::vector<float>& logits,
                         int32_t rows) {
    const int32_t format = m.down.front().format;
    const int32_t shared_format = m.down.back().format;
    const int32_t shared_type = operand_type(shared_format);
    OnDevice<uint16_t> in = upload(to_operand(x, operand_type(format)));
    OnDevice<uint16_t> shared_in = upload(to_operand(x, shared_type));
    OnDevice<float> router = upload(logits);
    const int64_t slots = m.top_k + 1;
    OnDevice<uint16_t> hidden = zeros<uint16_t>(static_cast<size_t>(rows * slots * m.f));
    OnDevice<float> y = zeros<float>(static_cast<size_t>(rows * m.d));
    Gpu g = gpu();
    GpuPackedLinearArgs shared;
    shared.x_bf16 = shared_in.data();
    shared.x_f16 = shared_in.data();
    shared.x_stride = m.d;
    shared.k = static_cast<int32_t>(m.d);
    shared.rows = rows;
    shared.count = 1;
    shared.outputs[0] = {m.gate_up_packed.back().packed, hidden.data() + m.top_k * m.f, slots * m.f, kPackedSwiglu,
                         shared_type};
    linear_packed(g, shared);
    GpuExpertsArgs args;
    args.table = m.table.data();
    args.router = router.data();
    args.x = in.data();
    args.hidden = hidden.data();
    args.y = y.data();
    args.y_stride = m.d;
    args.rows = rows;
    args.experts = m.experts;
    args.top_k = m.top_k;
    args.shared = 1;
    args.d = static_cast<int32_t>(m.d);
    args.f = static_cast<int32_t>(m.f);
    args.format = format;
    args.shared_format = shared_format;
    experts_packed(g, args);
    return y.read();
  }

  // The same in float64, with hidden values rounded to the operand type of their expert.
  static std::vector<float> reference(const Experts& m, const std::vector<float>& x, const std::vector<float>& logits,
                                      int32_t rows) {
    std::vector<float> y;
    const auto width = static_cast<size_t>(m.experts + 1);
    for (int32_t r = 0; r < rows; ++r) {
      const float* l = logits.data() + static_cast<size_t>(r) * width;
      std::vector<int32_t> order(static_cast<size_t>(m.experts));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return l[a] > l[b]; });
      order.resize(static_cast<size_t>(m.top_k));
      double sum = 0;
      for (const int32_t e : order) sum += std::exp(static_cast<double>(l[e] - l[order[0]]));
      std::vector<std::pair<int32_t, double>> parts;
      for (const int32_t e : order) parts.emplace_back(e, std::exp(static_cast<double>(l[e] - l[order[0]])) / sum);
      parts.emplace_back(m.experts, 1 / (1 + std::exp(-static_cast<double>(l[m.experts]))));
      const std::vector<float> row(x.begin() + r * m.d, x.begin() + (r + 1) * m.d);
      std::vector<double> total(static_cast<size_t>(m.d));
      for (const auto& [e, weight] : parts) {
        std::vector<float> h = reference_product(row, m.gate[static_cast<size_t>(e)]);
        const std::vector<float> u = reference_product(row, m.up[static_cast<size_t>(e)]);
        for (size_t i = 0; i < h.size(); ++i) h[i] = h[i] / (1 + std::exp(-h[i])) * u[i];
        const TestMatrix& down = m.down[static_cast<size_t>(e)];
        const std::vector<float> out = reference_product(rounded(h, operand_type(down.format)), down);
        for (size_t i = 0; i < total.size(); ++i) total[i] += weight * static_cast<double>(out[i]);
      }
      for (const double t : total) y.push_back(static_cast<float>(t));
    }
    return y;
  }
};

struct Case {
  int64_t d;
  int64_t f;
  int32_t experts;
  int32_t top_k;
};
constexpr Case kCases[] = {
    {256, 128, 16, 4}, {128, 64, 6, 2}, {512, 192, 40, 8}, {256, 1152, 5, 2}, {192, 128, 300, 10}};

TEST_F(MoePacked, EqualsTheExpertsOneByOne) {
  for (const int32_t format : {kGpuFp8Block, kGpuBf16, kGpuMxfp4, kGpuFp8Row}) {
    for (const Case& c : kCases) {
      if (c.experts > 100 && format != kGpuMxfp4) continue;
      const Experts m = make(c.d, c.f, c.experts, c.top_k, format);
      for (const int32_t rows : {1, 3, 8, 9, 64}) {
        const std::vector<float> x =
            rounded(normal_values(static_cast<size_t>(rows * c.d), 1, 21), operand_type(format));
        const std::vector<float> logits = normal_values(static_cast<size_t>(rows * (c.experts + 1)), 2, 22);
        const double difference = relative_difference(run(m, x, logits, rows), reference(m, x, logits, rows));
        EXPECT_LT(difference, 2e-3) << "format " << format << ", " << c.experts << " experts, d " << c.d << ", f "
                                    << c.f << ", rows " << rows;
      }
    }
  }
}

// As published: experts of MXFP4 beside a shared one of BF16.
TEST_F(MoePacked, TheSharedExpertMayBeStoredOtherwise) {
  constexpr int32_t kFormats[][2] = {{kGpuMxfp4, kGpuBf16},
                                     {kGpuBf16, kGpuMxfp4},
                                     {kGpuFp8Block, kGpuBf16},
                                     {kGpuMxfp4, kGpuFp8Block},
                                     {kGpuFp8Row, kGpuFp8Block}};
  for (const auto& [format, shared] : kFormats) {
    for (const Case& c : kCases) {
      if (c.experts > 100) continue;
      const Experts m = make(c.d, c.f, c.experts, c.top_k, format, shared);
      for (const int32_t rows : {1, 4, 8, 9, 64}) {
        const std::vector<float> x = rounded(normal_values(static_cast<size_t>(rows * c.d), 1, 61), kOperandBf16);
        const std::vector<float> logits = normal_values(static_cast<size_t>(rows * (c.experts + 1)), 2, 62);
        const double difference = relative_difference(run(m, x, logits, rows), reference(m, x, logits, rows));
        EXPECT_LT(difference, 2e-3) << "formats " << format << " and " << shared << ", " << c.experts << " experts, d "
                                    << c.d << ", f " << c.f << ", rows " << rows;
      }
    }
  }
}

TEST_F(MoePacked, ARowHasTheSameBitsAmongOthers) {
  const Experts m = make(256, 128, 16, 4, kGpuFp8Block);
  const std::vector<float> x = rounded(normal_values(64 * 256, 1, 31), kOperandF16);
  const std::vector<float> logits = normal_values(64 * 17, 2, 32);
  const std::vector<float> all = run(m, x, logits, 64);
  for (const int32_t rows : {1, 5, 8}) {
    for (const int32_t first : {0, 17, 56}) {
      const std::vector<float> some(x.begin() + first * 256, x.begin() + (first + rows) * 256);
      const std::vector<float> of(logits.begin() + first * 17, logits.begin() + (first + rows) * 17);
      const std::vector<float> y = run(m, some, of, rows);
      EXPECT_TRUE(std::equal(y.begin(), y.end(), all.begin() + first * 256)) << rows << " rows from " << first;
    }
  }
}

TEST_F(MoePacked, TiesGoToTheLowerIndexAndNansComeLast) {
  const Experts m = make(128, 64, 6, 2, kGpuBf16);
  const std::vector<float> x = rounded(normal_values(128, 1, 41), kOperandBf16);
  const std::vector<float> tied = {1, 3, 3, 3, 0, 1, 0};
  std::vector<float> clear = {-9, 3, 3, -9, -9, -9, 0};
  EXPECT_EQ(run(m, x, tied, 1), run(m, x, clear, 1));
  const std::vector<float> nan = {NAN, 3, -INFINITY, NAN, -5, -8, 0};
  clear = {-9, 3, -9, -9, -5, -9, 0};
  EXPECT_EQ(run(m, x, nan, 1), run(m, x, clear, 1));
}

// A layer of the 35B model, twice, so that the second-level cache does not serve the weights.
class MoePackedTiming : public GpuTest, public ::testing::WithParamInterface<int32_t> {
 protected:
  static constexpr int64_t kD = 2048;
  static constexpr int64_t kF = 512;
  static constexpr int32_t kExperts = 256;
  static constexpr int32_t kTop = 8;
  static constexpr int kLayers = 2;
  static constexpr int kOthers = 16;  // of the matrices beside the experts
  static constexpr int64_t kIn = 12288;
  static constexpr int64_t kMixed = 4096;

  void make() {
    data_ = zeros<uint8_t>(static_cast<size_t>(expert_bytes() * (kExperts + 1) * kLayers));
    router_data_ = zeros<uint8_t>(static_cast<size_t>(packed_data_bytes(router_) * 64));
    in_data_ = zeros<uint8_t>(static_cast<size_t>(packed_data_bytes(in_) * kOthers));
    out_data_ = zeros<uint8_t>(static_cast<size_t>(packed_data_bytes(out_) * kOthers));
    scales_ = OnDevice<float>(gpu(), static_cast<size_t>(packed_scale_floats(in_) + packed_scale_floats(out_)), 1.0F);
    norm_ = zeros<float>(kD);
    for (int layer = 0; layer < kLayers; ++layer) {
      std::vector<GpuPackedMlp> table;
      for (int64_t e = 0; e <= kExperts; ++e) {
        uint8_t* data = data_.data() + (layer * (kExperts + 1) + e) * expert_bytes();
        table.push_back({with(gate_up_, data), with(down_, data + packed_data_bytes(gate_up_))});
      }
      tables_.push_back(upload(table));
    }
  }
  void make_rows(int32_t rows) {
    rows_ = rows;
    h_ = OnDevice<float>(gpu(), static_cast<size_t>(rows * kD), 0.5F);
    x_ = zeros<uint16_t>(static_cast<size_t>(rows * kMixed));
    hidden_ = zeros<uint16_t>(static_cast<size_t>(rows * (kTop + 1) * kF));
    wide_ = zeros<float>(static_cast<size_t>(rows * kIn));
    scored_ = zeros<float>(static_cast<size_t>(rows * (kExperts + 1)));
    routers_.clear();
    distinct_ = 0;
    for (int i = 0; i < 16; ++i) {
      const auto logits = normal_values(static_cast<size_t>(rows * (kExperts + 1)), 1, static_cast<uint64_t>(51 + i));
      routers_.push_back(upload(logits));
      std::vector<uint8_t> seen(kExperts);
      for (int32_t r = 0; r < rows; ++r) {
        std::vector<int32_t> order(kExperts);
        std::iota(order.begin(), order.end(), 0);
        const float* l = logits.data() + r * (kExperts + 1);
        std::partial_sort(order.begin(), order.begin() + kTop, order.end(),
                          [&](int32_t a, int32_t b) { return l[a] > l[b]; });
        for (int s = 0; s < kTop; ++s) seen[static_cast<size_t>(order[static_cast<size_t>(s)])] = 1;
      }
      distinct_ += std::accumulate(seen.begin(), seen.end(), 0.0) / 16;
    }
  }
  static int64_t expert_bytes() { return packed_data_bytes(gate_up_) + packed_data_bytes(down_); }
  GpuPacked with(GpuPacked shape, uint8_t* data) const {
    shape.data = data;
    if (shape.format == kGpuFp8Block) shape.scales = scales_.data();
    return shape;
  }

  // One product of h_, normed, or of x_.
  void linear(const GpuPacked& w, float* y, bool normed, bool adds) {
    GpuPackedLinearArgs args;
    if (normed) {
      args.x = h_.data();
      args.norm = norm_.data();
    } else {
      args.x_f16 = x_.data();
    }
    args.x_stride = w.k;
    args.k = w.k;
    args.rows = rows_;
    args.count = 1;
    args.outputs[0] = {w, y, w.n, adds ? kPackedAdd : kPackedStore, 0};
    Gpu g = gpu();
    linear_packed(g, args);
  }
  void in_proj(int turn) {
    linear(with(in_, in_data_.data() + turn % kOthers * packed_data_bytes(in_)), wide_.data(), true, false);
  }
  void out_proj(int turn) {
    linear(with(out_, out_data_.data() + turn % kOthers * packed_data_bytes(out_)), h_.data(), false, true);
  }
  // Norm, router, the shared expert's hidden values.
  void front(int turn) {
    GpuPackedLinearArgs args;
    args.x = h_.data();
    args.norm = norm_.data();
    args.x_out_f16 = x_.data();
    args.x_stride = kD;
    args.k = kD;
    args.rows = rows_;
    args.count = 2;
    args.outputs[0] = {with(router_, router_data_.data() + turn % 64 * packed_data_bytes(router_)), scored_.data(),
                       kExperts + 1, kPackedStore, 0};
    uint8_t* shared = data_.data() + (turn % kLayers * (kExperts + 1) + kExperts) * expert_bytes();
    args.outputs[1] = {with(gate_up_, shared), hidden_.data() + kTop * kF, (kTop + 1) * kF, kPackedSwiglu, kOperandF16};
    Gpu g = gpu();
    linear_packed(g, args);
  }
  void experts(int turn) {
    GpuExpertsArgs args;
    args.table = tables_[static_cast<size_t>(turn % kLayers)].data();
    args.router = routers_[static_cast<size_t>(turn % 16)].data();
    args.x = x_.data();
    args.hidden = hidden_.data();
    args.y = h_.data();
    args.y_stride = kD;
    args.rows = rows_;
    args.experts = kExperts;
    args.top_k = kTop;
    args.shared = 1;
    args.d = kD;
    args.f = kF;
    Gpu g = gpu();
    experts_packed(g, args);
  }
  template <class Function>
  void time(const char* what, double bytes, const Function& f) {
    int turn = 0;
    const double us = micros(32, [&] { f(turn++); });
    std::printf("%2d rows (%5.1f experts) %-8s %7.1f us, %4.1f %% of 4.69 TB/s\n", rows_, distinct_, what, us,
                100 * bytes / 4.69e6 / us);
  }

  static inline const GpuPacked gate_up_ = packed_shape(2 * kF, kD, kGpuFp8Block);
  static inline const GpuPacked down_ = packed_shape(kD, kF, kGpuFp8Block);
  static inline const GpuPacked router_ = packed_shape(kExperts + 1, kD, kGpuBf16);
  static inline const GpuPacked in_ = packed_shape(kIn, kD, kGpuFp8Block);
  static inline const GpuPacked out_ = packed_shape(kD, kMixed, kGpuFp8Block);
  OnDevice<uint8_t> data_, router_data_, in_data_, out_data_;
  OnDevice<float> scales_, norm_, h_, wide_, scored_;
  OnDevice<uint16_t> x_, hidden_;
  std::vector<OnDevice<GpuPackedMlp>> tables_;
  std::vector<OnDevice<float>> routers_;
  int32_t rows_ = 0;
  double distinct_ = 0;
};

TEST_P(MoePackedTiming, Timing) {
  make();
  make_rows(GetParam());
  const auto front_bytes = static_cast<double>(packed_data_bytes(router_) + packed_data_bytes(gate_up_));
  const double expert_part =
      (distinct_ + 1) * static_cast<double>(expert_bytes()) - static_cast<double>(packed_data_bytes(gate_up_));
  const auto mixer_bytes = static_cast<double>(packed_data_bytes(in_) + packed_data_bytes(out_));
  time("front", front_bytes, [&](int turn) { front(turn); });
  time("experts", expert_part, [&](int turn) { experts(turn); });
  time("layer", front_bytes + expert_part + mixer_bytes, [&](int turn) {
    in_proj(turn);
    out_proj(turn);
    front(turn);
    experts(turn);
  });
}

INSTANTIATE_TEST_SUITE_P(Rows, MoePackedTiming, ::testing::Values(1, 2, 4, 8, 16, 32, 64),
                         [](const auto& info) { return std::to_string(info.param); });

}  // namespace
}  // namespace weir
