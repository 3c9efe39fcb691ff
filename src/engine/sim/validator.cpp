#include "engine/sim/validator.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>
#include <utility>

namespace weir::sim {

template <class... Args>
void Validator::violate_at(SequenceId id, const char* format, Args... args) {
  violations_.push_back(fmt::format("sequence {}: ", id) + fmt::format(fmt::runtime(format), args...));
}

// Whoever has the smaller one is served first; see sched/ordered_queue.h for why one number holds priority and age.
int64_t Validator::key_us(const Watched& watched) const {
  return watched.header.arrival_us + watched.header.priority * rules_.aging_us;
}

void Validator::on_submit(const GenerateHeader& header, std::vector<TokenId> prompt, int64_t generated_from) {
  Watched& watched = watched_[header.id];
  watched.header = header;
  watched.generated_from = generated_from;
  watched.answer = answer(prompt, header.sampling, rules_.tokens_max, rules_.vocabulary);
  watched.prompt = std::move(prompt);
  reach_->add(Reached::kRequest);
}

std::vector<TokenId> Validator::outputs(SequenceId id) const {
  const auto found = watched_.find(id);
  if (found == watched_.end()) return {};
  const Watched& watched = found->second;
  return {watched.answer.tokens.begin(), watched.answer.tokens.begin() + watched.outputs};
}

void Validator::on_cancel(SequenceId id) {
  Watched& watched = watched_.at(id);
  if (watched.cancelled) reach_->add(Reached::kCancelledTwice);
  watched.cancelled = true;
  switch (watched.view) {
    case View::kQueued:
      return reach_->add(Reached::kCancelledQueued);
    case View::kPrefill:
      return reach_->add(Reached::kCancelledInPrefill);
    case View::kDecode:
      return reach_->add(Reached::kCancelledInDecode);
    case View::kPreempted:
      return reach_->add(Reached::kCancelledPreempted);
    case View::kEnded:
      return reach_->add(Reached::kCancelledAfterEnd);
  }
}

void Validator::on_turn_begin() {
  for (auto& [id, watched] : watched_) {
    watched.visible = true;
    watched.cancel_visible = watched.cancelled;
  }
}

void Validator::on_event(const Event& event) {
  const SequenceId id = event.header.id;
  const auto found = watched_.find(id);
  if (found == watched_.end()) return violate_at(id, "an event for nobody");
  Watched& watched = found->second;
  if (watched.finish != FinishReason::kNone) return violate_at(id, "an event after its last");
  const EventHeader& header = event.header;
  if (header.prompt_count != static_cast<int32_t>(watched.prompt.size())) {
    violate_at(id, "prompt of {} reported as {}", watched.prompt.size(), header.prompt_count);
  }
  if (watched.joined && header.cached_count != std::max<int64_t>(watched.reused, 0)) {
    violate_at(id, "{} tokens reported as cached, {} were", header.cached_count, watched.reused);
  }
  if (header.matched_count < header.cached_count ||
      header.matched_count + header.evicted_count > static_cast<int32_t>(watched.prompt.size())) {
    violate_at(id, "of {} tokens {} matched, {} cached, {} evicted", watched.prompt.size(), header.matched_count,
               header.cached_count, header.evicted_count);
  }
  const bool times_sound = header.arrival_us <= header.now_us && header.admitted_us <= header.now_us &&
                           header.first_token_us <= header.now_us;
  if (!times_sound) violate_at(id, "a time after the event's own");
  check_rows(id, &watched, event);
  check_outputs(id, &watched, event);
  if (header.finish != FinishReason::kNone) check_finish(id, &watched, event);
}

void Validator::check_outputs(SequenceId id, Watched* watched, const Event& event) {
  if (event.header.first_index != watched->outputs) {
    violate_at(id, "token {} comes after {}", event.header.first_index, watched->outputs);
  }
  // A step was planned as one token.
  if (!event.tokens.empty()) watched->samples += static_cast<int32_t>(event.tokens.size()) - 1;
  for (const TokenId token : event.tokens) {
    const auto index = static_cast<size_t>(watched->outputs++);
    if (index >= watched->answer.tokens.size()) {
      violate_at(id, "token {} of {}", index, watched->answer.tokens.size());
    } else if (watched->answer.tokens[index] != token) {
      violate_at(id, "token {} is {}, alone it is {}", index, token, watched->answer.tokens[index]);
    }
  }
}

void Validator::check_rows(SequenceId id, Watched* watched, const Event& event) {
  const auto same = [&](const LogprobRow& row, const TokenLogprob& expected) {
    if (row.first < 0 || static_cast<size_t>(row.first + row.top_count) >= event.logprobs.size()) return false;
    const TokenLogprob& got = event.logprobs[static_cast<size_t>(row.first)];
    return got.token == expected.token && got.logprob == expected.logprob;
  };
  const auto prompt_rows = static_cast<size_t>(event.header.prompt_row_count);
  if (prompt_rows > 0 && event.header.prompt_first != watched->prompt_rows + 1) {
    violate_at(id, "prompt row {} comes after {}", event.header.prompt_first, watched->prompt_rows);
  }
  for (size_t i = 0; i < prompt_rows; ++i) {
    const auto index = static_cast<size_t>(watched->prompt_rows++);
    if (index >= watched->answer.prompt_logprobs.size() ||
        !same(event.rows[i], watched->answer.prompt_logprobs[index])) {
      violate_at(id, "prompt row {} is not its own", index + 1);
    }
  }
  const bool wants = watched->header.sampling.logprobs >= 0;
  if (event.rows.size() - prompt_rows != (wants ? event.tokens.size() : 0)) {
    return violate_at(id, "{} rows for {} tokens", event.rows.size() - prompt_rows, event.tokens.size());
  }
  for (size_t i = prompt_rows; i < event.rows.size(); ++i) {
    const size_t index = static_cast<size_t>(watched->outputs) + i - prompt_rows;
    if (index >= watched->answer.logprobs.size() || !same(event.rows[i], watched->answer.logprobs[index])) {
      violate_at(id, "the row of token {} is not its own", index);
    }
  }
}

void Validator::check_finish(SequenceId id, Watched* watched, const Event& event) {
  watched->finish = event.header.finish;
  if (watched->view == View::kPreempted && event.header.finish <= FinishReason::kLength) {
    reach_->add(Reached::kEndedWhilePreempted);
  }
  watched->view = View::kEnded;
  const auto expect_whole = [&](StopReason stop) {
    if (watched->answer.stop != stop)
      violate_at(id, "the wrong finish reason {}", static_cast<int>(event.header.finish));
    if (static_cast<size_t>(watched->outputs) != watched->answer.tokens.size()) {
      violate_at(id, "{} tokens, alone it has {}", watched->outputs, watched->answer.tokens.size());
    }
    const bool wants_prompt = watched->header.sampling.prompt_logprobs >= 0;
    if (static_cast<size_t>(watched->prompt_rows) != (wants_prompt ? watched->prompt.size() - 1 : 0)) {
      violate_at(id, "{} prompt rows for {} tokens", watched->prompt_rows, watched->prompt.size());
    }
  };
  switch (event.header.finish) {
    case FinishReason::kStop:
      reach_->add(Reached::kFinishedStop);
      return expect_whole(StopReason::kStopId);
    case FinishReason::kLength:
      if (watched->header.sampling.max_tokens == 0) reach_->add(Reached::kPromptOnly);
      reach_->add(watched->outputs < watched->header.sampling.max_tokens ? Reached::kContextEnd
                                                                         : Reached::kFinishedLength);
      if (watched->header.sampling.prompt_logprobs >= 0) reach_->add(Reached::kPromptLogprobs);
      return expect_whole(StopReason::kLength);
    case FinishReason::kAbort:
      if (!watched->cancelled) violate_at(id, "aborted, but nobody cancelled it");
      return;
    case FinishReason::kError:
      reach_->add(Reached::kFault);
      if (event.message.empty()) violate_at(id, "an error without a message");
      return;
    case FinishReason::kNone:
      return;
  }
}

void Validator::on_plan(const StepPlan& plan, bool late) {
  for (const Edit& edit : plan.edits) {
    if (edit.kind == EditKind::kLeave) plan_leave(plan, edit);
    if (edit.kind == EditKind::kJoin) plan_join(plan, edit, late);
    if (edit.kind == EditKind::kRestoreState) plan_restore(edit);
  }
  bool prefills = false;
  bool decodes = false;
  for (const SequenceWork& work : plan.work) {
    (work.first_token < 0 ? decodes : prefills) = true;
    plan_work(plan, work, late);
  }
  if (prefills && decodes) reach_->add(Reached::kMixedStep);
  if (!late) check_nobody_stands_still(plan);
}

void Validator::plan_leave(const StepPlan&, const Edit& edit) {
  const auto found = rows_.find(edit.row.value());
  if (found == rows_.end()) return;
  Watched& watched = watched_.at(found->second);
  rows_.erase(found);
  watched.row = -1;
  if (watched.view == View::kEnded || watched.cancelled) return;
  if (watched.view == View::kDecode) {
    reach_->add(Reached::kPreemptedInDecode);
  } else if (watched.computed > 0) {
    reach_->add(Reached::kPreemptedInPrefill);
  }
  if (++watched.preemptions == 2) reach_->add(Reached::kPreemptedTwice);
  watched.view = View::kPreempted;
  watched.computed_before = std::max(watched.computed_before, watched.computed);
}

void Validator::plan_join(const StepPlan& plan, const Edit& edit, bool late) {
  const SequenceId id = plan.sampling.at(static_cast<size_t>(edit.first)).seed;
  const auto found = watched_.find(id);
  if (found == watched_.end()) return violate_at(id, "joins, but was never submitted");
  Watched& joining = found->second;
  if (!late && joining.view != View::kQueued && joining.view != View::kPreempted) {
    violate_at(id, "joins in step {} while in view {}", plan.id, static_cast<int>(joining.view));
  }
  if (!late) check_order(id, joining);
  rows_[edit.row.value()] = id;
  joining.view = View::kPrefill;
  joining.first_residency = !joining.joined;
  joining.joined = true;
  joining.wants_prompt_rows = plan.sampling[static_cast<size_t>(edit.first)].prompt_logprobs >= 0;
  joining.row = edit.row.value();
  joining.computed = 0;
  joining.took_over = false;
  joining.reused = std::max<int64_t>(joining.reused, 0);
  joining.samples = joining.outputs;
}

void Validator::plan_restore(const Edit& edit) {
  const auto found = rows_.find(edit.row.value());
  if (found == rows_.end()) return;
  Watched& watched = watched_.at(found->second);
  watched.took_over = true;
  if (watched.first_residency) watched.reused = edit.position;
  reach_->add(edit.position % rules_.tokens_per_page.front() == 0 ? Reached::kHitOnPageBorder
                                                                  : Reached::kHitInsidePage);
  const auto generated =
      watched.generated_from >= 0 ? watched.generated_from : static_cast<int64_t>(watched.prompt.size());
  if (edit.position > generated) reach_->add(Reached::kHitInGenerated);
  if (watched.preemptions > 0) reach_->add(Reached::kHitOfPreempted);
}

// Nobody who waits, may run and deserves it more is passed.
void Validator::check_order(SequenceId id, const Watched& joining) {
  int32_t admitted = 0;
  for (const auto& [other_id, other] : watched_) {
    admitted += other.joined && other.view != View::kEnded && !other.cancel_visible ? 1 : 0;
  }
  for (const auto& [other_id, other] : watched_) {
    const bool waits = other.visible && !other.cancel_visible &&
                       (other.view == View::kPreempted || (other.view == View::kQueued && admitted < rules_.rows_max));
    if (other_id == id || !waits) continue;
    if (std::pair(key_us(other), other_id) < std::pair(key_us(joining), id)) {
      violate_at(id, "passes sequence {} in the queue", other_id);
    }
    const int64_t head_start = (other.header.priority - joining.header.priority) * rules_.aging_us;
    if (joining.header.arrival_us > other.header.arrival_us + head_start) {
      violate_at(id, "came {} us after sequence {} and runs before it",
                 joining.header.arrival_us - other.header.arrival_us, other_id);
    }
  }
}

void Validator::plan_work(const StepPlan& plan, const SequenceWork& work, bool late) {
  const auto found = rows_.find(work.row.value());
  if (found == rows_.end())
    return violate(fmt::format("step {}: work for row {}, which nobody holds", plan.id, work.row.value()));
  const SequenceId id = found->second;
  Watched& watched = watched_.at(id);
  if (!late && watched.cancel_visible) violate_at(id, "is computed in step {} after its cancel", plan.id);
  if (!late && watched.view == View::kEnded) violate_at(id, "is computed in step {} after its end", plan.id);
  if (work.first_token >= 0) plan_prefill(&watched, plan, work);
  watched.computed = work.position + work.token_count;
  if (work.sample) ++watched.samples;
  const bool whole = watched.computed >= static_cast<int64_t>(watched.prompt.size());
  if (watched.view == View::kPrefill && (work.sample || (whole && watched.header.sampling.max_tokens == 0))) {
    watched.view = View::kDecode;
  }
}

void Validator::plan_prefill(Watched* watched, const StepPlan& plan, const SequenceWork& work) {
  const auto prompt_count = static_cast<int64_t>(watched->prompt.size());
  for (int32_t i = 0; i < work.token_count; ++i) {
    const int64_t position = work.position + i;
    const TokenId token = plan.tokens.at(static_cast<size_t>(work.first_token + i));
    const int64_t output = position - prompt_count;
    const bool known = output < static_cast<int64_t>(watched->answer.tokens.size());
    const TokenId expected = output < 0 ? watched->prompt[static_cast<size_t>(position)]
                                        : (known ? watched->answer.tokens[static_cast<size_t>(output)] : -1);
    if (token != expected) violate_at(watched->header.id, "token {} is fed as {}, it is {}", position, token, expected);
  }
  const int64_t end = work.position + work.token_count;
  if (work.role == RowRole::kGenerated) {
    reach_->add(Reached::kReplayedGenerated);
  } else if (end < prompt_count) {
    if (work.position == 0) reach_->add(Reached::kChunkedPrompt);
    const auto on_border = [end](int32_t width) { return end % width == 0; };
    if (std::any_of(rules_.tokens_per_page.begin(), rules_.tokens_per_page.end(), on_border)) {
      reach_->add(Reached::kChunkEndsOnPageBorder);
    }
  }
  if (watched->wants_prompt_rows && work.position < watched->computed_before) {
    reach_->add(Reached::kPromptLogprobsReplayed);
  }
}

void Validator::check_nobody_stands_still(const StepPlan& plan) {
  std::set<int32_t> advanced;
  for (const SequenceWork& work : plan.work) advanced.insert(work.row.value());
  for (const auto& [row, id] : rows_) {
    const Watched& watched = watched_.at(id);
    if (watched.view != View::kDecode || watched.cancelled || advanced.count(row) > 0) continue;
    const int64_t room = rules_.tokens_max - static_cast<int64_t>(watched.prompt.size());
    if (watched.samples < std::min<int64_t>(watched.header.sampling.max_tokens, room)) {
      violate_at(id, "stands still in step {}", plan.id);
    }
  }
}

void Validator::on_turn_end(const EngineStats& stats, const std::vector<DeviceRow>& rows, bool late) {
  const int64_t evicted = stats.evicted_blocks - std::exchange(evicted_, stats.evicted_blocks);
  if (evicted > 0 &&
      std::any_of(rows_.begin(), rows_.end(), [this](const auto& row) { return watched_.at(row.second).took_over; })) {
    reach_->add(Reached::kEvictionUnderReader);
  }
  if (late) return;
  for (const auto& [id, watched] : watched_) {
    if (watched.cancel_visible && watched.view != View::kEnded) violate_at(id, "was cancelled and goes on");
  }
  // Pages of rows whose sequence has ended are free at once, though the rows leave with the next plan.
  int64_t held = 0;
  for (const DeviceRow& row : rows) {
    const auto found = watched_.find(row.id);
    if (!row.live || found == watched_.end() || found->second.view == View::kEnded) continue;
    for (const auto& pages : row.pages) held += static_cast<int64_t>(pages.size());
  }
  if (stats.pages_used > held)
    violate(fmt::format("{} pages are used, live sequences hold {}", stats.pages_used, held));
}

void Validator::on_idle(const EngineStats& stats, bool faulted) {
  const int64_t pages = rules_.shared_pages > 0 ? rules_.shared_pages : stats.pages_total;
  const int64_t in_states = stats.checkpoints * rules_.pages_a_slot;
  if (stats.pages_free + stats.pages_kept + in_states != pages) {
    violate(fmt::format("idle, and of {} pages {} are free, {} kept and {} states", pages, stats.pages_free,
                        stats.pages_kept, in_states));
  }
  for (const auto& [id, watched] : watched_) {
    if (watched.finish == FinishReason::kNone) violate_at(id, "has no end");
    if (watched.finish == FinishReason::kError && !faulted) violate_at(id, "ended with an error");
  }
  const int64_t left = stats.reserved + stats.waiting + stats.waiting_tokens + stats.running + stats.preempted +
                       stats.pages_used + stats.slots_used + stats.steps_in_flight + stats.token_blocks_used;
  if (faulted ? left - stats.steps_in_flight != 0 : left != 0) {
    violate(
        fmt::format("idle, but {} reserved, {} waiting ({} tokens), {} running, {} preempted, {} pages, {} slots, {} "
                    "steps, {} token blocks",
                    stats.reserved, stats.waiting, stats.waiting_tokens, stats.running, stats.preempted,
                    stats.pages_used, stats.slots_used, stats.steps_in_flight, stats.token_blocks_used));
  }
}

}  // namespace weir::sim
