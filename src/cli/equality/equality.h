// Schedules by seed through the whole engine on real, small models. Seeds are in blocks of kBlockSchedules, which share
// a catalogue of requests, each computed alone and cold. A schedule runs some of them in a world drawn from its seed,
// with reuse, crowds, chunks, evictions, preemptions and clients that go away. What a client sees must be the same, bit
// for bit.
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
  kPreemptedInPrompt,
  kEvicted,
  kEvictedUnderReader,
  kStateEvicted,
  kSalted,
  kCrowded,
  kWithDrafts,
  kDraftTokens,
  kAcceptedTokens,
  kRejected1,
  kRejected2,
  kRejected3,
  kRejected4,
  kRejected5,
  kRejected6,
  kRejected7,
  kGoneQueued,
  kGoneInPrefill,
  kGoneInDecode,
  kShared,
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
    "preemptions between a prompt's chunks",
    "blocks evicted",
    "turns that evicted while a row had taken pages over",
    "states evicted",
    "another tenant's prompt, not reused",
    "turns with 48 sequences and more",
    "schedules with drafts",
    "drafts verified",
    "drafts accepted",
    "1st draft rejected",
    "2nd draft rejected, the 1st accepted",
    "3rd draft rejected",
    "4th draft rejected",
    "5th draft rejected",
    "6th draft rejected",
    "7th draft rejected",
    "client gone while queued",
    "client gone in prefill",
    "client gone in decode",
    "schedules where pages and states share their memory",
};

using Reach = std::array<int64_t, static_cast<size_t>(Reached::kCount)>;

inline constexpr uint64_t kBlockSchedules = 64;

// Steps and their rows as planned: on a GPU steps of small models are what costs, elsewhere rows.
struct Work {
  int64_t alone = 0;  // requests computed alone
  int64_t alone_steps = 0;
  int64_t alone_rows = 0;
  int64_t steps = 0;  // of schedules
  int64_t rows = 0;
};

// Holds what serves all schedules of a model: a cold engine, and runners for the worlds. For one thread at a time.
class Judge {
 public:
  // Borrows the model.
  explicit Judge(Model* model);
  ~Judge();
  // Whether schedules of this model can reach it on its device.
  bool reaches(Reached what) const;
  // One schedule. What differed, a line each; what was reached is added to *reach.
  std::vector<std::string> run(uint64_t seed, Reach* reach);
  Work work() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace weir::equality
