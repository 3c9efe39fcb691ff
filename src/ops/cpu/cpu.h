// What every CPU operation is given: threads, the chosen kernels and scratch memory reserved at start.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/thread_pool.h"
#include "ops/cpu/aligned.h"
#include "ops/cpu/isa.h"

namespace weir {

struct KernelTable;  // ops/cpu/kernel_table.h: the kernels of one instruction set

struct CpuOptions {
  int threads = 0;         // 0: as many as the process may run on
  std::optional<Isa> isa;  // none: best_isa()
  bool pin = false;
};

// One per rank; used by one thread at a time. Promise of every operation that takes a Cpu: the bits of an output row
// depend only on that row's inputs and its sequence's history, never on the rows beside it, the split of a sequence
// into calls, the thread count or the instruction set. No operation allocates; scratch comes from this arena.
class Cpu {
 public:
  explicit Cpu(const CpuOptions& options = {});

  ThreadPool& pool() { return pool_; }
  int threads() const { return pool_.threads(); }
  Isa isa() const { return isa_; }
  const KernelTable& kernels() const { return *kernels_; }

  // Grows the arena to at least `bytes`: call at start with the largest *_scratch_bytes() of the operations to be run.
  void reserve_scratch(int64_t bytes);
  int64_t scratch_bytes() const { return scratch_.size(); }

  // Scratch of one operation: blocks are aligned to 64 bytes and given back when the frame ends.
  class Frame {
   public:
    explicit Frame(Cpu& cpu) : cpu_(cpu), start_(cpu.scratch_used_) {}
    ~Frame() { cpu_.scratch_used_ = start_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

    // Programmer error: more than was reserved.
    template <class T>
    T* take(int64_t count) {
      return reinterpret_cast<T*>(take_bytes(count * static_cast<int64_t>(sizeof(T))));
    }

   private:
    std::byte* take_bytes(int64_t bytes);
    Cpu& cpu_;
    int64_t start_;
  };

 private:
  ThreadPool pool_;
  Isa isa_;
  const KernelTable* kernels_;
  AlignedBytes scratch_;
  int64_t scratch_used_ = 0;
};

}  // namespace weir
