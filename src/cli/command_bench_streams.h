// Sequences of random prompts through the engine: what `weir bench` times.
#pragma once

#include <cstdint>
#include <functional>

#include "cli/host.h"
#include "cli/loading.h"

namespace weir {

struct StreamRun {
  int64_t streams = 1;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;                   // of each stream while all of them decode
  std::function<void()> all_decode = nullptr;  // called when that begins
};

struct Measured {
  double first_token_s = 0;    // of the slowest stream
  double decode_tokens_s = 0;  // all streams together, while all of them decode
  int64_t context = 0;         // tokens of a stream, the mean of this time
};

// Runs the streams at once, greedy and without stops. They go on until each has given its output tokens while all of
// them decode, as far as the context holds.
Result<Measured> run_streams(EngineHost& host, const LoadedModel& model, const StreamRun& what, uint32_t seed);

// The best of several runs: the machine has other work, and it only ever makes a run slower.
Result<Measured> best_streams(EngineHost& host, const LoadedModel& model, int64_t repeats, const StreamRun& what);

}  // namespace weir
