// Sequences of random prompts through the engine: what `weir bench` times.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <random>
#include <string>
#include <vector>

#include "cli/host.h"
#include "cli/loading.h"

namespace weir {

struct StreamRun {
  int64_t streams = 1;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;                   // of each stream while all of them decode
  uint32_t seed = 0;                           // of the prompts: others share nothing
  std::vector<TokenId> beginning = {};         // of every prompt, in place of random tokens
  std::function<void()> all_decode = nullptr;  // called when that begins
};

// Of a stream's steps while all decode.
struct DraftsMeasured {
  double tokens_a_step = 1;
  int64_t drafted = 0;  // in all
  int64_t accepted = 0;
};

struct Measured {
  double first_token_s = 0;    // of the slowest stream
  double decode_tokens_s = 0;  // all streams together, while all of them decode
  int64_t context = 0;         // tokens of a stream, the mean of this time
  DraftsMeasured drafts;
  std::vector<TokenId> tokens;  // that the first stream was given

  double step_s(int64_t streams) const { return static_cast<double>(streams) * drafts.tokens_a_step / decode_tokens_s; }
};

// What a report of steps with drafts says of them, behind its other words: how many tokens came of a step, what was
// accepted, and whether that was measured or set. Empty without drafts.
std::string drafts_text(const Options& options, const LoadedModel& model, const DraftsMeasured& drafts);
// The same as members of a row.
nlohmann::ordered_json drafts_json(const Options& options, const LoadedModel& model, const DraftsMeasured& drafts);

// Runs the streams at once, greedy and without stops. They go on until each has given its output tokens while all of
// them decode, as far as the context holds.
Result<Measured> run_streams(EngineHost& host, const LoadedModel& model, const StreamRun& what);

// The best of several runs: the machine has other work, and it only ever makes a run slower.
Result<Measured> best_streams(EngineHost& host, const LoadedModel& model, int64_t repeats, const StreamRun& what);

std::vector<TokenId> random_tokens(int64_t count, int32_t vocabulary, std::mt19937* random);

}  // namespace weir
