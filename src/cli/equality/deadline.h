// When to stop for want of time.
#pragma once

#include <cstdint>

#include "base/clock.h"

namespace weir::equality {

class Deadline {
 public:
  // From now on; 0: never.
  explicit Deadline(int64_t seconds = 0) : seconds_(seconds), begun_us_(clock_.now_us()) {}
  double elapsed_s() const { return static_cast<double>(clock_.now_us() - begun_us_) / 1e6; }
  bool passed() const { return seconds_ > 0 && elapsed_s() >= static_cast<double>(seconds_); }

 private:
  SteadyClock clock_;
  int64_t seconds_;
  int64_t begun_us_;
};

}  // namespace weir::equality
