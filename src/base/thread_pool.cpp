#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "base/check.h"

namespace weir {
namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Waits until ready() for at most `spin_us`, without sleeping.
template <class Ready>
bool spin_until(int spin_us, const Ready& ready) {
  constexpr int kPausesPerLook = 32;  // the clock costs as much as a few pauses
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us);
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return ready();
}

void pin_thread(pthread_t thread, int nth) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || nth-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(thread, sizeof(one), &one);
    return;
  }
}

}  // namespace

// A region is published as one 64-bit word: its epoch in the high half, the next task in the low half. A task is taken
// by compare-and-swap on the whole word, so a worker that slept through a region cannot take a task of the next one
// with the old region's function: the function is replaced only while the word carries a full counter of the new epoch,
// and whoever has seen the new function also sees that word.
class ThreadPool::Impl {
 public:
  explicit Impl(const Options& options) : spin_us_(options.spin_us) {
    WEIR_CHECK(options.threads >= 1, "{} threads", options.threads);
    for (int i = 1; i < options.threads; ++i) {
      workers_.emplace_back([this, i] { work(i); });
      if (options.pin) pin_thread(workers_.back().native_handle(), i);
    }
  }

  ~Impl() {
    stop_.store(true, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  void parallel_for(int64_t count, TaskRef task) {
    WEIR_CHECK(count <= kFull, "{} tasks", count);
    WEIR_CHECK(!busy_, "parallel_for inside parallel_for");
    if (count <= 0) return;
    if (count == 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; ++i) task(i, 0);
      return;
    }
    busy_ = true;
    const uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
    const uint64_t high = static_cast<uint64_t>(epoch) << 32;
    word_.store(high | static_cast<uint64_t>(kFull), std::memory_order_relaxed);
    task_.store(&task, std::memory_order_release);
    count_.store(count, std::memory_order_release);
    pending_.store(count, std::memory_order_relaxed);
    word_.store(high, std::memory_order_release);
    epoch_.store(epoch, std::memory_order_release);
    epoch_.notify_all();
    take_tasks(epoch, 0);
    while (!spin_until(spin_us_, [this] { return pending_.load(std::memory_order_acquire) == 0; })) {
      std::this_thread::yield();  // a worker lost its processor: let it have this one
    }
    busy_ = false;
  }

 private:
  static constexpr int64_t kFull = 0xffffffff;  // a counter no task index reaches

  void work(int thread) {
    uint32_t seen = 0;
    for (;;) {
      const auto changed = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
      if (!spin_until(spin_us_, changed)) epoch_.wait(seen, std::memory_order_acquire);
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      take_tasks(seen, thread);
    }
  }

  void take_tasks(uint32_t epoch, int thread) {
    const TaskRef* task = task_.load(std::memory_order_acquire);
    const auto count = static_cast<uint64_t>(count_.load(std::memory_order_acquire));
    const uint64_t share = 2 * (workers_.size() + 1);
    int64_t done = 0;
    uint64_t word = word_.load(std::memory_order_acquire);
    while (word >> 32 == epoch && (word & static_cast<uint64_t>(kFull)) < count) {
      const uint64_t first = word & static_cast<uint64_t>(kFull);
      // Every look at a word that another core has written costs as much as a small task: several tasks a time, fewer
      // towards the end, and one subtraction for all of them.
      const uint64_t taken = std::max<uint64_t>(1, (count - first) / share);
      if (!word_.compare_exchange_weak(word, word + taken, std::memory_order_acq_rel, std::memory_order_acquire))
        continue;
      for (uint64_t i = first; i < first + taken; ++i) (*task)(static_cast<int64_t>(i), thread);
      done += static_cast<int64_t>(taken);
      word = word_.load(std::memory_order_acquire);
    }
    if (done > 0) pending_.fetch_sub(done, std::memory_order_acq_rel);
  }

  const int spin_us_;
  bool busy_ = false;
  std::vector<std::thread> workers_;
  alignas(64) std::atomic<uint32_t> epoch_ = 0;
  std::atomic<bool> stop_ = false;
  std::atomic<const TaskRef*> task_ = nullptr;
  std::atomic<int64_t> count_ = 0;
  alignas(64) std::atomic<uint64_t> word_ = 0;
  alignas(64) std::atomic<int64_t> pending_ = 0;
};

ThreadPool::ThreadPool(const Options& options) : impl_(std::make_unique<Impl>(options)) {}
ThreadPool::~ThreadPool() = default;
int ThreadPool::threads() const {
  return impl_->threads();
}
void ThreadPool::parallel_for(int64_t count, TaskRef task) {
  impl_->parallel_for(count, task);
}

int ThreadPool::available_cpus() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  return CPU_COUNT(&allowed);
}

}  // namespace weir
