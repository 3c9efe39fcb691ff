#include "ops/moe/moe_prompt_gpu.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "ops/linear/packed_test_tools.h"
#include "ops/linear/prompt_test_tools.h"

namespace weir {
namespace {

struct Shape {
  int64_t d;
  int64_t f;
  int64_t shared_f;  // 0: no shared expert
  int32_t experts;
  int32_t top_k;
  int32_t format;
  int32_t shared_format;
};

struct Experts {
  Shape shape;
  std::vector<TestMatrix> gate, up, down;
  std::vector<PackedOnDevice> packed;
  OnDevice<GpuPackedMlp> table;

  int64_t width() const { return std::max(shape.f, shape.shared_f); }
  int32_t total() const { return static_cast<int32_t>(gate.size()); }
  int32_t slots() const { return shape.top_k + (shape.shared_f > 0 ? 1 : 0); }
};

struct Routes {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

// Distinct experts of each row in random order, the shared one last. Low ones are preferred, unless `even`.
Routes random_routes(int64_t rows, const Shape& shape, uint64_t seed, bool even = false) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<float> uniform(0.05F, 1.0F);
  Routes routes;
  std::vector<int32_t> order(static_cast<size_t>(shape.experts));
  for (int64_t r = 0; r < rows; ++r) {
    std::iota(order.begin(), order.end(), 0);
    for (int32_t i = 0; i < shape.top_k; ++i) {
      const auto left = static_cast<uint64_t>(shape.experts - i);
      const uint64_t one = random() % left;
      const uint64_t other = random() % left;
      const auto place = static_cast<size_t>(i);
      std::swap(order[place], order[place + (even ? one : std::min(one, other))]);
      routes.experts.push_back(order[static_cast<size_t>(i)]);
      routes.weights.push_back(uniform(random));
    }
    if (shape.shared_f > 0) {
      routes.experts.push_back(shape.experts);
      routes.weights.push_back(uniform(random));
    }
  }
  return routes;
}

// Slots of a row in the order in which their products are joined.
std::vector<size_t> ascending(const Routes& routes, int64_t row, int32_t slots) {
  std::vector<size_t> order(static_cast<size_t>(slots));
  std::iota(order.begin(), order.end(), static_cast<size_t>(row * slots));
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return routes.experts[a] < routes.experts[b]; });
  return order;
}

class MoePrompt : public GpuTest {
 protected:
  Experts make(const Shape& shape) {
    Experts m;
    m.shape = shape;
    std::vector<GpuPackedMlp> table;
    for (int32_t e = 0; e < shape.experts + (shape.shared_f > 0 ? 1 : 0); ++e) {
      const auto seed = static_cast<uint64_t>(10 * e);
      const int64_t f = e == shape.experts ? shape.shared_f : shape.f;
      const int32_t format = e == shape.experts ? shape.shared_format : shape.format;
      m.gate.push_back(random_matrix(f, shape.d, format, seed + 1));
      m.up.push_back(random_matrix(f, shape.d, format, seed + 2));
      m.down.push_back(random_matrix(shape.d, f, format, seed + 3));
      m.packed.push_back(pack_on_device(gpu(), m.gate.back(), &m.up.back()));
      m.packed.push_back(pack_on_device(gpu(), m.down.back()));
      table.push_back({m.packed[m.packed.size() - 2].packed, m.packed.back().packed});
    }
    m.table = upload(table);
    return m;
  }

  std::vector<float> run(const Experts& m, const std::vector<float>& x, const Routes& routes, int64_t rows,
                         const std::vector<float>* onto = nullptr) {
    OnDevice<uint16_t> in_bf16 = upload(operand_bits(x, kGpuBf16));
    OnDevice<uint16_t> in_f16 = upload(operand_bits(x, kGpuFp8Block));
    OnDevice<int32_t> experts = upload(routes.experts);
    OnDevice<float> weights = upload(routes.weights);
    OnDevice<float> y =
        onto != nullptr ? upload(*onto) : OnDevice<float>(gpu(), static_cast<size_t>(rows * m.shape.d), -7.0F);
    OnDevice<std::byte> work(
        gpu(), static_cast<size_t>(moe_prompt_work_bytes(rows, m.slots(), m.total(), m.shape.d, m.width())),
        std::byte{0xff});
    GpuMoePromptArgs args;
    args.table = m.table.data();
    args.x_bf16 = in_bf16.data();
    args.x_f16 = in_f16.data();
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
    args.tile_bytes = std::max(packed_tile_bytes(m.shape.format),
                               m.shape.shared_f > 0 ? packed_tile_bytes(m.shape.shared_format) : 0);
    args.add = onto != nullptr ? 1 : 0;
    Gpu g = gpu();
    moe_prompt(g, args, work.data());
    return y.read();
  }

