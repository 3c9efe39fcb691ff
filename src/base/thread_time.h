// What a thread itself has computed for: a machine is rarely idle beside it.
#pragma once

#include <cstdint>
#include <ctime>

namespace weir {

// Nanoseconds of the calling thread.
inline int64_t thread_ns() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace weir
