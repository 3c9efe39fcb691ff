#include "ops/cases.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tensor/bf16.h"

namespace weir::cases {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

template <class T>
void put(std::vector<std::byte>& to, size_t index, T value) {
  std::memcpy(to.data() + index * sizeof(T), &value, sizeof(T));
}

// Random codes without the two that mean NaN.
uint8_t random_fp8(std::mt19937_64& random) {
  uint8_t code = 0;
  do {
    code = static_cast<uint8_t>(random());
  } while ((code & 127U) == 127U);
  return code;
}

}  // namespace

Floats random_floats(uint64_t seed, int64_t count, float deviation) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  Floats values(static_cast<size_t>(count));
  for (float& v : values) v = normal(random);
  return values;
}

Weight random_weight(uint64_t seed, WeightFormat format, int64_t n, int64_t k) {
  std::mt19937_64 random(seed);
  const float deviation = 1.0F / std::sqrt(static_cast<float>(k));
  Weight w;
  w.view.format = format;
  w.view.n = n;
  w.view.k = k;
  const auto fill_scales = [&](int64_t rows, int64_t columns, float typical) {
    std::uniform_real_distribution<float> around(0.5F, 1.5F);
    w.scales.resize(static_cast<size_t>(rows * columns * 2));
    for (size_t i = 0; i < static_cast<size_t>(rows * columns); ++i) {
      put(w.scales, i, float_to_bf16(around(random) * typical * deviation));
    }
    w.view.scale_dtype = DType::kBf16;
    w.view.scale_stride = columns;
  };
  if (format == WeightFormat::kF32 || format == WeightFormat::kBf16) {
    const bool wide = format == WeightFormat::kF32;
    const Floats values = random_floats(seed, n * k, deviation);
    w.view.row_bytes = k * (wide ? 4 : 2);
    w.data.resize(static_cast<size_t>(n * w.view.row_bytes));
    for (size_t i = 0; i < values.size(); ++i) {
      if (wide) {
        put(w.data, i, values[i]);
      } else {
        put(w.data, i, float_to_bf16(values[i]));
      }
    }
  } else if (format == WeightFormat::kMxfp4) {
    w.view.row_bytes = k / 2;
    w.data.resize(static_cast<size_t>(n * w.view.row_bytes));
    for (auto& b : w.data) b = static_cast<std::byte>(random());
    w.scales.resize(static_cast<size_t>(n * k / kMxfp4Group));
    const int centre = 127 - 2 + static_cast<int>(std::lround(std::log2(deviation)));
    for (auto& b : w.scales) b = static_cast<std::byte>(centre + static_cast<int>(random() % 3));
    w.view.scale_dtype = DType::kU8;
    w.view.scale_stride = k / kMxfp4Group;
  } else {
    w.view.row_bytes = k;
    w.data.resize(static_cast<size_t>(n * k));
    for (auto& b : w.data) b = static_cast<std::byte>(random_fp8(random));
    constexpr float kTypical = 1.0F / 100.0F;  // uniform codes have a deviation of about 100
    if (format == WeightFormat::kFp8Block) {
      fill_scales(ceil_div(n, kFp8Block), ceil_div(k, kFp8Block), kTypical);
    } else {
      fill_scales(n, 1, kTypical);
    }
  }
  w.view.data = w.data.data();
  w.view.scales = w.scales.empty() ? nullptr : w.scales.data();
  return w;
}

std::vector<std::unique_ptr<Cpu>> all_cpus(int64_t scratch) {
  std::vector<std::unique_ptr<Cpu>> cpus;
  for (const Isa isa : supported_isas()) {
    for (const int threads : {1, kThreadsMax}) {
      CpuOptions options;
      options.threads = threads;
      options.isa = isa;
      cpus.push_back(std::make_unique<Cpu>(options));
      cpus.back()->reserve_scratch(scratch);
    }
  }
  return cpus;
}

reference::Rows rows_of(std::span<const float> values, int64_t width) {
  reference::Rows rows;
  for (size_t i = 0; i < values.size(); i += static_cast<size_t>(width)) {
    const auto row = values.subspan(i, static_cast<size_t>(width));
    rows.emplace_back(row.begin(), row.end());
  }
  return rows;
}

double row_error(std::span<const float> a, const reference::Rows& b, double typical) {
  double worst = 0;
  size_t at = 0;
  for (const reference::Row& row : b) {
    double largest = typical;
    for (const double v : row) largest = std::max(largest, std::abs(v));
    for (const double v : row) {
      const double error = std::abs(static_cast<double>(a[at++]) - v) / largest;
      worst = std::isnan(error) ? 1e30 : std::max(worst, error);
    }
  }
  return worst;
}

bool same_bits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

}  // namespace weir::cases