  // In float64, hidden values rounded to bf16 where that is their type.
  static std::vector<float> reference(const Experts& m, const std::vector<float>& x, const Routes& routes,
                                      int64_t rows) {
    std::vector<float> y;
    for (int64_t r = 0; r < rows; ++r) {
      const std::vector<float> row(x.begin() + r * m.shape.d, x.begin() + (r + 1) * m.shape.d);
      std::vector<double> total(static_cast<size_t>(m.shape.d));
      for (const size_t slot : ascending(routes, r, m.slots())) {
        const auto e = static_cast<size_t>(routes.experts[slot]);
        std::vector<float> h = reference_product(row, m.gate[e]);
        const std::vector<float> u = reference_product(row, m.up[e]);
        for (size_t i = 0; i < h.size(); ++i) h[i] = h[i] / (1 + std::exp(-h[i])) * u[i];
        if (operand_type(m.down[e].format) == kOperandBf16) h = float_values(bf16_values(h));
        const std::vector<float> out = reference_product(h, m.down[e]);
        for (size_t i = 0; i < total.size(); ++i) {
          total[i] += static_cast<double>(routes.weights[slot]) * static_cast<double>(out[i]);
        }
      }
      for (const double t : total) y.push_back(static_cast<float>(t));
    }
    return y;
  }
};

// Says which elements are wrong, and stops at a few. A hidden value may be rounded the other way.
void expect_close(const std::vector<float>& got, const std::vector<float>& expected, int64_t n,
                  const std::string& what) {
  const double difference = relative_difference(got, expected);
  EXPECT_LT(difference, 1e-3) << what;
  if (difference < 1e-3) return;
  int shown = 0;
  for (size_t i = 0; i < got.size() && shown < 12; ++i) {
    if (std::abs(got[i] - expected[i]) <= 1e-2F * (1 + std::abs(expected[i]))) continue;
    ++shown;
    std::printf("  row %lld column %lld: %g, expected %g\n", static_cast<long long>(static_cast<int64_t>(i) / n),
                static_cast<long long>(static_cast<int64_t>(i) % n), static_cast<double>(got[i]),
                static_cast<double>(expected[i]));
  }
}

constexpr Shape kShapes[] = {{128, 64, 0, 1, 1, kGpuBf16, kGpuBf16},
                             {128, 64, 0, 4, 2, kGpuFp8Block, kGpuBf16},
                             {256, 128, 128, 16, 4, kGpuFp8Block, kGpuFp8Block},
                             {192, 128, 320, 5, 2, kGpuFp8Block, kGpuBf16},
                             {512, 192, 64, 40, 8, kGpuMxfp4, kGpuFp8Row},
                             {256, 64, 64, 300, 10, kGpuBf16, kGpuBf16}};

TEST_F(MoePrompt, EqualsTheExpertsOneByOne) {
  for (const Shape& shape : kShapes) {
    const Experts m = make(shape);
    for (const int64_t rows : {1, 7, 64, 65, 129, 300}) {
      if (rows > 65 && shape.experts > 16) continue;
      const std::vector<float> x = operand_rounded(normal_values(static_cast<size_t>(rows * shape.d), 1, 5));
      const Routes routes = random_routes(rows, shape, 6);
      const std::string what = std::to_string(shape.experts) + " experts, D " + std::to_string(shape.d) + ", F " +
                               std::to_string(shape.f) + ", " + std::to_string(rows) + " rows";
      expect_close(run(m, x, routes, rows), reference(m, x, routes, rows), shape.d, what);
      if (HasFailure()) return;
    }
  }
}

TEST_F(MoePrompt, ARowHasTheSameBitsAmongOthers) {
  const Shape shape = {256, 128, 128, 16, 4, kGpuFp8Block, kGpuFp8Block};
  const Experts m = make(shape);
  const std::vector<float> x = operand_rounded(normal_values(700 * 256, 1, 5));
  const Routes routes = random_routes(700, shape, 6);
  const std::vector<float> all = run(m, x, routes, 700);
  for (const int64_t first : {0, 64, 127, 500}) {
    for (const int64_t rows : {1, 60, 200}) {
      const std::vector<float> some(x.begin() + first * 256, x.begin() + (first + rows) * 256);
      Routes part;
      part.experts.assign(routes.experts.begin() + first * 5, routes.experts.begin() + (first + rows) * 5);
      part.weights.assign(routes.weights.begin() + first * 5, routes.weights.begin() + (first + rows) * 5);
      const std::vector<float> y = run(m, some, part, rows);
      EXPECT_TRUE(std::equal(y.begin(), y.end(), all.begin() + first * 256)) << "rows " << first << " + " << rows;
    }
  }
}

