#include "cli/equality/distribution.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <thread>
#include <vector>

#include "cli/equality/served.h"
#include "runner/offline.h"

namespace weir::equality {
namespace {

constexpr std::array<TokenId, 4> kIds = {3, 17, 40, 61};  // what can be sampled, but for one in e^30
constexpr float kBias = 30.0F;
constexpr size_t kCells = kIds.size() * kIds.size() * kIds.size();
constexpr double kExpectedMin = 10;
constexpr int32_t kCounted = 3;  // tokens of a sequence that count
constexpr int32_t kCrowd = 256;  // sequences at once: a step of many costs a GPU hardly more than one of few
const std::vector<TokenId> kPrompt = {5, 9, 2, 30, 11, 8, 21};

SamplingParams sampling_of(uint64_t seed, int32_t drafts) {
  SamplingParams sampling;
  sampling.temperature = 1.0F;
  sampling.seed = seed;
  // The first comes with the prompt, a step behind it verifies all drafts and yields one more.
  sampling.max_tokens = std::max(kCounted, drafts + 2);
  sampling.logit_bias_count = static_cast<int32_t>(kIds.size());
  for (size_t i = 0; i < kIds.size(); ++i) sampling.logit_bias[i] = {kIds[i], kBias};
  return sampling;
}

// The probabilities of the ids behind `tokens`, from the model's logits alone.
std::array<double, kIds.size()> next_of(OfflineModel* offline, const std::vector<TokenId>& tokens) {
  std::array<double, kIds.size()> out{};
  offline->score(tokens, static_cast<int64_t>(tokens.size()) - 1, [&](int64_t, std::span<const float> logits) {
    double most = 0;
    for (const TokenId id : kIds) most = std::max(most, static_cast<double>(logits[static_cast<size_t>(id)]) + kBias);
    double sum = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const bool biased = std::find(kIds.begin(), kIds.end(), static_cast<TokenId>(i)) != kIds.end();
      sum += std::exp(static_cast<double>(logits[i]) + (biased ? kBias : 0.0F) - most);
    }
    for (size_t i = 0; i < kIds.size(); ++i) {
      out[i] = std::exp(static_cast<double>(logits[static_cast<size_t>(kIds[i])]) + kBias - most) / sum;
    }
  });
  return out;
}

std::array<double, kCells> expected_cells(Model* model) {
  auto offline = OfflineModel::create(model, 64, 64);
  WEIR_CHECK(offline.ok(), "{}", offline.error().text());
  std::array<double, kCells> cells{};
  std::vector<TokenId> tokens = kPrompt;
  const auto first = next_of(offline->get(), tokens);
  for (size_t a = 0; a < kIds.size(); ++a) {
    tokens.push_back(kIds[a]);
    const auto second = next_of(offline->get(), tokens);
    for (size_t b = 0; b < kIds.size(); ++b) {
      tokens.push_back(kIds[b]);
      const auto third = next_of(offline->get(), tokens);
      for (size_t c = 0; c < kIds.size(); ++c) {
        cells[(a * kIds.size() + b) * kIds.size() + c] = first[a] * second[b] * third[c];
      }
      tokens.pop_back();
    }
    tokens.pop_back();
  }
  return cells;
}

size_t cell_of(const std::vector<TokenId>& tokens) {
  size_t cell = 0;
  for (size_t i = 0; i < static_cast<size_t>(kCounted); ++i) {
    const auto found = std::find(kIds.begin(), kIds.end(), tokens.at(i));
    WEIR_CHECK(found != kIds.end(), "token {} was sampled", tokens[i]);
    cell = cell * kIds.size() + static_cast<size_t>(found - kIds.begin());
  }
  return cell;
}

// What some of the samples gave.
struct Drawn {
  std::array<int64_t, kCells> counts{};
  int64_t samples = 0;
  int64_t drafted = 0;
  int64_t accepted = 0;
  int64_t steps = 0;
};

Drawn draw_samples(Model* model, int32_t drafts, int64_t samples, uint64_t first, const Deadline& deadline) {
  World world;
  world.limits.rows_max = kCrowd;
  world.limits.step_tokens_max = kCrowd * (1 + drafts);
  world.limits.state_slots = 2 * kCrowd;
  world.limits.pages = {4 * kCrowd};
  world.limits.sequence_tokens_max = 64;
  world.limits.vocabulary = static_cast<int32_t>(model->config.vocabulary);
  world.limits.drafts_max = drafts;
  world.config.adaptive_drafts = false;
  world.config.prefix_caching = true;  // the prompt is the same every time
  world.config.cache_seed = 1;
  Served served(model, world);
  EngineClient client = served.client();

  Drawn drawn;
  std::map<SequenceId, std::vector<TokenId>> open;
  Event event;
  int64_t sent = 0;
  while (drawn.samples < samples) {
    if (deadline.passed()) samples = sent;
    while (sent < samples && static_cast<int32_t>(open.size()) < 2 * kCrowd) {
      const SamplingParams sampling = sampling_of(first + static_cast<uint64_t>(sent++), drafts);
      open[served.submit(kPrompt, sampling, {}, 0)];
    }
    served.turn();
    while (client.poll(&event)) {
      auto& tokens = open.at(event.header.id);
      tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
      if (event.header.finish == FinishReason::kNone) continue;
      ++drawn.counts[cell_of(tokens)];
      open.erase(event.header.id);
      ++drawn.samples;
    }
  }
  drawn.drafted = client.stats().draft_tokens;
  drawn.accepted = client.stats().accepted_tokens;
  drawn.steps = served.passed().steps;
  return drawn;
}

// The statistic's distribution holds for cells in which some samples are expected: the rare ones count together.
void compare(const std::array<double, kCells>& cells, const std::array<int64_t, kCells>& counts, Fit* fit) {
  double rare_expected = 0;
  int64_t rare_count = 0;
  fit->degrees = -1;
  const auto add = [fit](double expected, int64_t count) {
    if (expected <= 0) return;
    fit->chi_square += (static_cast<double>(count) - expected) * (static_cast<double>(count) - expected) / expected;
    ++fit->degrees;
  };
  for (size_t i = 0; i < kCells; ++i) {
    const double expected = cells[i] * static_cast<double>(fit->samples);
    if (expected >= kExpectedMin) {
      add(expected, counts[i]);
    } else {
      rare_expected += expected;
      rare_count += counts[i];
    }
  }
  add(rare_expected, rare_count);
}

}  // namespace

