// The kernels for few rows of dense matrices give the bits of the general one.
#include "ops/linear/linear_few_gpu.h"

#include "ops/linear/linear_packed_gpu.h"
#include "ops/linear/packed_test_tools.h"
#include "ops/norm/norm_rows_gpu.h"

namespace weir {
namespace {

// An output of a group: FP8 ones come first, and there is at most one.
struct Part {
  int64_t n;
  int32_t format = kGpuBf16;
  int32_t kind = kPackedStore;
};

class LinearFew : public GpuTest {
 protected:
  struct Matrices {
    int64_t k;
    std::vector<Part> parts;
    std::vector<PackedOnDevice> packed;
  };
  Matrices make(int64_t k, const std::vector<Part>& parts) {
    Matrices out{k, parts, {}};
    uint64_t seed = 1;
    for (const Part& part : parts) {
      const bool pairs = part.kind == kPackedSwiglu;
      const int64_t n = pairs ? part.n / 2 : part.n;
      const TestMatrix matrix = random_matrix(n, k, part.format, seed++);
      const TestMatrix second = pairs ? random_matrix(n, k, part.format, seed++) : TestMatrix();
      out.packed.push_back(pack_on_device(gpu(), matrix, pairs ? &second : nullptr));
    }
    return out;
  }

  // By the general kernel, by that of few rows, and by the latter with rows that were normed before.
  enum class By { kGeneral, kFew, kFewNormed };
  // What a product leaves: every output's bytes, and the normed rows that the kernel wrote.
  struct Left {
    std::vector<std::vector<float>> outputs;
    std::vector<std::vector<uint16_t>> normed;
    bool operator==(const Left&) const = default;
  };
  Left product(const Matrices& m, int32_t rows, By by) {
    const auto width = static_cast<size_t>(rows * m.k);
    OnDevice<float> x = upload(normal_values(width, 2, 4));
    OnDevice<float> norm = upload(normal_values(static_cast<size_t>(m.k), 0.1F, 5));
    OnDevice<uint16_t> bf16_rows = zeros<uint16_t>(width);
    OnDevice<uint16_t> f16_rows = zeros<uint16_t>(width);
    const bool fp8 = m.parts.front().format == kGpuFp8Block;
    const bool bf16 = m.parts.back().format == kGpuBf16;
    // Of kPackedSwiglu half of an output's numbers are written, 16 bits each.
    std::vector<OnDevice<float>> y;
    for (const Part& part : m.parts) y.push_back(upload(normal_values(static_cast<size_t>(rows * part.n), 1, 6)));
    Gpu g = gpu();
    const auto fill = [&](auto* args) {
      args->x = x.data();
      args->norm = norm.data();
      args->x_stride = m.k;
      args->k = static_cast<int32_t>(m.k);
      args->rows = rows;
      if (fp8) args->x_out_f16 = f16_rows.data();
      if (bf16) args->x_out_bf16 = bf16_rows.data();
      for (size_t i = 0; i < m.parts.size(); ++i) {
        const Part& part = m.parts[i];
        const int64_t stride = part.kind == kPackedSwiglu ? part.n / 2 : part.n;
        args->outputs[args->count++] = {m.packed[i].packed, y[i].data(), stride, part.kind, operand_type(part.format)};
      }
    };
    if (by == By::kGeneral) {
      GpuPackedLinearArgs args;
      fill(&args);
      linear_packed(g, args);
    } else {
      GpuFewArgs args;
      fill(&args);
      args.fp8_count = fp8 ? 1 : 0;
      if (by == By::kFewNormed) {
        GpuNormRowsArgs before;
        before.x = x.data();
        before.x_stride = m.k;
        before.weight = norm.data();
        before.size = static_cast<int32_t>(m.k);
        before.eps = args.eps;
        before.bf16 = bf16 ? bf16_rows.data() : nullptr;
        before.f16 = fp8 ? f16_rows.data() : nullptr;
        norm_rows(g, before, rows);
        args.norm = nullptr;
        args.x_out_bf16 = nullptr;
        args.x_out_f16 = nullptr;
        args.x_bf16 = bf16_rows.data();
        args.x_f16 = f16_rows.data();
      }
      EXPECT_TRUE(few_takes(g, args));
      linear_few(g, args);
    }
    Left left;
    for (const OnDevice<float>& one : y) left.outputs.push_back(one.read());
    left.normed = {f16_rows.read(), bf16_rows.read()};
    return left;
  }
  void compare_products(int64_t k, const std::vector<Part>& parts, std::initializer_list<int32_t> row_counts) {
    const Matrices m = make(k, parts);
    for (const int32_t rows : row_counts) {
      const Left general = product(m, rows, By::kGeneral);
      const auto compare = [&](By by, const char* how) {
        const Left few = product(m, rows, by);
        for (size_t i = 0; i < parts.size(); ++i) {
          EXPECT_EQ(few.outputs[i], general.outputs[i]) << rows << " rows, K " << k << ", output " << i << how;
        }
        EXPECT_EQ(few.normed, general.normed) << rows << " rows, K " << k << how;
      };
      compare(By::kFew, "");
      compare(By::kFewNormed, ", normed before");
    }
  }

