#include "ops/linear/linear_prompt_gpu.h"

#include <algorithm>
#include <cstdio>

#include "ops/linear/mxfp4_word.h"
#include "ops/linear/packed_test_tools.h"
#include "ops/linear/prompt_test_tools.h"

namespace weir {
namespace {

constexpr int32_t kFormats[] = {kGpuFp8Block, kGpuBf16, kGpuFp8Row, kGpuMxfp4};
constexpr const char* kFormatNames[] = {"F32", "BF16", "FP8 block", "FP8 row", "MXFP4"};

// The packed form by the words of packed.h, one stored element after the other.
struct HostPacked {
  GpuPacked shape;
  std::vector<uint8_t> data;
  std::vector<float> scales;  // of blocks, or of rows
};

// Sets the code of row r of a strip, k of a tile, where lane, register and half say.
void place_code(uint8_t* tile, int32_t format, int64_t r, int64_t k, const TestMatrix& w, int64_t row, int64_t column) {
  const int64_t g = r % 8;
  const int64_t step = k / 16;
  const int64_t upper_k = k % 16 / 8;  // k 8..15 of the step
  const int64_t t = k % 8 / 2;
  const int64_t half = k % 2;
  const int64_t lane = 4 * g + t;
  const int64_t i = 2 * upper_k + r / 8;  // register of the fragment
  const uint8_t* source = w.data.data() + row * w.row_bytes();
  if (format == kGpuBf16) {
    std::memcpy(tile + ((step * 32 + lane) * 4 + i) * 4 + 2 * half, source + 2 * column, 2);
  } else if (format == kGpuMxfp4) {
    const uint32_t code = (source[column / 2] >> (column % 2 * 4)) & 0xfU;
    uint8_t* at = tile + (lane * 4 + step) * 4;
    uint32_t word = 0;
    std::memcpy(&word, at, sizeof(word));
    const auto register_of = static_cast<int>(i);
    word |= half == 0 ? mxfp4_bits(code, 0, register_of) : mxfp4_bits(0, code, register_of);
    std::memcpy(at, &word, sizeof(word));
    tile[512 + g * 4 + r / 8 * 2 + k / 32] = w.scales[static_cast<size_t>(row * w.k / 32 + column / 32)];
  } else {
    // k 2t, 2t + 1, 2t + 8, 2t + 9.
    tile[((r / 8 * 32 + lane) * 4 + step) * 4 + upper_k * 2 + half] = source[column];
  }
}

HostPacked pack_on_host(const TestMatrix& w) {
  HostPacked out;
  out.shape = packed_shape(w.n, w.k, w.format);
  const int64_t tile_bytes = packed_tile_bytes(w.format);
  const int64_t tiles = (w.k + kTileK - 1) / kTileK;
  const int64_t blocks = (tiles + 1) / 2;
  const int64_t strips = (w.n + kStripRows - 1) / kStripRows;
  out.data.resize(static_cast<size_t>(strips * tiles * tile_bytes));
  for (int64_t row = 0; row < w.n; ++row) {
    for (int64_t column = 0; column < w.k; ++column) {
      uint8_t* tile = out.data.data() + (row / 16 * tiles + column / kTileK) * tile_bytes;
      place_code(tile, w.format, row % 16, column % kTileK, w, row, column);
    }
  }
  if (w.format != kGpuFp8Block && w.format != kGpuFp8Row) return out;
  std::vector<float> stored(w.scales.size() / 4);
  std::memcpy(stored.data(), w.scales.data(), w.scales.size());
  if (w.format == kGpuFp8Row) {
    out.scales.resize(static_cast<size_t>(strips * kStripRows), 1.0F);
    std::copy(stored.begin(), stored.end(), out.scales.begin());
    return out;
  }
  for (int64_t strip = 0; strip < strips; ++strip) {
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t h = 0; h < 2; ++h) {
        const int64_t row = std::min(strip * 16 + 8 * h, w.n - 1);
        out.scales.push_back(stored[static_cast<size_t>(row / 128 * ((w.k + 127) / 128) + block)]);
      }
    }
  }
  return out;
}

