#include "cli/equality/catalogue.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

namespace weir::equality {
namespace {

void draw_sampling(Random* random, int32_t vocabulary, SamplingParams* sampling) {
  sampling->temperature = one_in(random, 2) ? 0.0F : pick(random, {0.3F, 0.9F, 1.5F});
  sampling->top_p = pick(random, {1.0F, 1.0F, 0.9F});
  sampling->top_k = static_cast<int32_t>(pick(random, {0, 0, 3}));
  sampling->seed = (*random)();
  sampling->max_tokens = static_cast<int32_t>(one_in(random, 16) ? between(random, 130, 180)
                                                                 : between(random, 1, pick(random, {6, 24, 48})));
  sampling->logprobs = static_cast<int32_t>(between(random, -1, 1));
  if (one_in(random, 8)) sampling->prompt_logprobs = 0;
  // Random weights agree with their draft head about nothing: of a few likely ids it guesses some right, and most where
  // the noise, which both share, decides more than their logits.
  const bool noisy = one_in(random, 2);
  if (noisy || one_in(random, 3)) {
    sampling->logit_bias_count = static_cast<int32_t>(between(random, noisy ? 2 : 1, 3));
    for (int32_t i = 0; i < sampling->logit_bias_count; ++i) {
      sampling->logit_bias[static_cast<size_t>(i)] = {static_cast<TokenId>(between(random, 0, vocabulary - 1)),
                                                      noisy ? 200.0F : 20.0F};
    }
  }
  if (noisy) {
    sampling->temperature = 6.0F;
    sampling->top_p = 1.0F;
    sampling->top_k = 0;
    return;
  }
  if (one_in(random, 6)) sampling->frequency_penalty = 0.4F;
  if (one_in(random, 8)) sampling->repetition_penalty = 1.2F;
  if (one_in(random, 4)) {
    sampling->stop_id_count = 1;
    sampling->stop_ids[0] = static_cast<TokenId>(between(random, 0, vocabulary - 1));
  }
}

}  // namespace

void take(const Event& event, Outcome* outcome) {
  outcome->tokens.insert(outcome->tokens.end(), event.tokens.begin(), event.tokens.end());
  for (size_t row = 0; row < event.rows.size(); ++row) {
    const bool prompt = static_cast<int32_t>(row) < event.header.prompt_row_count;
    auto& target = prompt ? outcome->prompt_logprobs : outcome->logprobs;
    for (int32_t i = 0; i <= event.rows[row].top_count; ++i) {
      const TokenLogprob& entry = event.logprobs[static_cast<size_t>(event.rows[row].first + i)];
      target.push_back(std::bit_cast<uint32_t>(entry.logprob));
      target.push_back(static_cast<uint32_t>(entry.token));
    }
  }
  outcome->finish = event.header.finish;
  outcome->cached = event.header.cached_count;
}

Outcome beginning_of(const Outcome& whole, int64_t count) {
  Outcome out = whole;
  const auto all = static_cast<int64_t>(whole.tokens.size());
  if (count >= all) return out;
  const auto of_a_token = static_cast<int64_t>(whole.logprobs.size()) / all;
  WEIR_CHECK(of_a_token * all == static_cast<int64_t>(whole.logprobs.size()), "{} values of {} tokens",
             whole.logprobs.size(), all);
  out.tokens.resize(static_cast<size_t>(count));
  out.logprobs.resize(static_cast<size_t>(count * of_a_token));
  out.finish = FinishReason::kLength;
  return out;
}

std::vector<std::string> differences(const std::string& who, const Outcome& seen, const Outcome& right,
                                     const char* where, bool cut) {
  std::vector<std::string> out;
  if (!cut && seen.finish != right.finish) {
    out.push_back(fmt::format("{} ends with {}, {} with {}", who, static_cast<int>(seen.finish), where,
                              static_cast<int>(right.finish)));
  }
  const auto compare = [&](const char* what, const auto& a, const auto& b) {
    const auto at =
        std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(std::min(a.size(), b.size())), b.begin());
    if (a.size() == b.size() && at.first == a.end()) return;
    if (cut && a.size() <= b.size() && at.first == a.end()) return;
    out.push_back(fmt::format("{}: {} of {} and {} {} differ from {} on", who, what, a.size(), b.size(), where,
                              at.first - a.begin()));
  };
  compare("tokens", seen.tokens, right.tokens);
  compare("log-probabilities", seen.logprobs, right.logprobs);
  compare("log-probabilities of the prompt", seen.prompt_logprobs, right.prompt_logprobs);
  return out;
}