  // Products of a vocabulary head.
  void compare_head(int64_t n, std::initializer_list<int32_t> row_counts) {
    constexpr int64_t kK = 2048;
    const PackedOnDevice head = pack_on_device(gpu(), random_matrix(n, kK, kGpuBf16, 3));
    for (const int32_t rows : row_counts) {
      OnDevice<float> x = upload(normal_values(static_cast<size_t>(rows * kK), 2, 4));
      OnDevice<float> norm = upload(normal_values(kK, 0.1F, 5));
      const auto run = [&](auto args, const auto& multiply) {
        OnDevice<float> y = zeros<float>(static_cast<size_t>(rows * n));
        args.x = x.data();
        args.norm = norm.data();
        args.x_stride = kK;
        args.k = kK;
        args.rows = rows;
        args.outputs[args.count++] = {head.packed, y.data(), n, kPackedStore, 0};
        Gpu g = gpu();
        multiply(g, args);
        return y.read();
      };
      const std::vector<float> few = run(GpuFewArgs(), [](Gpu& g, const GpuFewArgs& args) {
        EXPECT_TRUE(head_few_takes(g, args));
        head_few(g, args);
      });
      EXPECT_EQ(few, run(GpuPackedLinearArgs(), linear_packed)) << rows << " rows";
    }
  }