// Says which elements are wrong, and stops at a few.
void expect_close(const std::vector<float>& got, const std::vector<float>& expected, int64_t n, const char* what) {
  const double difference = relative_difference(got, expected);
  EXPECT_LT(difference, 1e-5) << what;
  if (difference < 1e-5) return;
  int shown = 0;
  int64_t wrong = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const float limit = 1e-3F * (1 + std::abs(expected[i]));
    if (std::abs(got[i] - expected[i]) <= limit) continue;
    ++wrong;
    if (shown++ < 12) {
      std::printf("  row %lld column %lld: %g, expected %g\n", static_cast<long long>(static_cast<int64_t>(i) / n),
                  static_cast<long long>(static_cast<int64_t>(i) % n), static_cast<double>(got[i]),
                  static_cast<double>(expected[i]));
    }
  }
  std::printf("  %lld of %zu are wrong\n", static_cast<long long>(wrong), got.size());
}

// Gives the call the rows in the type that `format` takes.
void set_rows(GpuPromptArgs* args, const uint16_t* x, int32_t format) {
  (operand_type(format) == kOperandF16 ? args->x_f16 : args->x_bf16) = x;
}

class LinearPrompt : public GpuTest {
 protected:
  struct Matrix {
    OnDevice<uint8_t> data;
    OnDevice<float> scales;
    GpuPacked packed;
  };
  Matrix put(const TestMatrix& w) {
    const HostPacked host = pack_on_host(w);
    Matrix out;
    out.packed = host.shape;
    out.data = upload(host.data);
    out.packed.data = out.data.data();
    if (!host.scales.empty()) {
      out.scales = upload(host.scales);
      (w.format == kGpuFp8Row ? out.packed.row_scales : out.packed.scales) = out.scales.data();
    }
    return out;
  }
  std::vector<float> run(const std::vector<float>& x, const GpuPacked& w, const std::vector<float>* onto = nullptr) {
    const auto rows = static_cast<int64_t>(x.size()) / w.k;
    OnDevice<uint16_t> in = upload(operand_bits(x, w.format));
    OnDevice<float> y =
        onto != nullptr ? upload(*onto) : OnDevice<float>(gpu(), static_cast<size_t>(rows * w.n), -7.0F);
    GpuPromptArgs args;
    set_rows(&args, in.data(), w.format);
    args.x_stride = w.k;
    args.rows = static_cast<int32_t>(rows);
    args.count = 1;
    args.outputs[0] = {w, y.data(), w.n, onto != nullptr ? 1 : 0, 0};
    Gpu g = gpu();
    linear_prompt(g, args);
    return y.read();
  }
};

struct Shape {
  int64_t n;
  int64_t k;
};

// One warp's strip, one block of K, one step at a time: what is wrong here names the index that is wrong.
TEST_F(LinearPrompt, PicksOneElement) {
  for (const int32_t format : {kGpuBf16, kGpuFp8Row}) {
    TestMatrix w;
    w.n = 128;
    w.k = 128;
    w.format = format;
    w.data.resize(static_cast<size_t>(w.n * w.row_bytes()));
    for (int64_t row = 0; row < w.n; ++row) {
      const int64_t column = (row * 5 + 3) % w.k;
      const uint16_t one = float_to_bf16(1.0F);
      uint8_t* at = w.data.data() + row * w.row_bytes() + column * (format == kGpuBf16 ? 2 : 1);
      if (format == kGpuBf16) std::memcpy(at, &one, 2);
      if (format == kGpuFp8Row) *at = 0x38;
    }
    if (format == kGpuFp8Row) w.scales.resize(static_cast<size_t>(w.n) * 4);
    for (size_t i = 0; i < w.scales.size() / 4; ++i) {
      const float one = 1.0F;
      std::memcpy(w.scales.data() + 4 * i, &one, 4);
    }
    constexpr int64_t kRows = 128;
    std::vector<float> x(kRows * 128);
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 128 + 128 * (i / 128 % 2));
    std::vector<float> expected(kRows * 128);
    for (size_t row = 0; row < 128; ++row) {
      for (size_t n = 0; n < 128; ++n) expected[row * 128 + n] = x[row * 128 + (n * 5 + 3) % 128];
    }
    Matrix matrix = put(w);
    expect_close(run(x, matrix.packed), expected, 128, kFormatNames[format]);
  }
}

