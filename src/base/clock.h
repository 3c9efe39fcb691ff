// Time is passed in: production uses SteadyClock, tests and the simulator a ManualClock.
#pragma once

#include <chrono>
#include <cstdint>

namespace weir {

class Clock {
 public:
  virtual ~Clock() = default;
  // Monotonic microseconds from an arbitrary start.
  virtual int64_t now_us() const = 0;
};

class SteadyClock final : public Clock {
 public:
  int64_t now_us() const override {
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

class ManualClock final : public Clock {
 public:
  int64_t now_us() const override { return now_us_; }
  void advance_us(int64_t us) { now_us_ += us; }

 private:
  int64_t now_us_ = 0;
};

}  // namespace weir