  // One matrix by the kernel of some rows.
  void compare_some(int64_t n, int32_t format, std::initializer_list<int32_t> row_counts) {
    constexpr int64_t kK = 4096;
    const PackedOnDevice matrix = pack_on_device(gpu(), random_matrix(n, kK, format, 4));
    for (const int32_t rows : row_counts) {
      OnDevice<uint16_t> x =
          upload(to_operand(normal_values(static_cast<size_t>(rows * kK), 1, 5), operand_type(format)));
      const std::vector<float> before = normal_values(static_cast<size_t>(rows * n), 1, 6);
      for (const int32_t kind : {kPackedStore, kPackedAdd}) {
        const auto run = [&](auto args, const auto& multiply) {
          OnDevice<float> y = upload(before);
          args.outputs[args.count++] = {matrix.packed, y.data(), n, kind, 0};
          (operand_type(format) == kOperandF16 ? args.x_f16 : args.x_bf16) = x.data();
          args.x_stride = kK;
          args.k = kK;
          args.rows = rows;
          Gpu g = gpu();
          multiply(g, args);
          return y.read();
        };
        const std::vector<float> some = run(GpuFewArgs(), [](Gpu& g, const GpuFewArgs& args) {
          EXPECT_TRUE(some_rows_takes(g, args));
          linear_some(g, args);
        });
        EXPECT_EQ(some, run(GpuPackedLinearArgs(), linear_packed))
            << "format " << format << ", " << rows << " rows, kind " << kind;
      }
    }
  }
};

TEST_F(LinearFew, ProductsHaveTheBitsOfTheGeneralKernel) {
  compare_products(2048, {{1040, kGpuFp8Block}, {33}}, {1, 3, 8});
  compare_head(40'008, {1, 3, 8});
}

// Without FP8 beside them: blocks with one strip and with several, of one output and of two, the last one half there; K
// of one block, of fewer than a slot has units, and of many slots.
TEST_F(LinearFew, Bf16ProductsHaveTheBitsOfTheGeneralKernel) {
  compare_products(2048, {{4133}, {2064}, {33}, {5}}, {1, 2, 3, 4, 5, 6, 7, 8});
  compare_products(4096, {{2040}}, {1, 5, 8});
  compare_products(128, {{40}, {19}}, {1, 8});
  compare_products(512, {{2200}, {1}}, {1, 7});
}

// The group before sparse experts, and an output that others add to.
TEST_F(LinearFew, OutputsOfEveryKindHaveTheBitsOfTheGeneralKernel) {
  for (const int32_t format : {kGpuFp8Block, kGpuBf16}) {
    compare_products(2048, {{1024, format, kPackedSwiglu}, {256}, {1}}, {1, 4, 8});
    compare_products(1024, {{4200, format, kPackedAdd}, {48, kGpuBf16, kPackedSwiglu}, {17, kGpuBf16, kPackedAdd}},
                     {1, 8});
  }
  compare_products(2048, {{256}, {1}, {1024, kGpuBf16, kPackedSwiglu}}, {1, 8});
}

TEST_F(LinearFew, ProductsOfSomeRowsHaveTheBitsOfTheGeneralKernel) {
  for (const int32_t format : {kGpuFp8Block, kGpuBf16}) compare_some(2040, format, {1, 8, 9, 16, 17, 24, 31, 32});
}

// Few launches: check.sh has them searched for races.
TEST_F(LinearFew, SlotsTakeTurns) {
  compare_products(2048, {{8448, kGpuFp8Block}, {33}}, {1, 8});
  compare_products(2048, {{4240}, {33}}, {1, 8});
  compare_head(2120, {1, 8});
  compare_some(120, kGpuFp8Block, {32});
  compare_some(120, kGpuBf16, {32});
}

// On the device that the kernels' sizes were chosen for; needs none.
class LinearFewSizes : public ::testing::Test {
 protected:
  static device::DeviceInfo h200() {
    device::DeviceInfo info;
    info.multiprocessors = 132;
    info.shared_bytes_max = 232448;
    return info;
  }
  static GpuFewArgs group(int64_t k, const std::vector<Part>& parts, int32_t rows) {
    GpuFewArgs args;
    args.k = static_cast<int32_t>(k);
    args.rows = rows;
    for (const Part& part : parts) {
      args.outputs[args.count++] = {packed_shape(part.n, k, part.format), nullptr, part.n, part.kind, 0};
      if (part.format == kGpuFp8Block) ++args.fp8_count;
    }
    return args;
  }
  // The rows that a kernel takes: all up to this many.
  static int32_t rows_taken(int64_t k, const std::vector<Part>& parts) {
    int32_t rows = 0;
    while (few_fits(h200(), group(k, parts, rows + 1))) ++rows;
    return rows;
  }
  static int32_t some_rows_taken(int64_t k, const Part& part) {
    int32_t rows = 0;
    while (some_rows_fit(h200(), group(k, {part}, rows + 1))) ++rows;
    return rows;
  }
};

TEST_F(LinearFewSizes, GroupsOfEitherFormatAreTakenUpToTheRowsThatLeaveRoomForARing) {
  for (const int32_t format : {kGpuFp8Block, kGpuBf16}) {
    EXPECT_EQ(rows_taken(2048, {{8192, format}, {4096, format}, {32}, {32}}), kFewRows);
    EXPECT_EQ(rows_taken(2048, {{8192, format}, {512, format}, {512, format}}), kFewRows);
    EXPECT_EQ(rows_taken(4096, {{2048, format}}), kFewRows);
    EXPECT_EQ(rows_taken(4096, {{12288, format}, {8192, format}, {64}, {64}}), 4);
    EXPECT_EQ(some_rows_taken(4096, {2048, format}), kLinearSomeRows);
    EXPECT_EQ(some_rows_taken(4096, {132 * 16 + 1, format}), 0);  // more strips than multiprocessors
  }
  EXPECT_EQ(rows_taken(4096, {{32768}, {512}, {512}}), 2);
  EXPECT_EQ(rows_taken(2048, {{1024, kGpuMxfp4}}), 0);
  EXPECT_EQ(rows_taken(2048, {}), 0);
  EXPECT_EQ(some_rows_taken(4096, {2048, kGpuMxfp4}), 0);
}

TEST_F(LinearFewSizes, NormedRowsAreWrittenInTypesThatOutputsTakeAlone) {
  float norm = 0;
  uint16_t out = 0;
  for (const int32_t format : {kGpuFp8Block, kGpuBf16}) {
    GpuFewArgs args = group(2048, {{1024, format}}, 1);
    args.norm = &norm;
    EXPECT_TRUE(few_fits(h200(), args));
    (format == kGpuBf16 ? args.x_out_bf16 : args.x_out_f16) = &out;
    EXPECT_TRUE(few_fits(h200(), args));
    args.x_out_bf16 = args.x_out_f16 = &out;
    EXPECT_FALSE(few_fits(h200(), args));
  }
}

}  // namespace
}  // namespace weir