TEST_F(LinearPrompt, EqualsTheProductOfWhatIsStored) {
  constexpr Shape kShapes[] = {{16, 64}, {16, 128}, {128, 128}, {72, 256}, {33, 192}, {300, 512}, {512, 2048}};
  for (const Shape& shape : kShapes) {
    for (const int32_t format : kFormats) {
      const TestMatrix w = random_matrix(shape.n, shape.k, format, 7);
      Matrix matrix = put(w);
      for (const int64_t rows : {1, 7, 64, 65, 129, 300}) {
        const std::vector<float> x = operand_rounded(normal_values(static_cast<size_t>(rows * shape.k), 1, 11));
        const std::string what = std::string(kFormatNames[format]) + ", " + std::to_string(rows) + " x " +
                                 std::to_string(shape.n) + " x " + std::to_string(shape.k);
        expect_close(run(x, matrix.packed), reference_product(x, w), shape.n, what.c_str());
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(LinearPrompt, ARowHasTheSameBitsAmongOthers) {
  for (const int32_t format : kFormats) {
    const TestMatrix w = random_matrix(272, 2112, format, 3);
    Matrix matrix = put(w);
    const std::vector<float> x = operand_rounded(normal_values(300 * 2112, 1, 5));
    const std::vector<float> all = run(x, matrix.packed);
    for (const int64_t first : {0, 1, 64, 127, 128, 250}) {
      for (const int64_t rows : {1, 40, 50}) {
        const std::vector<float> some(x.begin() + first * 2112, x.begin() + (first + rows) * 2112);
        const std::vector<float> y = run(some, matrix.packed);
        EXPECT_TRUE(std::equal(y.begin(), y.end(), all.begin() + first * 272))
            << kFormatNames[format] << ", rows " << first << " + " << rows;
      }
    }
  }
}

TEST_F(LinearPrompt, AddsToWhatIsThere) {
  const TestMatrix w = random_matrix(72, 256, kGpuFp8Block, 9);
  Matrix matrix = put(w);
  const std::vector<float> x = operand_rounded(normal_values(70 * 256, 1, 5));
  const std::vector<float> before = normal_values(70 * 72, 1, 6);
  std::vector<float> expected = run(x, matrix.packed);
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = before[i] + expected[i];
  EXPECT_EQ(run(x, matrix.packed, &before), expected);
}

TEST_F(LinearPrompt, MultipliesAGroupOfFormats) {
  constexpr int64_t kK = 320;
  constexpr int64_t kRows = 150;
  constexpr int64_t kStride = 336;  // of x
  const TestMatrix weights[] = {random_matrix(200, kK, kGpuFp8Block, 1), random_matrix(5, kK, kGpuBf16, 2),
                                random_matrix(130, kK, kGpuMxfp4, 3), random_matrix(64, kK, kGpuFp8Row, 4)};
  std::vector<Matrix> matrices;
  std::vector<OnDevice<float>> y;
  const std::vector<float> x = operand_rounded(normal_values(kRows * kStride, 1, 5));
  std::vector<float> dense;
  for (int64_t r = 0; r < kRows; ++r) dense.insert(dense.end(), x.begin() + r * kStride, x.begin() + r * kStride + kK);
  OnDevice<uint16_t> in_bf16 = upload(operand_bits(x, kGpuBf16));
  OnDevice<uint16_t> in_f16 = upload(operand_bits(x, kGpuFp8Block));
  GpuPromptArgs args;
  args.x_bf16 = in_bf16.data();
  args.x_f16 = in_f16.data();
  args.x_stride = kStride;
  args.rows = kRows;
  args.count = 4;
  for (int i = 0; i < 4; ++i) {
    matrices.push_back(put(weights[i]));
    y.push_back(zeros<float>(static_cast<size_t>(kRows * weights[i].n)));
    args.outputs[i] = {matrices.back().packed, y.back().data(), weights[i].n, 0, 0};
  }
  Gpu g = gpu();
  linear_prompt(g, args);
  for (size_t i = 0; i < 4; ++i) {
    expect_close(y[i].read(), reference_product(dense, weights[i]), weights[i].n, kFormatNames[weights[i].format]);
  }
}

// Prompts and generated rows are computed by different instructions; this says how much that shows.
TEST_F(LinearPrompt, AgreesWithTheProductOfFewRows) {
  for (const int32_t format : kFormats) {
    constexpr int64_t kRows = 33;
    const TestMatrix w = random_matrix(256, 2048, format, 3);
    Matrix matrix = put(w);
    const std::vector<float> x = operand_rounded(normal_values(kRows * 2048, 1, 5));
    const std::vector<float> prompt = run(x, matrix.packed);
    const PackedOnDevice packed = pack_on_device(gpu(), w);
    OnDevice<uint16_t> in = upload(operand_bits(x, format));
    OnDevice<float> y = zeros<float>(kRows * 256);
    GpuPackedLinearArgs args;
    (operand_type(format) == kOperandF16 ? args.x_f16 : args.x_bf16) = in.data();
    args.x_stride = 2048;
    args.k = 2048;
    args.rows = kRows;
    args.count = 1;
    args.outputs[0] = {packed.packed, y.data(), 256, kPackedStore, 0};
    Gpu g = gpu();
    linear_packed(g, args);
    const std::vector<float> few = y.read();
    int64_t differ = 0;
    for (size_t i = 0; i < few.size(); ++i) differ += few[i] != prompt[i] ? 1 : 0;
    std::printf("%s: %lld of %zu values differ between few rows and prompts, relative difference %.2e\n",
                kFormatNames[format], static_cast<long long>(differ), few.size(), relative_difference(prompt, few));
    EXPECT_LT(relative_difference(prompt, few), 1e-5);
    EXPECT_EQ(packed.data.read(), matrix.data.read()) << "packed otherwise than packed.h says";
  }
}

TEST_F(LinearPrompt, ChoosesTheShapeOfUnits) {
  const auto expect = [](int64_t rows, int64_t strips, PromptShape shape) {
    const PromptShape got = prompt_shape(rows, strips, 132);
    EXPECT_EQ(got.strips, shape.strips);
    EXPECT_EQ(got.columns, shape.columns);
    EXPECT_EQ(got.rows, shape.rows);
  };
  expect(8192, 768, {8, 128, 128});
  expect(64, 768, {8, 64, 64});
  expect(64, 128, {4, 16, 32});
  expect(1, 768, {8, 16, 16});
}

std::vector<uint16_t> repeated(const std::vector<uint16_t>& x, int64_t count) {
  std::vector<uint16_t> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); ++i) out[i] = x[i % x.size()];
  return out;
}

TEST_F(LinearPrompt, Timing) {
  struct Case {
    const char* name;
    int64_t n;
    int64_t k;
    int32_t format;
  };
  constexpr Case kCases[] = {{"qkv and z", 12288, 2048, kGpuFp8Block},
                             {"out", 2048, 4096, kGpuFp8Block},
                             {"head in BF16", 12288, 2048, kGpuBf16},
                             {"in MXFP4", 12288, 2048, kGpuMxfp4}};
  for (const Case& c : kCases) {
    const PackedOnDevice w = pack_on_device(gpu(), random_matrix(c.n, c.k, c.format, 1));
    for (const int32_t rows : {16, 64, 512, 2048, 8192}) {
      OnDevice<uint16_t> x =
          upload(repeated(operand_bits(operand_rounded(normal_values(1 << 18, 1, 5)), c.format), rows * c.k));
      OnDevice<float> y = zeros<float>(static_cast<size_t>(rows * c.n));
      for (const int32_t add : {0, 1}) {
        const double micros_a_call = micros(20, [&] {
          GpuPromptArgs args;
          set_rows(&args, x.data(), c.format);
          args.x_stride = c.k;
          args.rows = rows;
          args.count = 1;
          args.outputs[0] = {w.packed, y.data(), c.n, add, 0};
          Gpu g = gpu();
          linear_prompt(g, args);
        });
        const double flops = 2.0 * static_cast<double>(rows) * static_cast<double>(c.n) * static_cast<double>(c.k);
        std::printf("prompt %-12s %5d rows%s: %8.1f us, %6.1f TFLOP/s, %5.1f GB/s of weights\n", c.name, rows,
                    add != 0 ? ", added" : "", micros_a_call, flops / micros_a_call / 1e6,
                    static_cast<double>(packed_data_bytes(w.packed)) / micros_a_call / 1e3);
      }
    }
  }
}

}  // namespace
}  // namespace weir
