// For tests of kernels: the device (tests are skipped without one) and arrays that live on it.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "ops/gpu/gpu.h"
#include "tensor/bf16.h"

namespace weir {

// An array on the device.
template <class T>
class OnDevice {
 public:
  OnDevice() = default;
  OnDevice(Gpu gpu, const std::vector<T>& values) : gpu_(gpu), count_(values.size()) {
    memory_ = gpu.device->allocate(bytes(), "a test's array", "free memory").value();
    gpu.stream->copy_in(memory_.data(), values.data(), bytes());
    EXPECT_TRUE(gpu.stream->wait().ok());
  }
  OnDevice(Gpu gpu, size_t count, T value = T()) : OnDevice(gpu, std::vector<T>(count, value)) {}

  T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  size_t size() const { return count_; }
  // Waits for the stream.
  std::vector<T> read() const {
    std::vector<T> out(count_);
    gpu_.stream->copy_out(out.data(), memory_.data(), bytes());
    const Status status = gpu_.stream->wait();
    EXPECT_TRUE(status.ok()) << (status.ok() ? "" : status.error().text());
    return out;
  }

 private:
  int64_t bytes() const { return static_cast<int64_t>(count_ * sizeof(T)); }
  Gpu gpu_;
  device::Bytes memory_;
  size_t count_ = 0;
};

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override { open(gpu_kernel_images()); }
  void open(std::span<const device::KernelImage> images) {
    auto opened = device::Device::open(0, images);
    if (!opened.ok()) GTEST_SKIP() << opened.error().text();
    device_ = std::move(*opened);
    stream_ = device_->stream();
  }
  Gpu gpu() { return {device_.get(), &stream_}; }
  template <class T>
  OnDevice<T> upload(const std::vector<T>& values) {
    return OnDevice<T>(gpu(), values);
  }
  template <class T>
  OnDevice<T> zeros(size_t count) {
    return OnDevice<T>(gpu(), count);
  }
  // Microseconds of one call of `f` on the device: the mean over `repeats` recorded in a graph, after one replay that
  // is not counted.
  template <class Function>
  double micros(int repeats, const Function& f) {
    stream_.begin_graph();
    for (int i = 0; i < repeats; ++i) f();
    auto graph = stream_.end_graph();
    EXPECT_TRUE(graph.ok()) << (graph.ok() ? "" : graph.error().text());
    if (!graph.ok()) return 0;
    stream_.replay(*graph);
    device::Event begin = device_->event();
    device::Event end = device_->event();
    stream_.record(&begin);
    stream_.replay(*graph);
    stream_.record(&end);
    EXPECT_TRUE(stream_.wait().ok());
    return end.micros_since(begin) / repeats;
  }

  std::unique_ptr<device::Device> device_;
  device::Stream stream_;
};

// Normal variates of this standard deviation.
inline std::vector<float> normal_values(size_t count, float deviation, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> out(count);
  for (float& x : out) x = normal(random);
  return out;
}

inline std::vector<uint16_t> bf16_values(const std::vector<float>& values) {
  std::vector<uint16_t> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) out[i] = float_to_bf16(values[i]);
  return out;
}
inline std::vector<float> float_values(const std::vector<uint16_t>& values) {
  std::vector<float> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) out[i] = bf16_to_float(values[i]);
  return out;
}

// sqrt(sum of squared differences / sum of squares of `expected`).
inline double relative_difference(const std::vector<float>& got, const std::vector<float>& expected) {
  EXPECT_EQ(got.size(), expected.size());
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(got[i]) - static_cast<double>(expected[i]);
    difference += d * d;
    size += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  return std::isfinite(difference) ? std::sqrt(difference / (size > 0 ? size : 1)) : INFINITY;
}

}  // namespace weir
