#include "base/wake.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "base/check.h"

namespace weir {

Wake::Wake() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  WEIR_CHECK(fd_ >= 0, "eventfd failed with errno {}: raise the limit on open files", errno);
}

Wake::~Wake() {
  close(fd_);
}

void Wake::notify() {
  if (pending_.exchange(true, std::memory_order_acq_rel)) return;
  const uint64_t one = 1;
  // The counter is at most 1 here, so the write can only be interrupted, never refused.
  while (write(fd_, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

bool Wake::wait(int64_t limit_us) {
  pollfd entry{fd_, POLLIN, 0};
  const timespec limit{static_cast<time_t>(limit_us / 1'000'000), static_cast<long>((limit_us % 1'000'000) * 1000)};
  // An interrupted wait is a wait that ended early: callers look at their queues either way.
  if (!pending_.load(std::memory_order_acquire) && ppoll(&entry, 1, &limit, nullptr) <= 0) return false;
  clear();
  return true;
}

void Wake::clear() {
  // The counter goes first: in the other order a notification between the two would be eaten while its flag stays up,
  // and no later notify() would write again.
  uint64_t count = 0;
  while (read(fd_, &count, sizeof(count)) < 0 && errno == EINTR) {
  }
  pending_.exchange(false, std::memory_order_acq_rel);
}

}  // namespace weir
