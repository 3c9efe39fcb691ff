#include "ops/step/step_gpu.h"

#include <algorithm>

#include "base/check.h"

namespace weir {

void step_fetch(Gpu& gpu, const GpuStepFetchArgs& args) {
  constexpr int64_t kWord = 16;
  WEIR_CHECK(args.bytes_max >= static_cast<int64_t>(sizeof(GpuStepHead)) && args.bytes_max % kWord == 0,
             "mailboxes of {} bytes", args.bytes_max);
  for (const uint8_t* from : args.from) {
    WEIR_CHECK(from != nullptr && reinterpret_cast<uintptr_t>(from) % kWord == 0, "a mailbox at {}",
               reinterpret_cast<uintptr_t>(from));
  }
  constexpr int64_t kTile = kStepFetchThreads * kStepFetchLoads * kWord;
  device::Grid grid;
  const int64_t ahead = std::min(args.ahead, args.bytes_max);
  grid.x = std::clamp<int64_t>((ahead + kTile - 1) / kTile, 1, kStepFetchBlocks);
  grid.threads = kStepFetchThreads + kStepFetchReaders;
  gpu.launch("weir_step_fetch", grid, args);
}

void step_report(Gpu& gpu, const GpuStepReportArgs& args) {
  device::Grid grid;
  grid.threads = 256;
  grid.overlap = true;
  gpu.launch("weir_step_report", grid, args);
}

}  // namespace weir
