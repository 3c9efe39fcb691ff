// From logits to a token, on the CPU: the order of plan/sampling.h, with noise keyed by (seed, position).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "plan/ids.h"
#include "plan/sampling.h"

namespace weir {

// What a sequence's penalties need of its history. Rows without penalties never touch their counts.
class TokenHistory {
 public:
  explicit TokenHistory(int32_t vocabulary);

  // Forgets the last sequence. `params` decide whether counts are kept at all.
  void reset(const SamplingParams& params);
  void add_prompt(TokenId token);
  void add_output(TokenId token);

  bool active() const { return active_; }
  bool in_prompt(TokenId token) const { return prompt_[static_cast<size_t>(token)] != 0; }
  int32_t output_count(TokenId token) const { return output_[static_cast<size_t>(token)]; }

 private:
  struct FreeDeleter {
    void operator()(void* memory) const;
  };
  int32_t vocabulary_;
  bool active_ = false;
  // calloc'ed: pages that no sequence with penalties has used stay unmapped.
  std::unique_ptr<uint16_t[], FreeDeleter> output_;
  std::unique_ptr<uint8_t[], FreeDeleter> prompt_;
};

struct SampleArgs {
  const SamplingParams* params = nullptr;
  const TokenHistory* history = nullptr;  // may be null: no penalties
  std::span<const TokenId> recent;        // output tokens behind those of the history, a few
  int64_t position = 0;                   // absolute position of the token being sampled
  int64_t output_count = 0;               // tokens generated before it
  int32_t vocabulary = 0;                 // ids at and above are padding: never sampled
  std::span<const uint32_t> mask;         // bit per id, 1 = allowed; empty = all
};

class Sampler {
 public:
  // Scratch is reserved for `logits_max` logits.
  explicit Sampler(int32_t logits_max);

  // The token of one row of `logits` [V >= vocabulary], which stay as they are.
  TokenId sample(std::span<const float> logits, const SampleArgs& args);

 private:
  struct Candidate {
    float logit;
    TokenId id;
  };
  static bool less_likely(const Candidate& a, const Candidate& b);
  void filter(std::span<const float> logits, const SamplingParams& params);

  std::vector<float> adjusted_;
  std::vector<Candidate> kept_;
};

// The smallest id with the largest value of logits.
TokenId argmax(std::span<const float> logits);

}  // namespace weir
