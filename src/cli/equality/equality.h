// Schedules by seed through the whole engine on real, small models: every request is computed alone and cold first,
// then all of them in a world drawn from the seed, with reuse, crowds, chunks, evictions, preemptions and clients that
// go away. What a client sees must be the same, bit for bit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runner/model.h"

namespace weir::equality {

// What schedules reached.
enum class Reached : size_t {
  kRequests,
  kSampled,
  kWithPenalties,
  kHitOnGrid,
  kHitInsidePage,
  kHitInGenerated,
  kPreempted,
  kEvicted,
  kEvictedUnderReader,
  kStateEvicted,
  kSalted,
  kCrowded,
  kWithDrafts,
  kDraftTokens,
  kAcceptedTokens,
  kGoneQueued,
  kGoneInPrefill,
  kGoneInDecode,
  kCount,
};

inline constexpr std::array<const char*, static_cast<size_t>(Reached::kCount)> kReachedNames = {
    "requests",
    "sampled, not greedy",
    "with penalties",
    "went on from a state on the grid",
    "went on from a state inside a page (a prompt's end)",
    "went on from a state in generated text",
    "preemptions",
    "blocks evicted",
    "turns that evicted while a row had taken pages over",
    "states evicted",
    "another tenant's prompt, not reused",
    "turns with 48 sequences and more",
    "schedules with drafts",
    "drafts verified",
    "drafts accepted",
    "client gone while queued",
    "client gone in prefill",
    "client gone in decode",
};

using Reach = std::array<int64_t, static_cast<size_t>(Reached::kCount)>;

// Holds a model's cold engine, which serves all schedules.
class Judge {
 public:
  // Borrows the model.
  explicit Judge(Model* model);
  ~Judge();
  // One schedule. What differed, a line each; what was reached is added to *reach.
  std::vector<std::string> run(uint64_t seed, Reach* reach);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::equality
