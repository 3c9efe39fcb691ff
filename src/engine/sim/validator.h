// The one judge of a schedule. It is told facts (what was submitted and cancelled, every plan, every event, the
// counters) and knows nothing of the engine's insides; it returns everything that was not right.
//
// Within a turn the engine reads commands, then results, then plans: so the driver tells the turn's events before its
// plans. `late` turns, whose events the server has not read, are judged by what does not depend on that order.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "engine/messages.h"
#include "engine/sim/executor.h"
#include "engine/sim/reach.h"
#include "engine/sim/script.h"
#include "engine/stats.h"
#include "plan/step.h"

namespace weir::sim {

struct Rules {
  int64_t aging_us = 0;
  int64_t tokens_max = 0;  // of one sequence
  int32_t vocabulary = 0;
  int32_t rows_max = 0;
  std::vector<int32_t> tokens_per_page;
  // Where pages and slots share their memory: pages of all classes in a slot, and in all of the memory. 0 else.
  int64_t pages_a_slot = 0;
  int64_t shared_pages = 0;
};

// Where a sequence is, as far as plans and events have told.
enum class View : uint8_t { kQueued, kPrefill, kDecode, kPreempted, kEnded };

class Validator {
 public:
  Validator(const Rules& rules, Reach* reach) : rules_(rules), reach_(reach) {}

  // `generated_from`: where the prompt goes on with the answer of an earlier request; -1: nowhere.
  void on_submit(const GenerateHeader& header, std::vector<TokenId> prompt, int64_t generated_from);
  void on_cancel(SequenceId id);
  // Everything submitted or cancelled so far is in the engine's hands when the next turn begins.
  void on_turn_begin();
  void on_event(const Event& event);
  void on_plan(const StepPlan& plan, bool late);
  void on_turn_end(const EngineStats& stats, const std::vector<DeviceRow>& rows, bool late);
  // Every sequence has ended, nothing is held.
  void on_idle(const EngineStats& stats, bool faulted);

  View view(SequenceId id) const { return watched_.at(id).view; }
  // Output tokens received of a sequence; none if it was refused.
  std::vector<TokenId> outputs(SequenceId id) const;
  bool cancelled(SequenceId id) const { return watched_.at(id).cancelled; }
  const std::vector<std::string>& violations() const { return violations_; }
  void violate(std::string text) { violations_.push_back(std::move(text)); }

 private:
  struct Watched {
    GenerateHeader header;
    std::vector<TokenId> prompt;
    ScriptAnswer answer;
    View view = View::kQueued;
    bool visible = false;  // submitted before this turn began
    bool cancelled = false;
    bool cancel_visible = false;     // cancelled before this turn began
    bool joined = false;             // ever
    bool wants_prompt_rows = false;  // in this residency
    int32_t row = -1;
    int64_t generated_from = -1;
    int64_t reused = -1;  // tokens that the first residency did not compute; -1: there was none yet
    bool first_residency = false;
    bool took_over = false;
    int64_t computed = 0;
    int64_t computed_before = 0;  // in earlier residencies
    int32_t samples = 0;          // planned, known ones included
    int32_t preemptions = 0;
    int32_t outputs = 0;      // received
    int32_t prompt_rows = 0;  // received
    FinishReason finish = FinishReason::kNone;
  };

  template <class... Args>
  void violate_at(SequenceId id, const char* format, Args... args);
  int64_t key_us(const Watched& watched) const;
  void check_outputs(SequenceId id, Watched* watched, const Event& event);
  void check_rows(SequenceId id, Watched* watched, const Event& event);
  void check_finish(SequenceId id, Watched* watched, const Event& event);
  void plan_leave(const StepPlan& plan, const Edit& edit);
  void plan_join(const StepPlan& plan, const Edit& edit, bool late);
  void plan_restore(const Edit& edit);
  void check_order(SequenceId id, const Watched& joining);
  void plan_work(const StepPlan& plan, const SequenceWork& work, bool late);
  void plan_prefill(Watched* watched, const StepPlan& plan, const SequenceWork& work);
  void check_nobody_stands_still(const StepPlan& plan);

  Rules rules_;
  Reach* reach_;
  std::map<SequenceId, Watched> watched_;
  std::map<int32_t, SequenceId> rows_;
  int64_t evicted_ = 0;  // blocks, at the last turn's end
  std::vector<std::string> violations_;
};

}  // namespace weir::sim
