#include "runner/batch_table.h"

#include <algorithm>

#include "base/check.h"

namespace weir {

void StepRows::clear() {
  tokens.clear();
  kv.clear();
  gdn.clear();
  sampled.clear();
  wanted.clear();
  skipped.clear();
}

BatchTable::BatchTable(const RunnerLimits& limits, const CacheLayout& layout, Caches* caches)
    : limits_(limits), caches_(caches) {
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
      target.stopped = false;
      target.position = 0;
      target.prompt_length = edit.prompt_length;
      target.last_token = -1;
      target.state = edit.state;
      target.sampling = plan.sampling.at(static_cast<size_t>(edit.first));
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
    case EditKind::kSaveState:
      caches_->copy_slot(target.state, edit.state);
      break;
    case EditKind::kRestoreState:
      caches_->copy_slot(edit.state, target.state);
      target.position = edit.position;
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
  rows->skipped.push_back(continues && target.stopped ? 1 : 0);
  if (rows->skipped.back() != 0) return;
  WEIR_CHECK(continues ? work.token_count == 1 && target.last_token >= 0 : work.position == target.position,
             "step {}: row {} stands at {}, its work begins at {} with {} tokens", plan.id, work.row.value(),
             target.position, work.position, work.token_count);

  const auto row_begin = static_cast<int64_t>(rows->tokens.size());
  for (int32_t i = 0; i < work.token_count; ++i) {
    const TokenId token = continues ? target.last_token : plan.tokens.at(static_cast<size_t>(work.first_token + i));
    rows->tokens.push_back(token);
    if (target.position + i < target.prompt_length) {
      target.history.add_prompt(token);
    } else {
      target.history.add_output(token);
    }
  }
  const auto& pages = target.pages.at(kKvClass.index());
  WEIR_CHECK(static_cast<int64_t>(pages.size()) * kGridTokens >= target.position + work.token_count,
             "step {}: row {} has {} pages for {} tokens", plan.id, work.row.value(), pages.size(),
             target.position + work.token_count);
  rows->kv.push_back({row_begin, work.token_count, target.position, pages.data()});
  if (std::byte* slot = caches_->slot(target.state)) {
    rows->gdn.push_back({row_begin, work.token_count, target.position, slot});
  }
  want_rows(plan, index, row_begin, rows);
  target.position += work.token_count;
}

void BatchTable::want_rows(const StepPlan& plan, int32_t index, int64_t row_begin, StepRows* rows) {
  const SequenceWork& work = plan.work[static_cast<size_t>(index)];
  const BatchRow& target = row(work.row);
  const auto want = [&](int64_t offset, TokenId about) {
    rows->sampled.push_back(static_cast<int32_t>(row_begin + offset));
    rows->wanted.push_back({index, about, target.position + offset + 1});
  };
  if (target.sampling.prompt_logprobs >= 0 && work.role == RowRole::kPrompt) {
    const int64_t end = std::min<int64_t>(work.token_count, target.prompt_length - 1 - target.position);
    for (int64_t i = 0; i < end; ++i) want(i, plan.tokens.at(static_cast<size_t>(work.first_token + i + 1)));
  }
  if (work.sample) want(work.token_count - 1, -1);
}

StopReason BatchTable::accept(RowId id, TokenId token) {
  BatchRow& target = row(id);
  target.last_token = token;
  const auto stop_end = target.sampling.stop_ids.begin() + target.sampling.stop_id_count;
  StopReason stop = StopReason::kNone;
  if (std::find(target.sampling.stop_ids.begin(), stop_end, token) != stop_end) {
    stop = StopReason::kStopId;
  } else if (target.position - target.prompt_length + 1 >= target.sampling.max_tokens) {
    stop = StopReason::kLength;
  }
  target.stopped = stop != StopReason::kNone;
  return stop;
}

}  // namespace weir
