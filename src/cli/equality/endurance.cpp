#include "cli/equality/endurance.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <random>
#include <vector>

#include "cli/equality/served.h"

namespace weir::equality {
namespace {

constexpr int32_t kAtOnce = 16;      // conversations: a step of some costs a GPU hardly more than one of one
constexpr int64_t kTokens = 2000;    // of a sequence
constexpr int32_t kTurnTokens = 97;  // of an answer; the next turn goes on behind it
const std::vector<TokenId> kTurn = {7, 23, 11};

// A few likely ids: random weights and their draft head agree about nothing else.
constexpr std::array<TokenId, 3> kLikely = {3, 17, 31};

SamplingParams sampling_of(uint64_t seed) {
  SamplingParams sampling;
  sampling.temperature = 2.0F;  // the noise, which both share, decides more than their logits
  sampling.seed = seed;
  sampling.max_tokens = kTurnTokens;
  sampling.logit_bias_count = static_cast<int32_t>(kLikely.size());
  for (size_t i = 0; i < kLikely.size(); ++i) sampling.logit_bias[i] = {kLikely[i], 60.0F};
  return sampling;
}

World world_of(Model* model) {
  World world;
  world.limits.rows_max = kAtOnce;
  world.limits.step_tokens_max = 256;
  world.limits.state_slots = 4 * kAtOnce;
  world.limits.pages = {static_cast<int32_t>(kAtOnce * 3 * kTokens / kGridTokens / 2)};
  world.limits.sequence_tokens_max = kTokens + 2 * kTurnTokens;
  world.limits.vocabulary = static_cast<int32_t>(model->config.vocabulary);
  world.limits.drafts_max = 3;
  world.config.adaptive_drafts = false;
  world.config.prefix_caching = true;
  world.config.reuse_generated = true;
  world.config.checkpoint_interval = 256;
  return world;
}

struct Round {
  uint8_t drafted;
  uint8_t accepted;
};

void add(const Round& round, Tenth* tenth) {
  tenth->drafted += round.drafted;
  tenth->accepted += round.accepted;
}

}  // namespace

bool Endurance::decays() const {
  const Tenth& first = by_age.front();
  const Tenth& last = by_age.back();
  if (first.drafted == 0 || last.drafted == 0) return true;
  const auto variance = [](const Tenth& tenth) {
    return tenth.rate() * (1 - tenth.rate()) / static_cast<double>(tenth.drafted);
  };
  constexpr double kLess = 0.01;
  constexpr double kDeviations = 5;  // many: the drafts of a round do not hold by chances of their own
  return last.rate() < first.rate() - std::max(kLess, kDeviations * std::sqrt(variance(first) + variance(last)));
}

Endurance run_endurance(Model* model, int64_t rounds, const Deadline& deadline, uint64_t first) {
  Endurance out;
  std::vector<Round> ran;  // how many it will be is known at the end
  Served served(model, world_of(model));
  served.watch([&](const SequenceWork& work, const SequenceResult& yielded) {
    if (yielded.drafted_count == 0) return;
    ran.push_back({static_cast<uint8_t>(yielded.drafted_count), static_cast<uint8_t>(yielded.token_count - 1)});
    add(ran.back(), &out.by_position[static_cast<size_t>(std::min<int64_t>(9, work.position * 10 / kTokens))]);
  });
  EngineClient client = served.client();
  uint64_t seed = first;
  std::vector<std::vector<TokenId>> conversations(kAtOnce);
  std::map<SequenceId, size_t> open;
  const auto go_on = [&](size_t which) {
    auto& tokens = conversations[which];
    if (static_cast<int64_t>(tokens.size()) + kTurnTokens > kTokens) tokens.clear();
    tokens.insert(tokens.end(), kTurn.begin(), kTurn.end());
    open[served.submit(tokens, sampling_of(seed++), {}, 0)] = which;
  };
  // They begin at different lengths, so that the tenths of the steps are of sequences of all lengths, and with what
  // later ones say, too: behind a text that repeats one token more drafts hold.
  std::mt19937_64 random(first);
  for (size_t i = 0; i < conversations.size(); ++i) {
    conversations[i].resize(i * kTokens / kAtOnce);
    for (TokenId& token : conversations[i]) token = kLikely[random() % kLikely.size()];
    go_on(i);
  }
  Event event;
  while (!open.empty()) {
    served.turn();
    while (client.poll(&event)) {
      const size_t which = open.at(event.header.id);
      conversations[which].insert(conversations[which].end(), event.tokens.begin(), event.tokens.end());
      if (event.header.finish == FinishReason::kNone) continue;
      open.erase(event.header.id);
      if (std::ssize(ran) < rounds && !deadline.passed()) go_on(which);
    }
  }
  for (size_t i = 0; i < ran.size(); ++i) add(ran[i], &out.by_age[i * 10 / ran.size()]);
  out.rounds = std::ssize(ran);
  out.steps = served.passed().steps;
  return out;
}

}  // namespace weir::equality
