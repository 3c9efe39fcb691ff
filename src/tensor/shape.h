// The extents of a stored tensor: a small value without allocation.
#pragma once

#include <fmt/core.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/check.h"

namespace weir {

class Shape {
 public:
  // More than any tensor of a served checkpoint (five, in the vision towers that are skipped).
  static constexpr int kRankMax = 8;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) {
    for (const int64_t extent : extents) push_back(extent);
  }

  void push_back(int64_t extent) {
    WEIR_CHECK(rank_ < kRankMax, "rank over {}", kRankMax);
    extents_[static_cast<size_t>(rank_++)] = extent;
  }
  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return extents_[static_cast<size_t>(axis)]; }
  // Product of the extents; 1 for rank 0. The caller has checked that it fits (safetensors headers are checked on
  // reading).
  int64_t elements() const {
    int64_t product = 1;
    for (int axis = 0; axis < rank_; ++axis) product *= (*this)[axis];
    return product;
  }
  // "[2, 3]".
  std::string text() const {
    std::string out = "[";
    for (int axis = 0; axis < rank_; ++axis) out += fmt::format("{}{}", axis == 0 ? "" : ", ", (*this)[axis]);
    return out + "]";
  }
  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::array<int64_t, kRankMax> extents_ = {};
  int rank_ = 0;
};

}  // namespace weir
