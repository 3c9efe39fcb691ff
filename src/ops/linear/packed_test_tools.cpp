#include "ops/linear/packed_test_tools.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "tensor/fp8.h"
#include "tensor/mxfp4.h"

namespace weir {
namespace {

constexpr int64_t kGroup = 32;

GpuMatrix on_device(Gpu gpu, const TestMatrix& m, OnDevice<uint8_t>* data, OnDevice<uint8_t>* scales) {
  *data = OnDevice<uint8_t>(gpu, m.data);
  GpuMatrix out;
  out.data = data->data();
  if (!m.scales.empty()) {
    *scales = OnDevice<uint8_t>(gpu, m.scales);
    out.scales = scales->data();
  }
  out.row_bytes = m.row_bytes();
  out.n = static_cast<int32_t>(m.n);
  out.k = static_cast<int32_t>(m.k);
  out.format = m.format;
  if (m.format == kGpuFp8Block) out.scale_stride = (m.k + kBlockK - 1) / kBlockK;
  if (m.format == kGpuFp8Row) out.scale_stride = 1;
  if (m.format == kGpuMxfp4) out.scale_stride = m.k / kGroup;
  return out;
}

// To nearest, ties to even; beyond +-65,504 it stays there.
uint16_t float_to_f16(float x) {
  const double size = std::abs(static_cast<double>(x));
  const auto sign = static_cast<uint16_t>(std::signbit(x) ? 0x8000U : 0U);
  if (size == 0) return sign;
  const int exponent = std::max(std::ilogb(size), -14);
  const auto steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  const uint32_t bits = (static_cast<uint32_t>(exponent + 14) << 10) + steps;
  return static_cast<uint16_t>(sign | std::min(bits, 0x7bffU));
}

float f16_to_float(uint16_t bits) {
  const int exponent = std::max(bits >> 10 & 31, 1);
  const int steps = (bits & 1023) + ((bits >> 10 & 31) != 0 ? 1024 : 0);
  const float size = std::ldexp(static_cast<float>(steps), exponent - 25);
  return (bits & 0x8000U) != 0 ? -size : size;
}

}  // namespace

std::vector<uint16_t> to_operand(const std::vector<float>& x, int32_t type) {
  if (type == kOperandBf16) return bf16_values(x);
  std::vector<uint16_t> out;
  for (const float v : x) out.push_back(float_to_f16(v));
  return out;
}

std::vector<float> from_operand(const std::vector<uint16_t>& bits, int32_t type) {
  if (type == kOperandBf16) return float_values(bits);
  std::vector<float> out;
  for (const uint16_t v : bits) out.push_back(f16_to_float(v));
  return out;
}

int64_t TestMatrix::row_bytes() const {
  if (format == kGpuBf16) return 2 * k;
  return format == kGpuMxfp4 ? k / 2 : k;
}

TestMatrix random_matrix(int64_t n, int64_t k, int32_t format, uint64_t seed) {
  std::mt19937_64 random(seed);
  TestMatrix m;
  m.n = n;
  m.k = k;
  m.format = format;
  m.data.resize(static_cast<size_t>(n * m.row_bytes()));
  m.values.resize(static_cast<size_t>(n * k));
  std::vector<float> scales;
  if (format == kGpuFp8Block) scales.resize(static_cast<size_t>((n + 127) / 128 * ((k + 127) / 128)));
  if (format == kGpuFp8Row) scales.resize(static_cast<size_t>(n));
  std::uniform_real_distribution<float> uniform(0.5F, 2.0F);
  for (float& s : scales) s = uniform(random) / 64;
  if (format == kGpuMxfp4) {
    m.scales.resize(static_cast<size_t>(n * k / kGroup));
    for (uint8_t& s : m.scales) s = static_cast<uint8_t>(120 + random() % 5);
  } else if (!scales.empty()) {
    m.scales.resize(scales.size() * sizeof(float));
    std::memcpy(m.scales.data(), scales.data(), m.scales.size());
  }
  std::normal_distribution<float> normal(0.0F, 0.05F);
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t i = 0; i < k; ++i) {
      double& value = m.values[static_cast<size_t>(row * k + i)];
      if (format == kGpuBf16) {
        const uint16_t bits = float_to_bf16(normal(random));
        std::memcpy(m.data.data() + row * 2 * k + 2 * i, &bits, 2);
        value = static_cast<double>(bf16_to_float(bits));
      } else if (format == kGpuMxfp4) {
        const auto code = static_cast<uint8_t>(random() % 16);
        auto& byte = m.data[static_cast<size_t>(row * k / 2 + i / 2)];
        byte = static_cast<uint8_t>(byte | code << (i % 2 * 4));
        value = static_cast<double>(e2m1_to_float(code)) *
                std::exp2(static_cast<double>(m.scales[static_cast<size_t>(row * k / kGroup + i / kGroup)]) - 127.0);
      } else {
        auto code = static_cast<uint8_t>(random());
        if ((code & 0x7fU) == 0x7fU) code = 0;  // NaN
        m.data[static_cast<size_t>(row * k + i)] = code;
        const int64_t at = format == kGpuFp8Row ? row : row / 128 * ((k + 127) / 128) + i / 128;
        value = static_cast<double>(fp8_e4m3_to_float(code)) * static_cast<double>(scales[static_cast<size_t>(at)]);
      }
    }
  }
  return m;
}

PackedOnDevice pack_on_device(Gpu gpu, const TestMatrix& matrix, const TestMatrix* second) {
  PackedOnDevice out;
  out.packed = packed_shape(second != nullptr ? 2 * matrix.n : matrix.n, matrix.k, matrix.format);
  out.data = OnDevice<uint8_t>(gpu, static_cast<size_t>(packed_data_bytes(out.packed)), 0xff);
  out.packed.data = out.data.data();
  if (packed_scale_floats(out.packed) > 0) {
    out.scales = OnDevice<float>(gpu, static_cast<size_t>(packed_scale_floats(out.packed)), 1e30F);
    (matrix.format == kGpuFp8Row ? out.packed.row_scales : out.packed.scales) = out.scales.data();
  }
  OnDevice<uint8_t> data[2];
  OnDevice<uint8_t> scales[2];
  GpuPackArgs args;
  args.source = on_device(gpu, matrix, &data[0], &scales[0]);
  if (second != nullptr) {
    args.second = on_device(gpu, *second, &data[1], &scales[1]);
    args.interleaved = 1;
  }
  args.target = out.packed;
  pack(gpu, args);
  EXPECT_TRUE(gpu.stream->wait().ok());
  return out;
}

std::vector<float> reference_product(const std::vector<float>& x, const TestMatrix& w) {
  const auto rows = static_cast<int64_t>(x.size()) / w.k;
  std::vector<float> y(static_cast<size_t>(rows * w.n));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t n = 0; n < w.n; ++n) {
      double sum = 0;
      for (int64_t i = 0; i < w.k; ++i) {
        sum += static_cast<double>(x[static_cast<size_t>(r * w.k + i)]) * w.values[static_cast<size_t>(n * w.k + i)];
      }
      y[static_cast<size_t>(r * w.n + n)] = static_cast<float>(sum);
    }
  }
  return y;
}

}  // namespace weir
