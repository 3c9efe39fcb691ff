#include "decode/sampler.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "ops/sample/noise.h"

namespace weir {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

void apply_penalties(std::span<float> logits, const SampleArgs& args) {
  const SamplingParams& params = *args.params;
  for (int32_t i = 0; i < params.logit_bias_count; ++i) {
    const LogitBias& bias = params.logit_bias[static_cast<size_t>(i)];
    if (bias.token < args.vocabulary) logits[static_cast<size_t>(bias.token)] += bias.bias;
  }
  if (args.history != nullptr && args.history->active()) {
    for (int32_t id = 0; id < args.vocabulary; ++id) {
      float& logit = logits[static_cast<size_t>(id)];
      const auto count =
          args.history->output_count(id) + static_cast<int32_t>(std::count(args.recent.begin(), args.recent.end(), id));
      if (count > 0 || args.history->in_prompt(id)) {
        logit = logit > 0.0F ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      }
      if (count > 0) {
        logit -= params.presence_penalty + static_cast<float>(count) * params.frequency_penalty;
      }
    }
  }
}

void apply_masks(std::span<float> logits, const SampleArgs& args) {
  const SamplingParams& params = *args.params;
  if (args.output_count < params.min_tokens) {
    for (int32_t i = 0; i < params.banned_until_min_count; ++i) {
      const TokenId banned = params.banned_until_min[static_cast<size_t>(i)];
      if (banned < args.vocabulary) logits[static_cast<size_t>(banned)] = kMasked;
    }
  }
  if (!args.mask.empty()) {
    for (size_t id = 0; id < logits.size(); ++id) {
      if ((args.mask[id / 32] >> (id % 32) & 1U) == 0) logits[id] = kMasked;
    }
  }
}

}  // namespace

void TokenHistory::FreeDeleter::operator()(void* memory) const {
  std::free(memory);
}

TokenHistory::TokenHistory(int32_t vocabulary) : vocabulary_(vocabulary) {
  const auto size = static_cast<size_t>(vocabulary);
  output_.reset(static_cast<uint16_t*>(std::calloc(size, sizeof(uint16_t))));
  prompt_.reset(static_cast<uint8_t*>(std::calloc(size, sizeof(uint8_t))));
  WEIR_CHECK(output_ != nullptr && prompt_ != nullptr, "no memory for the penalties of {} ids", vocabulary);
}

void TokenHistory::reset(const SamplingParams& params) {
  active_ = has_penalties(params);
  if (!active_) return;
  const auto size = static_cast<size_t>(vocabulary_);
  std::memset(output_.get(), 0, size * sizeof(uint16_t));
  std::memset(prompt_.get(), 0, size * sizeof(uint8_t));
}

void TokenHistory::add_prompt(TokenId token) {
  if (active_ && token < vocabulary_) prompt_[static_cast<size_t>(token)] = 1;
}

void TokenHistory::add_output(TokenId token) {
  if (!active_ || token >= vocabulary_) return;
  uint16_t& count = output_[static_cast<size_t>(token)];
  if (count < std::numeric_limits<uint16_t>::max()) ++count;
}

TokenId argmax(std::span<const float> logits) {
  const auto best = std::max_element(logits.begin(), logits.end());
  return static_cast<TokenId>(best - logits.begin());
}

Sampler::Sampler(int32_t logits_max) {
  adjusted_.resize(static_cast<size_t>(logits_max));
  kept_.reserve(static_cast<size_t>(logits_max));
}

// Heap order: the likeliest on top, the lower id first among equals.
bool Sampler::less_likely(const Candidate& a, const Candidate& b) {
  return a.logit < b.logit || (a.logit == b.logit && a.id > b.id);
}

// Leaves in kept_ the ids that top_k, then top_p over their renormalised probabilities, then min_p allow.
// `logits` are already divided by the temperature.
void Sampler::filter(std::span<const float> logits, const SamplingParams& params) {
  kept_.clear();
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] > kMasked) kept_.push_back({logits[id], static_cast<TokenId>(id)});
  }
  const bool top_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < kept_.size();
  if (top_k) {
    const auto likelier = [](const Candidate& a, const Candidate& b) { return less_likely(b, a); };
    std::nth_element(kept_.begin(), kept_.begin() + params.top_k, kept_.end(), likelier);
    kept_.resize(static_cast<size_t>(params.top_k));
  }
  if (kept_.empty() || (params.top_p >= 1.0F && params.min_p <= 0.0F)) return;
  std::make_heap(kept_.begin(), kept_.end(), less_likely);
  const float top = kept_.front().logit;
  if (params.top_p < 1.0F) {
    int64_t total = 0;
    for (const Candidate& candidate : kept_) total += fixed_probability(candidate.logit, top);
    const double wanted = static_cast<double>(params.top_p) * static_cast<double>(total);
    int64_t sum = 0;
    auto end = kept_.end();
    while (end != kept_.begin() && static_cast<double>(sum) < wanted) {
      sum += fixed_probability(kept_.front().logit, top);
      std::pop_heap(kept_.begin(), end, less_likely);
      --end;
    }
    kept_.erase(kept_.begin(), end);
  }
  if (params.min_p > 0.0F) {
    std::erase_if(kept_, [&](const Candidate& c) { return portable_exp(c.logit - top) < params.min_p; });
  }
}

TokenId Sampler::sample(std::span<const float> logits, const SampleArgs& args) {
  const auto vocabulary = static_cast<size_t>(args.vocabulary);
  WEIR_CHECK(args.vocabulary > 0 && vocabulary <= logits.size() && vocabulary <= adjusted_.size(),
             "vocabulary {} of {} logits", args.vocabulary, logits.size());
  const SamplingParams& params = *args.params;
  std::copy_n(logits.begin(), vocabulary, adjusted_.begin());
  const std::span<float> real = std::span<float>(adjusted_).first(vocabulary);
  apply_penalties(real, args);
  apply_masks(real, args);
  if (params.temperature <= 0.0F) return argmax(real);
  const float scale = 1.0F / params.temperature;
  if (scale > kSampleScaleMax) return argmax(real);
  for (float& logit : real) logit *= scale;
  filter(real, params);
  // Everything masked (a bias of -100 on every id, say): the argmax is as good as any and keeps the engine going.
  if (kept_.empty()) return argmax(real);
  TokenId best = -1;
  float best_score = kMasked;
  for (const Candidate& candidate : kept_) {
    const float score = candidate.logit + gumbel_noise(params.seed, args.position, candidate.id);
    if (best < 0 || score > best_score || (score == best_score && candidate.id < best)) {
      best = candidate.id;
      best_score = score;
    }
  }
  return best;
}

}  // namespace weir
