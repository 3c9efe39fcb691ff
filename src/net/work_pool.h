// A few threads for work that must not run on the event loop: templates and tokenization.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace weir::net {

class WorkPool {
 public:
  // `capacity`: tasks that may wait for a thread.
  WorkPool(int32_t thread_count, int32_t capacity);
  // Runs what waits, then joins.
  ~WorkPool();
  WorkPool(const WorkPool&) = delete;
  WorkPool& operator=(const WorkPool&) = delete;

  // Queues `task`; it must not throw. False if the queue is full. Callable from any thread.
  bool submit(std::function<void()> task);

 private:
  void work();

  const size_t capacity_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace weir::net
