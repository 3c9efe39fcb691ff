// Experts over quantised rows: against the products of one matrix after the other (linear_prompt() of quantised rows),
// hidden values and their codes made on the host.
#include <algorithm>
#include <cstdio>
#include <numeric>

#include "ops/linear/linear_prompt_gpu.h"
#include "ops/linear/packed_test_tools.h"
#include "ops/moe/moe_prompt_gpu.h"
#include "ops/quantize/quantize_test_tools.h"

namespace weir {
namespace {

struct Shape {
  int64_t d;
  int64_t f;
  int64_t shared_f;  // 0: no shared expert
  int32_t experts;
  int32_t top_k;
};

struct Experts {
  Shape shape;
  std::vector<PackedOnDevice> gate, up, gate_up, down;
  OnDevice<GpuPackedMlp> table;

  int32_t total() const { return static_cast<int32_t>(down.size()); }
  int32_t slots() const { return shape.top_k + (shape.shared_f > 0 ? 1 : 0); }
  int64_t width() const { return std::max(shape.f, shape.shared_f); }
};

struct Routes {
  std::vector<int32_t> experts;  // [rows][slots], the shared one last
  std::vector<float> weights;
};

Routes random_routes(int64_t rows, const Shape& shape, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(0.05F, 1.0F);
  Routes routes;
  std::vector<int32_t> order(static_cast<size_t>(shape.experts));
  for (int64_t r = 0; r < rows; ++r) {
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    routes.experts.insert(routes.experts.end(), order.begin(), order.begin() + shape.top_k);
    if (shape.shared_f > 0) routes.experts.push_back(shape.experts);
  }
  for (size_t i = 0; i < routes.experts.size(); ++i) routes.weights.push_back(uniform(random));
  return routes;
}

Routes some_routes(const Routes& routes, int64_t slots, int64_t first, int64_t rows) {
  return {{routes.experts.begin() + first * slots, routes.experts.begin() + (first + rows) * slots},
          {routes.weights.begin() + first * slots, routes.weights.begin() + (first + rows) * slots}};
}

class MoePromptE4m3 : public GpuTest {
 protected:
  Experts make(const Shape& shape) {
    Experts m;
    m.shape = shape;
    std::vector<GpuPackedMlp> table;
    for (int32_t e = 0; e < shape.experts + (shape.shared_f > 0 ? 1 : 0); ++e) {
      const auto seed = static_cast<uint64_t>(10 * e);
      const int64_t f = e == shape.experts ? shape.shared_f : shape.f;
      const TestMatrix gate = random_matrix(f, shape.d, kGpuFp8Block, seed + 1);
      const TestMatrix up = random_matrix(f, shape.d, kGpuFp8Block, seed + 2);
      m.gate.push_back(pack_on_device(gpu(), gate));
      m.up.push_back(pack_on_device(gpu(), up));
      m.gate_up.push_back(pack_on_device(gpu(), gate, &up));
      m.down.push_back(pack_on_device(gpu(), random_matrix(shape.d, f, kGpuFp8Block, seed + 3)));
      table.push_back({m.gate_up.back().packed, m.down.back().packed});
      EXPECT_TRUE(takes_e4m3(table.back()));
    }
    m.table = upload(table);
    return m;
  }

  std::vector<float> run(const Experts& m, const std::vector<float>& x, const Routes& routes,
                         const std::vector<float>* onto = nullptr) {
    const int64_t rows = static_cast<int64_t>(x.size()) / m.shape.d;
    const E4m3Rows quantised = quantised_on_host(x, m.shape.d, rows + 2, 1e30F);
    OnDevice<uint8_t> codes = upload(quantised.codes);
    OnDevice<float> scales = upload(quantised.scales);
    OnDevice<int32_t> experts = upload(routes.experts);
    OnDevice<float> weights = upload(routes.weights);
    OnDevice<float> y = onto != nullptr ? upload(*onto) : OnDevice<float>(gpu(), x.size(), -7.0F);
    OnDevice<std::byte> work(
        gpu(), static_cast<size_t>(moe_prompt_work_bytes(rows, m.slots(), m.total(), m.shape.d, m.width(), true)),
        std::byte{0xff});
    GpuMoePromptArgs args;
    args.table = m.table.data();
    args.x_e4m3 = codes.data();
    args.x_scales = scales.data();
    args.scale_stride = quantised.stride;
    args.experts = experts.data();
    args.weights = weights.data();
    args.y = y.data();
    args.x_stride = m.shape.d;
    args.y_stride = m.shape.d;
    args.rows = static_cast<int32_t>(rows);
    args.slots = m.slots();
    args.experts_total = m.total();
    args.columns = static_cast<int32_t>(m.shape.d);
    args.width = static_cast<int32_t>(m.width());
    args.tile_bytes = packed_tile_bytes(kGpuFp8Block);
    args.add = onto != nullptr ? 1 : 0;
    Gpu g = gpu();
    moe_prompt(g, args, work.data());
    return y.read();
  }