double Fit::p_value() const {
  const auto k = static_cast<double>(degrees);
  const double z = (std::cbrt(chi_square / k) - (1.0 - 2.0 / (9.0 * k))) / std::sqrt(2.0 / (9.0 * k));
  return 0.5 * std::erfc(z / std::sqrt(2.0));
}

Fit fit_of_three_tokens(std::span<Model* const> models, int32_t drafts, int64_t samples, uint64_t first,
                        const Deadline& deadline) {
  const auto parts = std::ssize(models);
  std::vector<Drawn> drawn(models.size());
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < parts; ++i) {
    const int64_t begin = samples * i / parts;
    const int64_t end = samples * (i + 1) / parts;
    threads.emplace_back([&, i, begin, end] {
      const auto at = static_cast<size_t>(i);
      drawn[at] = draw_samples(models[at], drafts, end - begin, first + static_cast<uint64_t>(begin), deadline);
    });
  }
  for (std::thread& thread : threads) thread.join();
  Fit fit;
  std::array<int64_t, kCells> counts{};
  for (const Drawn& part : drawn) {
    for (size_t i = 0; i < kCells; ++i) counts[i] += part.counts[i];
    fit.samples += part.samples;
    fit.drafted += part.drafted;
    fit.accepted += part.accepted;
    fit.steps += part.steps;
  }
  compare(expected_cells(models.front()), counts, &fit);
  return fit;
}

}  // namespace weir::equality
