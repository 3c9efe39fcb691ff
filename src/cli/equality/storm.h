// Whether evicting ever holds up those who decode. Many prompts come again and again to a cache that has memory for a
// tenth of what they leave, that of the rows included, while some sequences decode beside them without an end: each
// prompt is found once, soon after it came, and was evicted when it comes the next time. What is timed is the interval
// between the results of two steps, which is what a sequence that decodes waits for its next token, with two steps in
// flight as in a server: whatever the engine's thread does meanwhile hides behind the step that runs, and shows as soon
// as it takes longer than that.
//
// Steps are compared with steps of the same work: as many generated rows, the same places of prompts, and as many
// sequences that join with the plan that is made meanwhile. One with a piece of a prompt is longer for its rows, and
// evicts, since who joins takes pages: beside one that decodes alone it would say nothing of evictions. The same
// schedule with memory for everything runs too: it has steps of the same kinds, of which none evicts.
//
// On a host that others use any step can take long, and one whose result waited for the engine's thread seems to take
// none. What evictions cost comes with the schedule, though, and that is the same every time, to the plan: so it runs
// several times, and a step counts with the middle one of its times. While one is too long it runs again, up to a
// limit: what the host did to it now and then goes away, what evictions do stays. The planning, with all its evictions,
// is measured apart by the thread's own clock, on which no other thread counts.
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/equality/deadline.h"
#include "runner/model.h"

namespace weir::equality {

struct StormConfig {
  int64_t prompts = 96;      // distinct; each comes twice in each of two rounds
  int64_t repeats = 3;       // of the schedule with all memory and with a tenth in turn,
  int64_t repeats_max = 16;  // while a step is too long; fewer if time runs out
  uint64_t seed = 1;         // of the prompts' tokens and their order
  bool one_memory = false;   // pages and states share their memory
};

// What a step computed: so many generated rows, and tokens [first, second) of prompts.
struct StepKind {
  int32_t generated = 0;
  std::vector<std::array<int64_t, 2>> prompts;
  int32_t joining = 0;  // sequences, with the plan that was made meanwhile
  friend auto operator<=>(const StepKind&, const StepKind&) = default;
  std::string text() const;
};

struct StormStep {
  StepKind kind;
  int64_t ns = 0;  // since the result before
  // Of the plan that was made meanwhile.
  int64_t plan_ns = 0;  // of the engine's thread; to make it, with what it evicted
  int64_t turn_ns = 0;  // the engine's whole turn: requests and results that came, the plan, events
  int64_t evicted = 0;  // blocks
};

struct StormRun {
  std::vector<StormStep> steps;
  int64_t pages_kept = 0;  // at the end
  int64_t states_kept = 0;
  int64_t pages_max = 0;  // kept at any time
  int64_t states_max = 0;
  int64_t evicted_blocks = 0;
  int64_t evicted_states = 0;
  int64_t preemptions = 0;
  int64_t visits = 0;
  int64_t hits = 0;          // visits that reused something
  int64_t lost = 0;          // visits that did not, of prompts that had been there
  int64_t prompts_both = 0;  // prompts that had both
  int64_t evicted_most = 0;  // by one plan
  // By one plan beyond what it took (sim/taken.h), and where no plan was made; 0, or evictions come in storms.
  int64_t evicted_beyond = 0;
};

// The same schedule several times.
struct StormRuns {
  std::vector<StormRun> runs;
  std::vector<StormStep> middle() const;  // of each step's times
};

struct Storm {
  StormRuns whole;  // with memory for everything
  StormRuns tenth;  // with a tenth of what that kept
  // How many times over that is, rows' memory included: of pages or of states, what there is more of; or of units that
  // are four pages or a state each.
  double oversubscribed = 0;
};

// kInvalidArgument: too few prompts, so that a tenth is less than the rows need. kInternal: repeats differ in a plan.
// If time runs out there is one run of each.
Result<Storm> run_storm(Model* model, const StormConfig& config, const Deadline& deadline = Deadline());

// Times of one kind, in microseconds.
struct KindTimes {
  StepKind kind;
  int64_t steps = 0;
  int64_t evicting = 0;  // while which a plan evicted
  double median = 0;
  double p99 = 0;
  double evicting_max = 0;
  double others_max = 0;    // of those while which nothing was evicted
  int64_t whole_steps = 0;  // of the same kind with memory for everything
  double whole_median = 0;
  double whole_max = 0;
  double max() const { return std::max(evicting_max, others_max); }
  // Where all steps of a kind evict, their median is no measure: that with memory for everything is.
  double typical() const { return whole_steps >= kJudged ? std::min(median, whole_median) : median; }
  // A step is too long if it takes more than twice what is typical of its kind, and more than the longest of its kind
  // while which nothing was evicted: the host alone makes a step as long as that. Kinds of few steps have no median to
  // speak of and are not judged.
  static constexpr int64_t kJudged = 20;
  bool judged() const { return steps >= kJudged; }
  bool too_long() const { return judged() && evicting_max > std::max({2 * typical(), others_max, whole_max}); }
};

// The kinds that there are most steps of first.
std::vector<KindTimes> by_kind(const std::vector<StormStep>& steps, const std::vector<StormStep>& whole);
bool any_too_long(const std::vector<KindTimes>& kinds);

}  // namespace weir::equality
