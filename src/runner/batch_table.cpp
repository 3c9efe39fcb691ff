#include "runner/batch_table.h"

#include <algorithm>

#include "base/check.h"

namespace weir {

void StepRows::clear() {
  tokens.clear();
  kv.clear();
  gdn.clear();
  sequences.clear();
  sampled.clear();
  requests.clear();
  wanted.clear();
  skipped.clear();
  for_host = false;
}

StepBatch StepRows::batch() const {
  StepBatch out;
  out.tokens = tokens;
  out.kv = kv;
  out.gdn = gdn;
  out.sequences = sequences;
  out.sampled = sampled;
  out.requests = requests;
  return out;
}

StopReason StopRule::check(int64_t position, TokenId token) const {
  const auto end = stop_ids.begin() + stop_id_count;
  if (std::find(stop_ids.begin(), end, token) != end) return StopReason::kStopId;
  return position - prompt_length + 1 >= max_tokens ? StopReason::kLength : StopReason::kNone;
}

BatchTable::BatchTable(const RunnerLimits& limits, const CacheLayout& layout, Caches* caches, const Executor* executor)
    : limits_(limits), caches_(caches), executor_(executor) {
  rows_.reserve(static_cast<size_t>(limits.rows_max));
  for (int32_t i = 0; i < limits.rows_max; ++i) {
    BatchRow& row = rows_.emplace_back(limits.vocabulary);
    row.pages.resize(layout.classes.size());
    for (size_t c = 0; c < layout.classes.size(); ++c) {
      const int64_t per_page = layout.classes[c].tokens_per_page;
      row.pages[c].reserve(static_cast<size_t>((limits.sequence_tokens_max + per_page - 1) / per_page));
    }
  }
}

BatchRow& BatchTable::row(RowId id) {
  WEIR_CHECK(id.valid() && id.value() < limits_.rows_max, "row {} of {}", id.value(), limits_.rows_max);
  return rows_[id.index()];
}

void BatchTable::save_states() {
  for (BatchRow& row : rows_) {
    if (row.live) save_state(&row);
  }
}

void BatchTable::save_state(BatchRow* row) {
  if (!row->save_to.valid() || row->position < row->save_position) return;
  WEIR_CHECK(row->position == row->save_position, "a state at {} is saved for {}", row->position, row->save_position);
  caches_->copy_slot(row->state, row->save_to);
  row->save_to = {};
}

void BatchTable::apply(const StepPlan& plan, const Edit& edit) {
  BatchRow& target = row(edit.row);
  WEIR_CHECK(target.live != (edit.kind == EditKind::kJoin), "step {}: edit {} of row {}, live {}", plan.id,
             static_cast<int>(edit.kind), edit.row.value(), target.live);
  switch (edit.kind) {
    case EditKind::kLeave:
      target.live = false;
      for (auto& pages : target.pages) pages.clear();
      break;
    case EditKind::kJoin:
      target.live = true;
      ++target.occupant;
      target.samples_ahead = 0;
      target.position = 0;
      target.prompt_length = edit.prompt_length;
      target.last_token = -1;
      target.state = edit.state;
      target.save_to = {};
      target.sampling = plan.sampling.at(static_cast<size_t>(edit.first));
      target.on_device = target.sampling.logprobs < 0 && executor_->samples(target.sampling);
      target.stop = {target.prompt_length, target.sampling.max_tokens, target.sampling.stop_id_count,
                     target.sampling.stop_ids};
      target.history.reset(target.sampling);
      caches_->zero_slot(edit.state);
      break;
    case EditKind::kAppendPages: {
      auto& pages = target.pages.at(edit.page_class.index());
      for (int32_t i = 0; i < edit.count; ++i) {
        WEIR_CHECK(pages.size() < pages.capacity(), "row {} has {} pages already", edit.row.value(), pages.size());
        pages.push_back(caches_->page(edit.page_class, plan.pages.at(static_cast<size_t>(edit.first + i))));
      }
      break;
    }
    case EditKind::kCopyPage: {
      const auto first = static_cast<size_t>(edit.first);
      caches_->copy_page(edit.page_class, plan.pages.at(first), plan.pages.at(first + 1));
      break;
    }
    case EditKind::kSaveState:
      if (target.stopped()) break;
      WEIR_CHECK(!target.save_to.valid() && edit.position >= target.position, "row {} at {} has a save at {}, not {}",
                 edit.row.value(), target.position, target.save_position, edit.position);
      target.save_to = edit.state;
      target.save_position = edit.position;
      save_state(&target);
      break;
    case EditKind::kRestoreState:
      if (edit.state.valid()) caches_->copy_slot(edit.state, target.state);
      target.position = edit.position;
      WEIR_CHECK(edit.count == (target.history.active() ? edit.position : 0), "row {} goes on at {} with {} tokens",
                 edit.row.value(), edit.position, edit.count);
      for (int32_t i = 0; i < edit.count; ++i) {
        add_to_history(&target, i, plan.tokens.at(static_cast<size_t>(edit.first + i)));
      }
      break;
  }
}

void BatchTable::lay_out(const StepPlan& plan, StepRows* rows) {
  rows->clear();
  for (size_t i = 0; i < plan.work.size(); ++i) add_work(plan, static_cast<int32_t>(i), rows);
}

void BatchTable::add_work(const StepPlan& plan, int32_t index, StepRows* rows) {
  const SequenceWork& work = plan.work[static_cast<size_t>(index)];
  BatchRow& target = row(work.row);
  WEIR_CHECK(target.live, "step {}: work for free row {}", plan.id, work.row.value());
  const bool continues = work.first_token < 0;
  rows->skipped.push_back(continues && target.stopped() ? 1 : 0);
  if (rows->skipped.back() != 0) return;
  const bool sampled = target.samples_ahead > 0 || target.last_token >= 0;
  WEIR_CHECK(continues ? work.token_count == 1 && sampled : work.position == target.position,
             "step {}: row {} stands at {}, its work begins at {} with {} tokens", plan.id, work.row.value(),
             target.position, work.position, work.token_count);

  const auto row_begin = static_cast<int64_t>(rows->tokens.size());
  add_tokens(plan, work, &target, rows);
  const auto& pages = target.pages.at(kKvClass.index());
  WEIR_CHECK(static_cast<int64_t>(pages.size()) * kGridTokens >= target.position + work.token_count,
             "step {}: row {} has {} pages for {} tokens", plan.id, work.row.value(), pages.size(),
             target.position + work.token_count);
  rows->kv.push_back({row_begin, work.token_count, target.position, pages.data()});
  rows->sequences.push_back({work.role, work.row.value()});
  if (std::byte* slot = caches_->slot(target.state)) {
    rows->gdn.push_back({row_begin, work.token_count, target.position, slot});
  }
  want_rows(plan, index, row_begin, rows);
  target.position += work.token_count;
}

void BatchTable::add_tokens(const StepPlan& plan, const SequenceWork& work, BatchRow* target, StepRows* rows) {
  if (work.first_token < 0 && target->samples_ahead > 0) {
    // Penalties are counted by the host, which samples such rows itself.
    WEIR_CHECK(!target->history.active(), "row {} has penalties and a token that the host has not seen",
               work.row.value());
    rows->tokens.push_back(last_sampled_of(work.row.value()));
    return;
  }
  for (int32_t i = 0; i < work.token_count; ++i) {
    const TokenId token =
        work.first_token < 0 ? target->last_token : plan.tokens.at(static_cast<size_t>(work.first_token + i));
    rows->tokens.push_back(token);
    add_to_history(target, target->position + i, token);
  }
}

void BatchTable::add_to_history(BatchRow* target, int64_t position, TokenId token) {
  if (position < target->prompt_length) {
    target->history.add_prompt(token);
  } else {
    target->history.add_output(token);
  }
}

void BatchTable::want_rows(const StepPlan& plan, int32_t index, int64_t row_begin, StepRows* rows) {
  const SequenceWork& work = plan.work[static_cast<size_t>(index)];
  BatchRow& target = row(work.row);
  const auto want = [&](int64_t offset, TokenId about) {
    const int64_t position = target.position + offset + 1;
    const bool on_device = about < 0 && target.on_device;
    rows->sampled.push_back(static_cast<int32_t>(row_begin + offset));
    rows->wanted.push_back({index, about, position, target.occupant, on_device, target.stop});
    rows->requests.push_back(
        {&target.sampling, position, position - target.prompt_length, work.row.value(), on_device});
    if (on_device) ++target.samples_ahead;
    rows->for_host |= !on_device;
  };
  if (target.sampling.prompt_logprobs >= 0 && work.role == RowRole::kPrompt) {
    const int64_t end = std::min<int64_t>(work.token_count, target.prompt_length - 1 - target.position);
    for (int64_t i = 0; i < end; ++i) want(i, plan.tokens.at(static_cast<size_t>(work.first_token + i + 1)));
  }
  if (work.sample) want(work.token_count - 1, -1);
}

bool BatchTable::arrive(RowId id, const WantedRow& wanted) {
  BatchRow& target = row(id);
  if (wanted.on_device && target.occupant == wanted.occupant) --target.samples_ahead;
  return target.stopped_occupant != wanted.occupant;
}

StopReason BatchTable::accept(RowId id, const WantedRow& wanted, TokenId token) {
  BatchRow& target = row(id);
  if (target.occupant == wanted.occupant) target.last_token = token;
  const StopReason reason = wanted.stop.check(wanted.position, token);
  if (reason != StopReason::kNone) stop(id, wanted);
  return reason;
}

}  // namespace weir
