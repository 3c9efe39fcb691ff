#include "ops/cpu/machine.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <vector>

#include "ops/cpu/kernel_table.h"

namespace weir {
namespace {

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The best rate of `work`, which does `amount` each call: the best, because anything else on the machine only slows it.
template <class Work>
double best_rate(double seconds, double amount, const Work& work) {
  double best = 0;
  const double end = now_seconds() + seconds;
  do {
    const double start = now_seconds();
    work();
    best = std::max(best, amount / (now_seconds() - start));
  } while (now_seconds() < end);
  return best;
}

struct alignas(64) Sink {
  std::array<float, 16> values{};
};

}  // namespace

MachineLimits measure_machine(Cpu& cpu, int64_t working_set_bytes, double seconds) {
  constexpr int64_t kPiece = 64 * 1024;  // a task's reading: long against the hand-out of tasks
  constexpr int64_t kRounds = 4000;      // about 100 microseconds of multiply-adds
  MachineLimits limits;
  limits.threads = cpu.threads();
  const int64_t pieces = std::max<int64_t>(1, working_set_bytes / kPiece);
  limits.working_set_bytes = pieces * kPiece;
  std::vector<Sink> sinks(static_cast<size_t>(cpu.threads()));
  AlignedBytes memory(limits.working_set_bytes);
  // Written first: pages that nobody wrote are all the system's one page of zeros.
  std::memset(memory.data(), 1, static_cast<size_t>(limits.working_set_bytes));
  const auto read = [&] {
    cpu.pool().parallel_for(pieces, [&](int64_t piece, int thread) {
      float* sink = sinks[static_cast<size_t>(thread)].values.data();
      cpu.kernels().read_bytes({memory.data() + piece * kPiece, kPiece, sink});
    });
  };
  const auto multiply = [&] {
    cpu.pool().parallel_for(8 * cpu.threads(), [&](int64_t, int thread) {
      cpu.kernels().multiply_adds({kRounds, sinks[static_cast<size_t>(thread)].values.data()});
    });
  };
  const double bytes = static_cast<double>(limits.working_set_bytes);
  limits.read_gbs = best_rate(seconds / 2, bytes, read) * 1e-9;
  const double operations = 2.0 * 16.0 * static_cast<double>(kMultiplyAddsPerRound * kRounds * 8 * cpu.threads());
  limits.fma_gflops = best_rate(seconds / 2, operations, multiply) * 1e-9;
  return limits;
}

}  // namespace weir
