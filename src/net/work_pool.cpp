#include "net/work_pool.h"

#include <utility>

#include "base/check.h"

namespace weir::net {

WorkPool::WorkPool(int32_t thread_count, int32_t capacity) : capacity_(static_cast<size_t>(capacity)) {
  WEIR_CHECK(thread_count > 0 && capacity > 0, "{} threads, capacity {}", thread_count, capacity);
  for (int32_t i = 0; i < thread_count; ++i) {
    threads_.emplace_back([this] { work(); });
  }
}

WorkPool::~WorkPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  ready_.notify_all();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

bool WorkPool::submit(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_ || queue_.size() >= capacity_) {
      return false;
    }
    queue_.push_back(std::move(task));
  }
  ready_.notify_one();
  return true;
}

void WorkPool::work() {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) {
        return;
      }
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task();
  }
}

}  // namespace weir::net
