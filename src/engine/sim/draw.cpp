#include "engine/sim/draw.h"

#include <algorithm>

namespace weir::sim {

namespace {

// Pages and slots in one memory: from what one sequence needs to four times as much.
void share_memory(Random* random, World* world) {
  RunnerLimits& limits = world->limits;
  const auto width = int64_t{world->layout.classes.front().tokens_per_page};
  const int64_t pages = random->pick({1, 2, 3, 8, 70});
  const int64_t alone = (limits.sequence_tokens_max + width * pages - 1) / (width * pages);
  const int64_t pinned = limits.rows_max + limits.steps_in_flight + 2;
  const int64_t units = pinned + random->between(std::max<int64_t>(1, alone / 2), world->tight ? alone : alone * 4);
  world->layout.pages_a_slot = static_cast<int32_t>(pages);
  limits.state_slots = static_cast<int32_t>(units);
  for (int32_t& count : limits.pages) count = static_cast<int32_t>(units * pages);
}

}  // namespace

// Sizes are tiny on purpose: every limit is met often, and a schedule takes a millisecond.
World draw_world(Random* random) {
  World world;
  RunnerLimits& limits = world.limits;
  limits.rows_max = static_cast<int32_t>(random->between(1, 6));
  limits.step_tokens_max =
      limits.rows_max + static_cast<int32_t>(random->one_in(2) ? random->between(0, 8) : random->between(8, 150));
  limits.sequence_tokens_max = random->between(8, random->pick({40, 120, 260}));
  limits.vocabulary = static_cast<int32_t>(random->between(8, 60));
  limits.steps_in_flight = static_cast<int32_t>(random->pick({1, 2, 2, 2, 2, 3}));
  limits.drafts_max = static_cast<int32_t>(random->pick({0, 0, 1, 2, 3, 7}));
  world.config.adaptive_drafts = random->one_in(2);
  world.tight = random->one_in(4);
  if (world.tight) {
    limits.rows_max = std::max(limits.rows_max, 3);
    limits.step_tokens_max = limits.rows_max + static_cast<int32_t>(random->between(1, 6));
    limits.sequence_tokens_max = random->between(60, 120);
  }
  const int64_t classes = random->one_in(3) ? 2 : 1;
  const bool reuse = !random->one_in(4);
  auto width = static_cast<int32_t>(world.tight ? 1 : random->pick({1, 4, 4, 8, 16, 64}));
  for (int64_t i = 0; i < classes; ++i) {
    if (!reuse && i > 0 && !world.tight) width = static_cast<int32_t>(random->pick({1, 4, 4, 8, 16, 64}));
    world.layout.classes.push_back({"class", 1, width});
    const int64_t alone = (limits.sequence_tokens_max + width - 1) / width;
    // From half of one longest sequence to enough for all.
    const int64_t pages = world.tight ? random->between(alone, alone * 2)
                                      : random->between(std::max<int64_t>(1, alone / 2),
                                                        random->pick({alone + 2, alone * 2, alone * limits.rows_max}));
    limits.pages.push_back(static_cast<int32_t>(pages));
  }
  if (!random->one_in(4)) {
    world.layout.state_slot_bytes = 1;
    limits.state_slots = static_cast<int32_t>(random->between(1, limits.rows_max + (reuse ? 8 : 1)));
  }
  EngineConfig& config = world.config;
  if (reuse) {
    config.prefix_caching = true;
    config.reuse_generated = random->one_in(2);
    config.checkpoint_interval = width * random->pick({0, 1, 1, 2, 5});
    config.cache_seed = random->next();
  }
  config.queue_requests_max = static_cast<int32_t>(random->between(2, random->pick({4, 12})));
  config.queue_tokens_max = random->between(30, random->pick({150, 2000}));
  config.prefill_chunk_max = random->one_in(2) ? 0 : static_cast<int32_t>(random->between(1, 64));
  config.aging_us = random->pick({100, 2'000, 50'000});
  config.event_ring_bytes = 1;
  world.latency_max_us = random->pick({0, 500, 3'000});
  world.turn_max_us = random->pick({100, 1'500});
  world.late = random->one_in(20);
  if (random->one_in(40)) world.fault_turn = random->between(1, 60);
  if (random->one_in(30)) world.drain_turn = random->between(1, 60);
  if (reuse && world.layout.state_slot_bytes > 0 && random->one_in(2)) share_memory(random, &world);
  return world;
}

namespace {

void draw_sampling(Random* random, const World& world, SamplingParams* sampling) {
  const int64_t context = world.limits.sequence_tokens_max;
  sampling->max_tokens =
      static_cast<int32_t>(random->one_in(12) ? 0 : random->between(1, random->pick({5L, 40L, context * 2})));
  if (random->one_in(world.tight ? 2 : 3)) {
    sampling->stop_id_count = static_cast<int32_t>(random->between(1, 2));
    for (int32_t i = 0; i < sampling->stop_id_count; ++i) {
      sampling->stop_ids[static_cast<size_t>(i)] =
          static_cast<TokenId>(random->between(0, world.limits.vocabulary - 1));
    }
  }
  if (random->one_in(6)) {
    sampling->min_tokens = static_cast<int32_t>(random->between(1, 10));
    sampling->banned_until_min_count = sampling->stop_id_count;
    sampling->banned_until_min = sampling->stop_ids;
  }
  if (random->one_in(4)) sampling->logprobs = static_cast<int32_t>(random->between(0, 2));
  if (random->one_in(world.tight ? 2 : 4)) sampling->prompt_logprobs = static_cast<int32_t>(random->between(0, 2));
  if (random->one_in(5)) {
    sampling->logit_bias_count = static_cast<int32_t>(random->between(1, kLogitBiasMax));
  }
}

}  // namespace

std::vector<Request> draw_requests(Random* random, const World& world) {
  std::vector<Request> requests(static_cast<size_t>(random->between(3, 20)));
  int64_t arrival_us = 0;
  const int64_t gap_max = random->pick({0, 500, 5'000});
  const int64_t context = world.limits.sequence_tokens_max;
  const bool priorities = random->one_in(2);
  const auto draw_tokens = [&](int64_t count) {
    std::vector<TokenId> tokens(static_cast<size_t>(count));
    for (TokenId& token : tokens) token = static_cast<TokenId>(random->between(0, world.limits.vocabulary - 1));
    return tokens;
  };
  // What prompts begin with: whole, in part, or not.
  const std::vector<std::vector<TokenId>> beginnings = {draw_tokens(context), draw_tokens(context / 2 + 1)};
  for (Request& request : requests) {
    arrival_us += random->between(0, gap_max);
    request.arrival_us = arrival_us;
    request.header.priority = static_cast<int32_t>(
        priorities ? (random->one_in(20) ? random->pick({kPriorityMin, kPriorityMax}) : random->between(-3, 3)) : 0);
    // Now and then one token too many.
    const int64_t longest = world.tight          ? context / 2
                            : random->one_in(15) ? context + 1
                                                 : random->pick({4L, context / 2 + 1, context - 1});
    request.prompt = draw_tokens(random->between(1, std::max<int64_t>(1, longest)));
    if (random->one_in(2)) {
      const auto& beginning = beginnings[static_cast<size_t>(random->between(0, 1))];
      const auto whole = static_cast<int64_t>(std::min(beginning.size(), request.prompt.size()));
      std::copy_n(beginning.begin(), random->one_in(2) ? whole : random->between(0, whole), request.prompt.begin());
    }
    const auto index = static_cast<int64_t>(&request - requests.data());
    if (index > 0 && random->one_in(3)) request.follows = static_cast<int32_t>(random->between(0, index - 1));
    request.header.suffix_count = static_cast<int32_t>(random->between(0, 5));
    if (random->one_in(6)) {
      request.header.salt = {0, 0, 1, 0};
      request.header.sampling.min_p = 0.5F;
    }
    draw_sampling(random, world, &request.header.sampling);
    request.cancels = random->one_in(3);
    request.cancel_in = random->pick({View::kQueued, View::kPrefill, View::kDecode, View::kPreempted, View::kEnded});
    request.cancel_after = random->between(0, 4);
  }
  return requests;
}

}  // namespace weir::sim
