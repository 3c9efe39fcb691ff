#include "runner/batch_table.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "ops/sample/pinned_acceptance.h"

namespace weir {

void StepRows::clear() {
  tokens.clear();
  kv.clear();
  gdn.clear();
  sequences.clear();
  items.clear();
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
  const int64_t beyond = row->position - row->save_position;
  static_assert(kRollbackTokens <= kGdnRollbackMax);
  WEIR_CHECK(beyond <= kRollbackTokens && row->save_position >= (row->computed - 1) / kGridTokens * kGridTokens,
             "a state at {}, with {} tokens computed, is saved for {}", row->position, row->computed,
             row->save_position);
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
      target.computed = 0;
      target.draft_position = 1;
      target.draft_count = 0;
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
      WEIR_CHECK(!target.save_to.valid(), "row {} at {} has a save at {}, not {}", edit.row.value(), target.position,
                 target.save_position, edit.position);
      target.save_to = edit.state;
      target.save_position = edit.position;
      save_state(&target);
      break;
    case EditKind::kRestoreState:
      if (edit.state.valid()) caches_->copy_slot(edit.state, target.state);
      target.position = edit.position;
      target.computed = edit.position;
      target.draft_position = std::max<int64_t>(1, edit.position);
      target.draft_count = 0;
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

  for (size_t c = 0; c < target.pages.size(); ++c) {
    WEIR_CHECK(covered(target, PageClassId::from(c)) >= target.position + work.token_count,
               "step {}: row {} has {} pages of class {} for {} tokens", plan.id, work.row.value(),
               target.pages[c].size(), c, target.position + work.token_count);
  }
  const StepItem item{index, static_cast<int64_t>(rows->tokens.size()), target.position};
  add_tokens(plan, work, &target, rows);
  const int64_t drafts = take_drafts(work, &target, rows);
  const int64_t count = work.token_count + drafts;
  rows->items.push_back(item);
  rows->kv.push_back({item.row_begin, count, target.position, target.pages.at(kKvClass.index()).data()});
  rows->sequences.push_back({work.role, work.row.value()});
  if (std::byte* slot = caches_->slot(target.state)) {
    rows->gdn.push_back({item.row_begin, count, target.position, slot});
  }
  want_rows(plan, item, drafts, rows);
  target.computed = target.position + count;
  target.position += work.token_count;
}

int64_t BatchTable::covered(const BatchRow& row, PageClassId page_class) const {
  const auto pages = static_cast<int64_t>(row.pages.at(page_class.index()).size());
  return std::min(pages * kGridTokens, limits_.sequence_tokens_max);
}

int64_t BatchTable::verifiable(const BatchRow& row) const {
  // The token itself and its own successor are certain, the rows of the other drafts may have to be taken back: none of
  // them may bring the recurrent state to the next multiple of the grid.
  const int64_t grid = (row.position + 1) / kGridTokens * kGridTokens + kGridTokens;
  const int64_t tokens = row.prompt_length + row.sampling.max_tokens - row.position - 1;
  const int64_t context = limits_.sequence_tokens_max - row.position;
  return std::max<int64_t>(0, std::min({grid - row.position, tokens, context}) - 1);
}

// Puts the row's drafts behind its token and says how many.
int64_t BatchTable::take_drafts(const SequenceWork& work, BatchRow* target, StepRows* rows) const {
  WEIR_CHECK(work.draft_count <= limits_.drafts_max && work.propose_count <= limits_.drafts_max,
             "row {}: {} drafts to verify and {} to propose, at most {}", work.row.value(), work.draft_count,
             work.propose_count, limits_.drafts_max);
  const int64_t held = std::exchange(target->draft_count, 0);
  if (work.first_token >= 0 || !work.sample) return 0;
  int64_t count = std::min({held, static_cast<int64_t>(work.draft_count), verifiable(*target)});
  for (size_t c = 0; c < target->pages.size(); ++c) {
    count = std::min(count, covered(*target, PageClassId::from(c)) - target->position - 1);
  }
  rows->tokens.insert(rows->tokens.end(), target->drafts.begin(), target->drafts.begin() + count);
  return count;
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

void BatchTable::want_rows(const StepPlan& plan, const StepItem& item, int64_t drafts, StepRows* rows) {
  const SequenceWork& work = plan.work[static_cast<size_t>(item.work)];
  BatchRow& target = row(work.row);
  const auto want = [&](int64_t offset, TokenId about, TokenId draft) {
    const int64_t position = target.position + offset + 1;
    const bool on_device = about < 0 && target.on_device;
    rows->sampled.push_back(static_cast<int32_t>(item.row_begin + offset));
    rows->wanted.push_back({item.work, about, draft, position, target.occupant, on_device, target.stop});
    rows->requests.push_back(
        {&target.sampling, position, position - target.prompt_length, work.row.value(), on_device});
    if (on_device) ++target.samples_ahead;
    rows->for_host |= !on_device;
  };
  if (target.sampling.prompt_logprobs >= 0 && work.role == RowRole::kPrompt) {
    const int64_t end = std::min<int64_t>(work.token_count, target.prompt_length - 1 - target.position);
    for (int64_t i = 0; i < end; ++i) want(i, plan.tokens.at(static_cast<size_t>(work.first_token + i + 1)), -1);
  }
  if (work.sample) want(work.token_count - 1, -1, -1);
  for (int64_t i = 0; i < drafts; ++i) {
    const TokenId draft = target.drafts[static_cast<size_t>(i)];
    // The row before this draft's is about the draft's position.
    if (pinned() && pinned_accepts(target, rows->wanted.back().position)) rows->wanted.back().instead = draft;
    want(work.token_count + i, -1, draft);
  }
}

bool BatchTable::pinned_accepts(const BatchRow& row, int64_t position) const {
  return weir::pinned_accepts(row.sampling.seed, position, static_cast<uint64_t>(limits_.pinned_acceptance));
}

bool BatchTable::arrive(RowId id, const WantedRow& wanted) {
  BatchRow& target = row(id);
  if (wanted.on_device && target.occupant == wanted.occupant) --target.samples_ahead;
  return target.stopped_occupant != wanted.occupant;
}

bool BatchTable::follows(RowId id, const WantedRow& wanted) {
  const BatchRow& target = row(id);
  const bool holds = pinned() ? pinned_accepts(target, wanted.position - 1) : target.last_token == wanted.draft;
  return target.position + 1 == wanted.position && holds;
}

void BatchTable::accept_draft(RowId id, const WantedRow& wanted) {
  BatchRow& target = row(id);
  target.history.add_output(wanted.draft);
  target.position = wanted.position;
}

StopReason BatchTable::accept(RowId id, const WantedRow& wanted, TokenId token) {
  BatchRow& target = row(id);
  if (target.occupant == wanted.occupant) target.last_token = token;
  const StopReason reason = wanted.stop.check(wanted.position, token);
  if (reason != StopReason::kNone) stop(id, wanted);
  return reason;
}

}  // namespace weir
