// The last steps by a device's clock: kept by the thread that runs them, read by any.
#pragma once

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

namespace weir {

struct StepTime {
  float busy_us = 0;  // from the step's first call to its last
  float idle_us = 0;  // from there to the first call of the next
};

class StepTimes {
 public:
  void add(StepTime time) {
    const std::lock_guard lock(mutex_);
    if (times_.size() < kTimesMax) {
      times_.push_back(time);
    } else {
      times_[next_++ % kTimesMax] = time;
    }
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    times_.clear();
    next_ = 0;
  }
  // Medians; zeros before the first.
  StepTime median() const {
    const std::lock_guard lock(mutex_);
    if (times_.empty()) return {};
    return {middle(&StepTime::busy_us), middle(&StepTime::idle_us)};
  }

 private:
  static constexpr size_t kTimesMax = 512;
  float middle(float StepTime::* member) const {
    std::vector<float> values;
    for (const StepTime& time : times_) values.push_back(time.*member);
    const auto half = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), half, values.end());
    return *half;
  }

  mutable std::mutex mutex_;
  std::vector<StepTime> times_;
  size_t next_ = 0;
};

}  // namespace weir