  std::vector<float> product(const std::vector<float>& x, const GpuPacked& w) {
    const int64_t rows = static_cast<int64_t>(x.size()) / w.k;
    const E4m3Rows quantised = quantised_on_host(x, w.k, rows);
    OnDevice<uint8_t> codes = upload(quantised.codes);
    OnDevice<float> scales = upload(quantised.scales);
    OnDevice<float> y = zeros<float>(static_cast<size_t>(rows * w.n));
    GpuPromptArgs args;
    args.x_e4m3 = codes.data();
    args.x_scales = scales.data();
    args.scale_stride = rows;
    args.x_stride = w.k;
    args.rows = static_cast<int32_t>(rows);
    args.count = 1;
    args.outputs[0] = {w, y.data(), w.n, 0, 0};
    Gpu g = gpu();
    linear_prompt(g, args);
    return y.read();
  }

  // Every expert over all rows, of which each row takes its own.
  std::vector<float> reference(const Experts& m, const std::vector<float>& x, const Routes& routes) {
    const int64_t rows = static_cast<int64_t>(x.size()) / m.shape.d;
    std::vector<float> y(x.size());
    for (int32_t e = 0; e < m.total(); ++e) {
      const auto at = static_cast<size_t>(e);
      std::vector<float> hidden = product(x, m.gate[at].packed);
      const std::vector<float> up = product(x, m.up[at].packed);
      for (size_t i = 0; i < hidden.size(); ++i) hidden[i] = hidden[i] / (1 + std::exp(-hidden[i])) * up[i];
      const std::vector<float> out = product(rounded(hidden, kOperandF16), m.down[at].packed);
      for (int64_t i = 0; i < rows * m.slots(); ++i) {
        if (routes.experts[static_cast<size_t>(i)] != e) continue;
        const int64_t row = i / m.slots();
        for (int64_t column = row * m.shape.d; column < (row + 1) * m.shape.d; ++column) {
          float& total = y[static_cast<size_t>(column)];
          total = std::fmaf(routes.weights[static_cast<size_t>(i)], out[static_cast<size_t>(column)], total);
        }
      }
    }
    return y;
  }
};

constexpr Shape kShapes[] = {
    {128, 128, 0, 1, 1}, {256, 128, 128, 16, 4}, {384, 128, 256, 5, 2}, {256, 384, 128, 12, 3}};

// A hidden value that the host rounds otherwise is another code at most.
TEST_F(MoePromptE4m3, EqualsTheExpertsOneByOne) {
  for (const Shape& shape : kShapes) {
    const Experts m = make(shape);
    for (const int64_t rows : {1, 7, 64, 65, 129, 300}) {
      const std::vector<float> x = normal_values(static_cast<size_t>(rows * shape.d), 1, 5);
      const Routes routes = random_routes(rows, shape, 6);
      const std::vector<float> got = run(m, x, routes);
      const std::vector<float> expected = reference(m, x, routes);
      int64_t differ = 0;
      for (size_t i = 0; i < got.size(); ++i) differ += got[i] != expected[i] ? 1 : 0;
      const double difference = relative_difference(got, expected);
      std::printf("%d experts, D %lld, F %lld, %lld rows: relative difference %.2e, %lld of %zu values differ\n",
                  shape.experts, static_cast<long long>(shape.d), static_cast<long long>(shape.f),
                  static_cast<long long>(rows), difference, static_cast<long long>(differ), got.size());
      EXPECT_LT(difference, 1e-3);
      if (HasFailure()) return;
    }
  }
}

TEST_F(MoePromptE4m3, ARowHasTheSameBitsAmongOthersAndAgain) {
  const Shape shape = {256, 128, 128, 16, 4};
  const Experts m = make(shape);
  const std::vector<float> x = normal_values(700 * 256, 1, 5);
  const Routes routes = random_routes(700, shape, 6);
  const std::vector<float> all = run(m, x, routes);
  EXPECT_EQ(run(m, x, routes), all);
  for (const int64_t first : {0, 64, 127, 400}) {
    for (const int64_t rows : {1, 5, 16, 17, 64, 65, 128, 129, 300}) {
      const std::vector<float> some(x.begin() + first * 256, x.begin() + (first + rows) * 256);
      const std::vector<float> y = run(m, some, some_routes(routes, 5, first, rows));
      EXPECT_TRUE(std::equal(y.begin(), y.end(), all.begin() + first * 256)) << "rows " << first << " + " << rows;
    }
  }
}

TEST_F(MoePromptE4m3, NumbersThatAreNotFiniteOrHugeStayInTheirRow) {
  const Shape shape = {256, 128, 128, 4, 2};
  const Experts m = make(shape);
  std::vector<float> x = normal_values(90 * 256, 1, 5);
  const Routes routes = random_routes(90, shape, 6);
  const std::vector<float> before = run(m, x, routes);
  x[3 * 256 + 200] = std::numeric_limits<float>::quiet_NaN();
  x[64 * 256] = 1e30F;  // hidden values stay at the largest of f16
  const std::vector<float> after = run(m, x, routes);
  for (int64_t row = 0; row < 90; ++row) {
    const auto begin = after.begin() + row * 256;
    if (row == 3) {
      EXPECT_TRUE(std::all_of(begin, begin + 256, [](float v) { return std::isnan(v); }));
    } else if (row != 64) {
      EXPECT_TRUE(std::equal(begin, begin + 256, before.begin() + row * 256)) << "row " << row;
    }
  }
}

TEST_F(MoePromptE4m3, AddsToWhatIsThere) {
  const Shape shape = {128, 128, 128, 4, 2};
  const Experts m = make(shape);
  const std::vector<float> x = normal_values(70 * 128, 1, 5);
  const Routes routes = random_routes(70, shape, 6);
  const std::vector<float> before = normal_values(70 * 128, 1, 7);
  std::vector<float> expected = run(m, x, routes);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = before[i] + expected[i];
  EXPECT_EQ(run(m, x, routes, &before), expected);
}

// More rows than are worked on at once: those of the second turn have the bits that they have alone.
TEST_F(MoePromptE4m3, ManyRowsTakeTurns) {
  const Shape shape = {128, 128, 128, 4, 2};
  const Experts m = make(shape);
  constexpr int64_t kRows = kMoePromptRows + 100;
  const std::vector<float> x = normal_values(kRows * 128, 1, 5);
  const Routes routes = random_routes(kRows, shape, 6);
  const std::vector<float> all = run(m, x, routes);
  for (const int64_t first : {int64_t{0}, kMoePromptRows - 50, kMoePromptRows}) {
    const std::vector<float> some(x.begin() + first * 128, x.begin() + (first + 100) * 128);
    const std::vector<float> y = run(m, some, some_routes(routes, 3, first, 100));
    EXPECT_TRUE(std::equal(y.begin(), y.end(), all.begin() + first * 128)) << "rows from " << first;
  }
}

TEST_F(MoePromptE4m3, Timing) {
  constexpr int64_t kD = 2048;
  constexpr int64_t kF = 512;
  constexpr int32_t kExperts = 256;
  const Shape shape = {kD, kF, kF, kExperts, 8};
  const TestMatrix gate = random_matrix(kF, kD, kGpuFp8Block, 1);
  const PackedOnDevice gate_up = pack_on_device(gpu(), gate, &gate);
  const PackedOnDevice down = pack_on_device(gpu(), random_matrix(kD, kF, kGpuFp8Block, 2));
  // Every expert has its own memory.
  const auto expert_bytes = static_cast<int64_t>(gate_up.data.size() + down.data.size());
  OnDevice<uint8_t> data = zeros<uint8_t>(static_cast<size_t>(expert_bytes * (kExperts + 1)));
  std::vector<GpuPackedMlp> host;
  for (int64_t e = 0; e <= kExperts; ++e) {
    host.push_back({gate_up.packed, down.packed});
    host.back().gate_up.data = data.data() + e * expert_bytes;
    host.back().down.data = host.back().gate_up.data + gate_up.data.size();
  }
  OnDevice<GpuPackedMlp> table = upload(host);
  for (const int32_t rows : {16, 64, 512, 2048, 8192}) {
    const Routes routes = random_routes(rows, shape, 3);
    OnDevice<uint8_t> codes(gpu(), static_cast<size_t>(rows * kD), uint8_t{0x31});
    OnDevice<float> scales(gpu(), static_cast<size_t>(rows * kD / kBlockK), 0.01F);
    OnDevice<int32_t> experts = upload(routes.experts);
    OnDevice<float> weights = upload(routes.weights);
    OnDevice<float> y = zeros<float>(static_cast<size_t>(rows * kD));
    OnDevice<std::byte> work(gpu(), static_cast<size_t>(moe_prompt_work_bytes(rows, 9, kExperts + 1, kD, kF, true)),
                             std::byte{});
    GpuMoePromptArgs args;
    args.table = table.data();
    args.x_e4m3 = codes.data();
    args.x_scales = scales.data();
    args.scale_stride = rows;
    args.experts = experts.data();
    args.weights = weights.data();
    args.y = y.data();
    args.x_stride = kD;
    args.y_stride = kD;
    args.rows = rows;
    args.slots = 9;
    args.experts_total = kExperts + 1;
    args.columns = kD;
    args.width = kF;
    args.tile_bytes = packed_tile_bytes(kGpuFp8Block);
    Gpu g = gpu();
    const double micros_a_call = micros(20, [&] { moe_prompt(g, args, work.data()); });
    const double flops = 6.0 * static_cast<double>(rows) * 9 * static_cast<double>(kD * kF);
    std::printf("experts of a prompt in e4m3, %5d rows: %8.1f us, %6.1f TFLOP/s\n", rows, micros_a_call,
                flops / micros_a_call / 1e6);
  }
}

}  // namespace
}  // namespace weir