Catalogue::Catalogue(uint64_t seed, Served* cold, int32_t vocabulary)
    : seed_(seed), cold_(cold), vocabulary_(vocabulary) {}

const Catalogue::Entry& Catalogue::at(int64_t family, int64_t member) {
  auto& entry = entries_.at(static_cast<size_t>(family)).at(static_cast<size_t>(member));
  if (!entry) {
    const Request request = draw(family, member);
    entry = Entry{request, alone(request)};
  }
  return *entry;
}

// Most prompts share something with an earlier one: a beginning, the whole, or a conversation that goes on.
Request Catalogue::draw(int64_t family, int64_t member) {
  const auto place = static_cast<uint64_t>(family * (kMembers + 1));
  Random shared(seed_ * (kFamilies * (kMembers + 1)) + place);
  const auto beginning =
      draw_tokens(&shared, one_in(&shared, 6) ? between(&shared, 300, 600) : between(&shared, 1, 260), vocabulary_);
  Random random(seed_ * (kFamilies * (kMembers + 1)) + place + 1 + static_cast<uint64_t>(member));
  Request request;
  draw_sampling(&random, vocabulary_, &request.sampling);
  request.suffix_count = static_cast<int32_t>(between(&random, 0, 6));
  const int64_t way = member == 0 ? 0 : between(&random, 0, 5);
  auto& prompt = request.prompt;
  if (way <= 1) {
    const auto all = static_cast<int64_t>(beginning.size());
    prompt.assign(beginning.begin(), beginning.begin() + (one_in(&random, 2) ? all : between(&random, 0, all)));
  } else if (way <= 4) {
    // The longer of two answers: what goes on behind it may find states in it.
    const int64_t one = between(&random, 0, member - 1);
    const int64_t other = between(&random, 0, member - 1);
    const auto answer_of = [&](int64_t which) { return at(family, which).alone.tokens.size(); };
    request.parent = answer_of(one) > answer_of(other) ? one : other;
    const Entry& earlier = at(family, request.parent);
    prompt = earlier.request.prompt;
    if (way >= 3) {
      request.generated_from = static_cast<int64_t>(prompt.size());
      // What a template shows of an answer, or all of it.
      const auto& answer = earlier.alone.tokens;
      const auto shown =
          one_in(&random, 3) ? static_cast<int64_t>(answer.size()) / 2 : static_cast<int64_t>(answer.size());
      prompt.insert(prompt.end(), answer.begin(), answer.begin() + shown);
    } else {
      prompt.resize(prompt.size() -
                    static_cast<size_t>(between(
                        &random, 0, std::min<int64_t>(request.suffix_count, static_cast<int64_t>(prompt.size())))));
    }
  }
  const auto more = draw_tokens(&random, between(&random, 0, pick(&random, {3, 70, 120})), vocabulary_);
  prompt.insert(prompt.end(), more.begin(), more.end());
  if (prompt.empty()) prompt.push_back(1);
  prompt.resize(std::min<size_t>(prompt.size(), static_cast<size_t>(kContext - 1 - between(&random, 0, 60))));
  return request;
}

Outcome Catalogue::alone(const Request& request) {
  Outcome outcome;
  const SequenceId id = cold_->submit(request.prompt, request.sampling, {}, request.suffix_count);
  EngineClient client = cold_->client();
  while (outcome.finish == FinishReason::kNone) {
    cold_->turn();
    while (client.poll(&event_)) {
      WEIR_CHECK(event_.header.id == id, "an event of sequence {}", event_.header.id);
      take(event_, &outcome);
    }
  }
  cold_->settle();
  return outcome;
}

}  // namespace weir::equality
