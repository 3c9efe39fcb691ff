// A fixed set of threads that run short parallel regions: workers spin for a moment after each region, then sleep.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace weir {

// A borrowed callable `void(int64_t task, int thread)`; valid only during the call that receives it.
class TaskRef {
 public:
  template <class Function>
    requires(!std::is_same_v<std::remove_cvref_t<Function>, TaskRef>)
  TaskRef(Function&& function)  // NOLINT(google-explicit-constructor): a lambda is passed where a TaskRef is taken
      : object_(const_cast<void*>(static_cast<const void*>(&function))),
        call_([](void* object, int64_t task, int thread) {
          (*static_cast<std::remove_reference_t<Function>*>(object))(task, thread);
        }) {}
  void operator()(int64_t task, int thread) const { call_(object_, task, thread); }

 private:
  void* object_;
  void (*call_)(void*, int64_t, int);
};

// The calling thread is thread 0 of `threads`; one thread at a time may call parallel_for. Nested use is a programmer
// error. Tasks are handed out by a counter: which thread runs a task is not fixed, so a task's result must depend on
// its index alone. A region over two threads costs about a microsecond while the workers spin.
class ThreadPool {
 public:
  struct Options {
    int threads = 1;   // the caller included
    bool pin = false;  // bind worker i to the i-th CPU this process may run on
    int spin_us = 50;  // how long an idle worker spins before it sleeps: longer than the serial gaps of a step
  };

  explicit ThreadPool(const Options& options);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;
  // Runs task(0 .. count - 1, thread), thread in [0, threads()), and returns when all have finished. No allocation.
  // One task, or one thread, runs on the caller without waking anybody.
  void parallel_for(int64_t count, TaskRef task);

  // CPUs that this process may run on.
  static int available_cpus();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir
