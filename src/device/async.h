// For kernel files: copies that run beside the computation, the barriers they complete on, clusters, and the order of
// kernels in a stream.
#pragma once

#include "device/kernel.h"

namespace weir::device {

WEIR_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Waits until the kernels before this one in the stream have ended and their writes can be seen. A kernel launched with
// Grid::overlap may run before that, and must touch nothing that the one before it writes.
WEIR_DEVICE void wait_for_previous() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
// Lets the next kernel start where it fits. Called after wait_for_previous(): then whatever a kernel reads before its
// own wait may be anything but the writes of the one kernel before it.
WEIR_DEVICE void start_next() {
  asm volatile("griddepcontrol.launch_dependents;");
}

// A number that other blocks write while this one runs; see add_release().
WEIR_DEVICE uint32_t load_acquire(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}

// Adds to such a number; what this thread did before, and others that it has waited for, is seen by who sees the sum.
WEIR_DEVICE void add_release(uint32_t* to, uint32_t value) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

// A barrier in shared memory that threads arrive at and that copies add their bytes to; `phase` flips each time.
using Barrier = uint64_t;

WEIR_DEVICE void barrier_init(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// After the inits, before other threads or copies use the barriers (a block barrier must follow).
WEIR_DEVICE void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
WEIR_DEVICE void barrier_arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives and announces `bytes` that copies will bring.
WEIR_DEVICE void barrier_expect(Barrier* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
WEIR_DEVICE void barrier_wait(Barrier* barrier, uint32_t phase) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(phase)
      : "memory");
}

// Whether that phase has ended.
WEIR_DEVICE bool barrier_passed(Barrier* barrier, uint32_t phase) {
  uint32_t passed;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}\n"
      : "=r"(passed)
      : "r"(shared_address(barrier)), "r"(phase)
      : "memory");
  return passed != 0;
}

// A warp arrives for all its lanes by one of them: where a barrier counts warps it counts kWarpArrivals for each. Built
// with WEIR_EVERY_LANE_ARRIVES each lane arrives for itself: for compute-sanitizer's racecheck, which may not follow an
// arrival of one lane for others.
#ifdef WEIR_EVERY_LANE_ARRIVES
inline constexpr int kWarpArrivals = kWarp;
#else
inline constexpr int kWarpArrivals = 1;
#endif
// For a warp whose lanes are all here.
WEIR_DEVICE void together_arrive(Barrier* barrier) {
  if constexpr (kWarpArrivals == kWarp) {
    barrier_arrive(barrier);
  } else {
    if (lane() == 0) barrier_arrive(barrier);
  }
}
// By every lane of a warp, once it has filled its part or read for the last time.
WEIR_DEVICE void warp_arrive(Barrier* barrier) {
  __syncwarp();
  together_arrive(barrier);
}

// Copies `bytes` (a multiple of 16, both addresses aligned to 16) from device to shared memory by the copy engine;
// completes on `barrier`.
WEIR_DEVICE void bulk_copy(void* to, const void* from, uint32_t bytes, Barrier* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}
// The second-level cache gives up first what is read under this policy: weights pass by, and what every step needs
// again (instructions, tables, the rows themselves) stays.
WEIR_DEVICE uint64_t read_once_policy() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// bulk_copy() of what this step reads once.
WEIR_DEVICE void bulk_copy_once(void* to, const void* from, uint32_t bytes, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(read_once_policy())
      : "memory");
}
// Copies `bytes` (as above) from shared to device memory by the copy engine, behind the thread's stores so far; what
// ordinary stores wrote needs fence_async() first.
WEIR_DEVICE void bulk_store(void* to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)),
               "r"(bytes)
               : "memory");
}
WEIR_DEVICE void bulk_stores_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Waits until shared memory has been read by all but the last `kLeft` groups of this thread's stores.
template <int kLeft>
WEIR_DEVICE void bulk_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kLeft) : "memory");
}
// Waits until all of this thread's stores are done.
WEIR_DEVICE void bulk_stores_wait() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
// Asks for `bytes` (a multiple of 16) to be brought to the second-level cache.
WEIR_DEVICE void bulk_prefetch(const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

// A thread's own copy of 16 bytes to shared memory; zeros where `valid` is false (`from` is then not read).
WEIR_DEVICE void copy16(void* to, const void* from, bool valid = true) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}
// The same for 4 bytes.
WEIR_DEVICE void copy4(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
// The same of 8 bytes.
WEIR_DEVICE void copy8(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
// 16 bytes of what nobody writes and this step reads once.
WEIR_DEVICE uint4 load_once(const void* from) {
  uint4 out;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
               : "l"(from), "l"(read_once_policy()));
  return out;
}
WEIR_DEVICE void copies_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most `kLeft` of this thread's groups are under way.
template <int kLeft>
WEIR_DEVICE void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}
// The barrier counts one arrival of this thread once its copies so far are there; the arrival must be among those that
// the barrier was made for.
WEIR_DEVICE void copies_arrive(Barrier* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Shared memory written by ordinary stores is seen by the copy engine and the matrix units afterwards.
WEIR_DEVICE void fence_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// The same of all memory: of what other blocks wrote, too, once it can be seen.
WEIR_DEVICE void fence_async_all() {
  asm volatile("fence.proxy.async;" ::: "memory");
}

// `threads` of the block, named by `id` (1 to 15), wait for each other.
WEIR_DEVICE void threads_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// kThreads of the block, as threads_barrier(), or all of them where kId is 0: where some wait at one barrier while
// others meet at another. compute-sanitizer's racecheck does not follow the two beside each other, so built for it this
// is a barrier that every thread arrives at and waits for. Made by all threads of the block, at a place where they all
// are.
template <int kId, int kThreads>
class NamedBarrier {
 public:
#ifdef WEIR_EVERY_LANE_ARRIVES
  WEIR_DEVICE NamedBarrier() {
    __shared__ Barrier memory;
    barrier_ = &memory;
    if (threadIdx.x == 0) {
      barrier_init(barrier_, kThreads);
      barrier_init_done();
    }
    __syncthreads();
  }
  WEIR_DEVICE void wait() {
    barrier_arrive(barrier_);
    barrier_wait(barrier_, phase_);
    phase_ ^= 1U;
  }

 private:
  Barrier* barrier_;
  uint32_t phase_ = 0;
#else
  WEIR_DEVICE void wait() const {
    if constexpr (kId == 0) {
      __syncthreads();
    } else {
      threads_barrier(kId, kThreads);
    }
  }
#endif
};

// Clusters: blocks that run at the same time beside each other.
WEIR_DEVICE uint32_t cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
// Which cluster of the grid, along x.
WEIR_DEVICE uint32_t cluster_index() {
  uint32_t index;
  asm volatile("mov.u32 %0, %%clusterid.x;" : "=r"(index));
  return index;
}
// Every thread of the cluster arrives and waits; writes before it are seen after it.
WEIR_DEVICE void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// The two halves of cluster_barrier(): between them a warp may do what needs no other block. A thread waits before it
// arrives again.
WEIR_DEVICE void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
// The same without an order of what the threads read and wrote before: for barriers that barrier_init_done() made
// known. Costs no wait for memory, unlike the one above.
WEIR_DEVICE void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
WEIR_DEVICE void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// A float that stands in the shared memory of the cluster's block `rank` where `p` stands in this one's.
WEIR_DEVICE float read_shared_of(uint32_t rank, const float* p) {
  uint32_t address;
  float value;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}

// Four floats, aligned to 16 bytes.
WEIR_DEVICE float4 read_shared4_of(uint32_t rank, const float* p) {
  uint32_t address;
  float4 value;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(address)
               : "memory");
  return value;
}
// Writes a float where `p` stands in the shared memory of the cluster's block `rank`; brings 4 bytes to its `barrier`.
WEIR_DEVICE void send_shared_to(uint32_t rank, float* p, float value, Barrier* barrier) {
  uint32_t to;
  uint32_t counted;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared_address(p)), "r"(rank));
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counted) : "r"(shared_address(barrier)), "r"(rank));
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(to), "f"(value),
               "r"(counted)
               : "memory");
}

}  // namespace weir::device
