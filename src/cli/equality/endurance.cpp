#include "cli/equality/endurance.h"

#include <algorithm>
#include <vector>

#include "cli/equality/served.h"

namespace weir::equality {
namespace {

constexpr int64_t kTokens = 2000;    // of a sequence
constexpr int32_t kTurnTokens = 97;  // of an answer; the next turn goes on behind it
const std::vector<TokenId> kTurn = {7, 23, 11};

// A few likely ids: random weights and their draft head agree about nothing else.
SamplingParams sampling_of(uint64_t seed) {
  SamplingParams sampling;
  sampling.temperature = 2.0F;  // the noise, which both share, decides more than their logits
  sampling.seed = seed;
  sampling.max_tokens = kTurnTokens;
  sampling.logit_bias_count = 3;
  for (int32_t i = 0; i < 3; ++i) sampling.logit_bias[static_cast<size_t>(i)] = {3 + 14 * i, 60.0F};
  return sampling;
}

}  // namespace

Endurance run_endurance(Model* model, int64_t steps) {
  World world;
  world.limits.rows_max = 1;
  world.limits.step_tokens_max = 256;
  world.limits.state_slots = 16;
  world.limits.pages = {static_cast<int32_t>(3 * kTokens / kGridTokens)};
  world.limits.sequence_tokens_max = kTokens + 2 * kTurnTokens;
  world.limits.vocabulary = static_cast<int32_t>(model->config.vocabulary);
  world.limits.drafts_max = 3;
  world.config.adaptive_drafts = false;
  world.config.prefix_caching = true;
  world.config.reuse_generated = true;
  world.config.checkpoint_interval = 256;
  Served served(model, world);
  EngineClient client = served.client();

  // One conversation at a time: the counters are its own.
  Endurance out;
  uint64_t seed = 0;
  std::vector<TokenId> tokens;
  Event event;
  while (client.stats().draft_rounds < steps) {
    if (static_cast<int64_t>(tokens.size()) + kTurnTokens > kTokens) tokens.clear();
    tokens.insert(tokens.end(), kTurn.begin(), kTurn.end());
    const EngineStats before = client.stats();
    const auto begin = static_cast<int64_t>(tokens.size());
    served.submit(tokens, sampling_of(++seed), {}, 0);
    for (bool ended = false; !ended;) {
      served.turn();
      while (client.poll(&event)) {
        tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
        ended |= event.header.finish != FinishReason::kNone;
      }
    }
    const EngineStats after = client.stats();
    const auto add = [&](Tenth* tenth) {
      tenth->drafted += after.draft_tokens - before.draft_tokens;
      tenth->accepted += after.accepted_tokens - before.accepted_tokens;
    };
    add(&out.by_age[static_cast<size_t>(std::min<int64_t>(9, before.draft_rounds * 10 / steps))]);
    add(&out.by_position[static_cast<size_t>(std::min<int64_t>(9, begin * 10 / kTokens))]);
  }
  return out;
}

}  // namespace weir::equality
