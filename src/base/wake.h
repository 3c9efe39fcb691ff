// Wakes one waiting thread, or an event loop that watches a file descriptor. Many threads may notify, one waits.
#pragma once

#include <atomic>
#include <cstdint>

namespace weir {

// An eventfd behind a flag, so that notifying twice before the waiter has looked costs one system call, not two.
// Stops the process if the operating system has no file descriptor left at construction.
class Wake {
 public:
  Wake();
  ~Wake();
  Wake(const Wake&) = delete;
  Wake& operator=(const Wake&) = delete;

  // Wakes the waiter; what the caller wrote before is visible to it after clear(). Never blocks.
  void notify();
  // Waits until notified or `limit_us` has passed (0: looks only). Returns whether it was notified; then it is cleared.
  bool wait(int64_t limit_us);
  // Forgets notifications so far. Whoever clears must then look at the queue that the notification was about.
  void clear();
  // Readable while a notification is pending.
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
  std::atomic<bool> pending_{false};
};

}  // namespace weir