TEST_F(MoePrompt, AddsToWhatIsThere) {
  const Shape shape = {128, 64, 64, 4, 2, kGpuFp8Block, kGpuFp8Block};
  const Experts m = make(shape);
  const std::vector<float> x = operand_rounded(normal_values(70 * 128, 1, 5));
  const Routes routes = random_routes(70, shape, 6);
  const std::vector<float> before = normal_values(70 * 128, 1, 7);
  std::vector<float> expected = run(m, x, routes, 70);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = before[i] + expected[i];
  EXPECT_EQ(run(m, x, routes, 70, &before), expected);
}

// More rows than are worked on at once, with few columns.
TEST_F(MoePrompt, ManyRowsTakeTurns) {
  const Shape shape = {64, 64, 64, 4, 2, kGpuFp8Block, kGpuFp8Block};
  const Experts m = make(shape);
  constexpr int64_t kRows = kMoePromptRows + 100;
  const std::vector<float> x = operand_rounded(normal_values(kRows * 64, 1, 5));
  const Routes routes = random_routes(kRows, shape, 6);
  const std::vector<float> all = run(m, x, routes, kRows);
  expect_close(all, reference(m, x, routes, kRows), 64, "many rows");
}

TEST_F(MoePrompt, Timing) {
  constexpr int64_t kD = 2048;
  constexpr int64_t kF = 512;
  constexpr int32_t kExperts = 256;
  const Shape shape = {kD, kF, kF, kExperts, 8, kGpuFp8Block, kGpuFp8Block};
  const TestMatrix gate = random_matrix(kF, kD, kGpuFp8Block, 1);
  const PackedOnDevice gate_up = pack_on_device(gpu(), gate, &gate);
  const PackedOnDevice down = pack_on_device(gpu(), random_matrix(kD, kF, kGpuFp8Block, 2));
  // Every expert has its own memory.
  const auto expert_bytes = static_cast<int64_t>(gate_up.data.size() + down.data.size());
  OnDevice<uint8_t> data = zeros<uint8_t>(static_cast<size_t>(expert_bytes * (kExperts + 1)));
  std::vector<GpuPackedMlp> host;
  for (int64_t e = 0; e <= kExperts; ++e) {
    uint8_t* to = data.data() + e * expert_bytes;
    host.push_back({gate_up.packed, down.packed});
    host.back().gate_up.data = to;
    host.back().down.data = to + gate_up.data.size();
    stream_.copy(reinterpret_cast<std::byte*>(to), reinterpret_cast<std::byte*>(gate_up.data.data()),
                 static_cast<int64_t>(gate_up.data.size()));
    stream_.copy(reinterpret_cast<std::byte*>(to + gate_up.data.size()), reinterpret_cast<std::byte*>(down.data.data()),
                 static_cast<int64_t>(down.data.size()));
  }
  OnDevice<GpuPackedMlp> table = upload(host);
  for (const int32_t rows : {16, 64, 512, 2048, 8192}) {
    const Routes routes = random_routes(rows, shape, 3, true);
    OnDevice<uint16_t> x =
        upload(operand_bits(operand_rounded(normal_values(static_cast<size_t>(rows * kD), 1, 5)), kGpuFp8Block));
    OnDevice<int32_t> experts = upload(routes.experts);
    OnDevice<float> weights = upload(routes.weights);
    OnDevice<float> y = zeros<float>(static_cast<size_t>(rows * kD));
    OnDevice<uint8_t> work = zeros<uint8_t>(static_cast<size_t>(moe_prompt_work_bytes(rows, 9, kExperts + 1, kD, kF)));
    GpuMoePromptArgs args;
    args.table = table.data();
    args.x_f16 = x.data();
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
    const double micros_a_call = micros(20, [&] { moe_prompt(g, args, reinterpret_cast<std::byte*>(work.data())); });
    const double flops = 6.0 * static_cast<double>(rows) * 9 * static_cast<double>(kD * kF);
    std::printf("experts of a prompt, %5d rows: %8.1f us, %6.1f TFLOP/s\n", rows, micros_a_call,
                flops / micros_a_call / 1e6);
  }
}

}  // namespace
}  // namespace weir
