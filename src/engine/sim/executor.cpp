#include "engine/sim/executor.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/sim/script.h"

namespace weir::sim {

Executor::Executor(const CacheLayout& layout, const RunnerLimits& limits)
    : layout_(layout), limits_(limits), rows_(static_cast<size_t>(limits.rows_max)) {
  for (size_t i = 0; i < layout.classes.size(); ++i) {
    Class& pages = classes_.emplace_back();
    pages.tokens_per_page = layout.classes[i].tokens_per_page;
    pages.tables.assign(static_cast<size_t>(limits.pages[i]), 0);
    pages.cells.resize(pages.tables.size() * static_cast<size_t>(pages.tokens_per_page));
  }
  for (DeviceRow& row : rows_) row.pages.resize(classes_.size());
  slots_.resize(static_cast<size_t>(std::max(limits.state_slots, 0)));
}

template <class... Args>
void Executor::violate(const StepPlan& plan, const char* format, Args... args) {
  violations_.push_back(fmt::format("step {}: ", plan.id) + fmt::format(fmt::runtime(format), args...));
}

void Executor::execute(const StepPlan& plan, StepResult* result) {
  result->clear();
  result->id = plan.id;
  if (plan.token_total() > limits_.step_tokens_max) {
    violate(plan, "{} tokens, the budget is {}", plan.token_total(), limits_.step_tokens_max);
  }
  if (plan.work.empty()) violate(plan, "no work");
  for (DeviceRow& row : rows_) save(plan, &row);
  for (const Edit& edit : plan.edits) apply(plan, edit);
  seen_.assign(rows_.size(), 0);
  for (const SequenceWork& work : plan.work) {
    SequenceResult yielded;
    yielded.row = work.row;
    yielded.first_token = static_cast<int32_t>(result->tokens.size());
    if (work_is_sound(plan, work)) compute(plan, work, result, &yielded);
    result->sequences.push_back(yielded);
  }
}

void Executor::apply(const StepPlan& plan, const Edit& edit) {
  if (!edit.row.valid() || edit.row.index() >= rows_.size()) {
    violate(plan, "edit of row {}", edit.row.value());
    return;
  }
  DeviceRow& row = rows_[edit.row.index()];
  if (row.live == (edit.kind == EditKind::kJoin)) {
    violate(plan, "edit {} of row {}, which is {}", static_cast<int>(edit.kind), edit.row.value(),
            row.live ? "taken" : "free");
    return;
  }
  switch (edit.kind) {
    case EditKind::kLeave:
      leave(&row, edit.row.value());
      break;
    case EditKind::kJoin:
      join(plan, edit);
      break;
    case EditKind::kAppendPages:
      append(plan, edit);
      break;
    case EditKind::kCopyPage:
      copy(plan, edit);
      break;
    case EditKind::kSaveState:
      order_save(plan, edit);
      break;
    case EditKind::kRestoreState:
      restore(plan, edit);
      break;
  }
}

void Executor::join(const StepPlan& plan, const Edit& edit) {
  DeviceRow& row = rows_[edit.row.index()];
  auto pages = std::move(row.pages);
  row = DeviceRow();
  row.pages = std::move(pages);
  row.live = true;
  row.prompt_length = edit.prompt_length;
  row.sampling = plan.sampling.at(static_cast<size_t>(edit.first));
  row.id = row.sampling.seed;
  if (edit.prompt_length < 1) violate(plan, "row {} joins with a prompt of {}", edit.row.value(), edit.prompt_length);
  if (layout_.state_slot_bytes == 0) return;
  if (!is_slot(edit.state)) {
    violate(plan, "row {} joins with slot {}", edit.row.value(), edit.state.value());
    return;
  }
  Slot& slot = slots_[edit.state.index()];
  if (slot.owner >= 0)
    violate(plan, "slot {} of row {} goes to row {}", edit.state.value(), slot.owner, edit.row.value());
  take_pages_of(plan, edit.state);
  slot = Slot{edit.row.value(), {kScriptStart}};
  row.slot = edit.state;
}

void Executor::take_pages_of(const StepPlan& plan, StateSlotId slot) {
  for (Class& pages : classes_) {
    for (int32_t i = 0; i < layout_.pages_a_slot; ++i) {
      const auto page = slot.index() * static_cast<size_t>(layout_.pages_a_slot) + static_cast<size_t>(i);
      if (pages.tables[page] > 0) violate(plan, "slot {} takes the place of page {} of a row", slot.value(), page);
      const auto width = static_cast<size_t>(pages.tokens_per_page);
      std::fill_n(pages.cells.begin() + static_cast<ptrdiff_t>(page * width), width, Cell());
    }
  }
}

// A page that a row takes over was written when no slot was there: a slot that came since has emptied it.
void Executor::take_slot_of(const StepPlan& plan, PageId page) {
  if (layout_.pages_a_slot == 0) return;
  Slot& slot = slots_[page.index() / static_cast<size_t>(layout_.pages_a_slot)];
  if (slot.owner >= 0) violate(plan, "page {} takes the place of the slot of row {}", page.value(), slot.owner);
  slot.histories.assign(1, 0);
}

void Executor::leave(DeviceRow* row, int32_t index) {
  row->live = false;
  for (size_t i = 0; i < classes_.size(); ++i) {
    for (const PageId page : row->pages[i]) --classes_[i].tables[page.index()];
    row->pages[i].clear();
  }
  if (row->slot.valid() && slots_[row->slot.index()].owner == index) slots_[row->slot.index()].owner = -1;
}

void Executor::append(const StepPlan& plan, const Edit& edit) {
  if (!edit.page_class.valid() || edit.page_class.index() >= classes_.size()) {
    violate(plan, "page class {}", edit.page_class.value());
    return;
  }
  Class& pages = classes_[edit.page_class.index()];
  for (int32_t i = edit.first; i < edit.first + edit.count; ++i) {
    const PageId page = plan.pages.at(static_cast<size_t>(i));
    if (!page.valid() || page.index() >= pages.tables.size()) {
      violate(plan, "page {}", page.value());
      return;
    }
    take_slot_of(plan, page);
    ++pages.tables[page.index()];
    auto& table = rows_[edit.row.index()].pages[edit.page_class.index()];
    table.push_back(page);
    if (static_cast<int64_t>(table.size() - 1) * pages.tokens_per_page >= limits_.sequence_tokens_max) {
      violate(plan, "row {} has {} pages, more than a sequence can fill", edit.row.value(), table.size());
    }
  }
}

void Executor::copy(const StepPlan& plan, const Edit& edit) {
  Class& pages = classes_.at(edit.page_class.index());
  const PageId from = plan.pages.at(static_cast<size_t>(edit.first));
  const PageId to = plan.pages.at(static_cast<size_t>(edit.first + 1));
  if (pages.tables.at(to.index()) > 1) violate(plan, "page {}, which rows share, is overwritten", to.value());
  take_slot_of(plan, to);
  const auto width = static_cast<int64_t>(pages.tokens_per_page);
  std::copy_n(pages.cells.begin() + int64_t{from.value()} * width, width,
              pages.cells.begin() + int64_t{to.value()} * width);
}

void Executor::order_save(const StepPlan& plan, const Edit& edit) {
  DeviceRow& row = rows_[edit.row.index()];
  if (row.stopped) return;
  if (!is_slot(edit.state) || !row.slot.valid() || row.save_to.valid() || edit.position < row.position) {
    violate(plan, "row {} at {} is to save its state at {} in slot {}", edit.row.value(), row.position, edit.position,
            edit.state.value());
    return;
  }
  row.save_to = edit.state;
  row.save_position = edit.position;
  save(plan, &row);
}

void Executor::save(const StepPlan& plan, DeviceRow* row) {
  if (!row->live || !row->save_to.valid() || row->position < row->save_position) return;
  Slot& to = slots_[row->save_to.index()];
  if (to.owner >= 0) violate(plan, "a state is saved into slot {} of row {}", row->save_to.value(), to.owner);
  if (row->position > row->save_position + kRollbackTokens ||
      row->save_position < (row->position - 1) / kGridTokens * kGridTokens) {
    violate(plan, "a state at {} is saved late, at {}", row->save_position, row->position);
  }
  const Slot& from = slots_[row->slot.index()];
  take_pages_of(plan, row->save_to);
  to = Slot{-1, {from.histories.begin(), from.histories.begin() + row->save_position + 1}};
  row->save_to = StateSlotId();
}

void Executor::restore(const StepPlan& plan, const Edit& edit) {
  DeviceRow& row = rows_[edit.row.index()];
  if (row.position != 0) violate(plan, "row {} goes on at {}", edit.row.value(), row.position);
  row.position = edit.position;
  if (row.slot.valid()) {
    if (!is_slot(edit.state)) return violate(plan, "row {} goes on from slot {}", edit.row.value(), edit.state.value());
    const Slot& from = slots_[edit.state.index()];
    if (from.owner >= 0 || from.count() != edit.position) {
      violate(plan, "slot {} of row {} holds {} tokens, row {} goes on from it at {}", edit.state.value(), from.owner,
              from.count(), edit.row.value(), edit.position);
    }
    Slot& live = slots_[row.slot.index()];
    live.histories = from.histories;
  }
  read_history(plan, row);
}

bool Executor::work_is_sound(const StepPlan& plan, const SequenceWork& work) {
  if (!work.row.valid() || work.row.index() >= rows_.size() || !rows_[work.row.index()].live) {
    violate(plan, "work for row {}, which is free", work.row.value());
    return false;
  }
  const DeviceRow& row = rows_[work.row.index()];
  const size_t before = violations_.size();
  if (seen_[work.row.index()]++ > 0) violate(plan, "row {} twice in a step", work.row.value());
  if (work.token_count < 1) violate(plan, "row {} with {} tokens", work.row.value(), work.token_count);
  if (work.first_token < 0) {
    if (work.token_count != 1 || work.role != RowRole::kGenerated || row.last_token < 0) {
      violate(plan, "row {} continues with {} tokens, last token {}", work.row.value(), work.token_count,
              row.last_token);
    }
    const bool right = limits_.drafts_max > 0 ? work.position >= row.position : work.position == row.position;
    if (!row.stopped && !right) {
      violate(plan, "row {} stands at {}, the plan says {}", work.row.value(), row.position, work.position);
    }
    if (std::max(work.draft_count, work.propose_count) > limits_.drafts_max) {
      violate(plan, "row {} with {} drafts, {} to propose", work.row.value(), work.draft_count, work.propose_count);
    }
    return violations_.size() == before;
  }
  if (row.last_token >= 0) violate(plan, "row {} has sampled and is given tokens", work.row.value());
  if (work.position != row.position) {
    violate(plan, "row {} stands at {}, its work begins at {}", work.row.value(), row.position, work.position);
  }
  const int64_t end = work.position + work.token_count;
  const bool in_prompt = work.role == RowRole::kPrompt;
  if (in_prompt ? end > row.prompt_length : work.position < row.prompt_length) {
    violate(plan, "row {}: [{}, {}) is not {} (border {})", work.row.value(), work.position, end,
            in_prompt ? "prompt" : "generated", row.prompt_length);
  }
  if (static_cast<size_t>(work.first_token + work.token_count) > plan.tokens.size()) {
    violate(plan, "row {}: tokens past the end of the plan", work.row.value());
  }
  return violations_.size() == before;
}

void Executor::compute(const StepPlan& plan, const SequenceWork& work, StepResult* result, SequenceResult* yielded) {
  DeviceRow& row = rows_[work.row.index()];
  if (row.stopped) {
    ++overshoots_;
    return;
  }
  const bool prompt_rows = row.sampling.prompt_logprobs >= 0 && work.role == RowRole::kPrompt;
  yielded->prompt_first_row = static_cast<int32_t>(result->rows.size());
  for (int32_t i = 0; i < work.token_count; ++i) {
    const auto at = static_cast<size_t>(work.first_token + i);
    write(plan, &row, work.first_token < 0 ? row.last_token : plan.tokens[at]);
    if (!prompt_rows || row.position >= row.prompt_length) continue;
    if (at + 1 >= plan.tokens.size()) {
      violate(plan, "row {}: the prompt token behind the chunk is missing", work.row.value());
      continue;
    }
    add_row(result, read_history(plan, row), plan.tokens[at + 1], row.sampling.prompt_logprobs);
    ++yielded->prompt_row_count;
  }
  row.last_token = -1;
  if (!work.sample) return;
  yielded->first_row = static_cast<int32_t>(result->rows.size());
  if (sample(plan, &row, result, yielded) && work.first_token < 0) verify(plan, work, &row, result, yielded);
  row.drafts.clear();
  if (!row.stopped) propose(plan, &row, work.propose_count);
  row.stopped = yielded->stop != StopReason::kNone;
}

bool Executor::sample(const StepPlan& plan, DeviceRow* row, StepResult* result, SequenceResult* yielded) {
  const uint64_t history = read_history(plan, *row);
  const TokenId token = next_token(history, row->sampling, row->position - row->prompt_length, limits_.vocabulary);
  row->last_token = token;
  ++row->sampled;
  ++yielded->token_count;
  result->tokens.push_back(token);
  if (row->sampling.logprobs >= 0) add_row(result, history, token, row->sampling.logprobs);
  if (is_stop_id(row->sampling, token)) {
    yielded->stop = StopReason::kStopId;
  } else if (row->position - row->prompt_length + 1 >= row->sampling.max_tokens) {
    yielded->stop = StopReason::kLength;
  }
  return yielded->stop == StopReason::kNone;
}

// Drafts are written as if they held; those that did not are taken back.
void Executor::verify(const StepPlan& plan, const SequenceWork& work, DeviceRow* row, StepResult* result,
                      SequenceResult* yielded) {
  int64_t covered = limits_.sequence_tokens_max;
  for (size_t i = 0; i < classes_.size(); ++i) {
    covered = std::min(covered, static_cast<int64_t>(row->pages[i].size()) * classes_[i].tokens_per_page);
  }
  const int64_t count =
      std::min({int64_t{work.draft_count}, static_cast<int64_t>(row->drafts.size()),
                std::max<int64_t>(0, covered - row->position), kGridTokens - row->position % kGridTokens});
  yielded->drafted_count = static_cast<int32_t>(count);
  size_t accepted = 0;
  bool goes_on = true;
  for (; static_cast<int64_t>(accepted) < count && goes_on && row->drafts[accepted] == row->last_token; ++accepted) {
    write(plan, row, row->last_token);
    goes_on = sample(plan, row, result, yielded);
  }
  const int64_t right = row->position;
  for (auto i = accepted; static_cast<int64_t>(i) < count; ++i) write(plan, row, row->drafts[i]);
  go_back(row, right);
  if (count > 0) ++accepted_[accepted][static_cast<int64_t>(accepted) < count && goes_on ? 1 : 0];
}

// What follows by the script, with an error now and then.
void Executor::propose(const StepPlan& plan, DeviceRow* row, int32_t count) {
  uint64_t history = extend(read_history(plan, *row), row->last_token, row->position);
  for (int32_t i = 0; i < count; ++i) {
    const int64_t position = row->position + 1 + i;
    TokenId token = next_token(history, row->sampling, position - row->prompt_length, limits_.vocabulary);
    if (mix(history ^ static_cast<uint64_t>(position)) % 4 == 0) token = (token + 1) % limits_.vocabulary;
    row->drafts.push_back(token);
    history = extend(history, token, position);
  }
}

void Executor::add_row(StepResult* result, uint64_t history, TokenId token, int32_t top_count) {
  const TokenLogprob chosen = script_logprob(history, token);
  result->rows.push_back({static_cast<int32_t>(result->logprobs.size()), top_count});
  result->logprobs.push_back(chosen);
  for (int32_t i = 0; i < top_count; ++i) {
    const auto below = static_cast<float>(i);
    result->logprobs.push_back({(token + i) % limits_.vocabulary, chosen.logprob - below, i + 1});
  }
}

void Executor::write(const StepPlan& plan, DeviceRow* row, TokenId token) {
  for (size_t i = 0; i < classes_.size(); ++i) {
    const auto width = static_cast<int64_t>(classes_[i].tokens_per_page);
    const auto page = static_cast<size_t>(row->position / width);
    if (page >= row->pages[i].size()) {
      violate(plan, "sequence {} has {} pages of class {} at token {}", row->id, row->pages[i].size(), i,
              row->position);
      continue;
    }
    const auto cell = static_cast<int64_t>(row->pages[i][page].index()) * width + row->position % width;
    const PageId id = row->pages[i][page];
    if (classes_[i].tables[id.index()] != 1) {
      violate(plan, "row of sequence {} writes page {}, which is in {} tables", row->id, id.value(),
              classes_[i].tables[id.index()]);
    }
    classes_[i].cells[static_cast<size_t>(cell)] = Cell{token, row->position, row->sampling.min_p};
  }
  if (row->slot.valid()) {
    Slot& slot = slots_[row->slot.index()];
    if (slot.count() != row->position)
      violate(plan, "sequence {} at {}, its state at {}", row->id, row->position, slot.count());
    slot.histories.push_back(extend(slot.histories.back(), token, row->position));
  }
  ++row->position;
}

void Executor::go_back(DeviceRow* row, int64_t position) {
  row->position = position;
  if (row->slot.valid()) slots_[row->slot.index()].histories.resize(static_cast<size_t>(position) + 1);
}

// What the row's caches say it has seen: from every class of pages, and from the state slot; they must agree.
uint64_t Executor::read_history(const StepPlan& plan, const DeviceRow& row) {
  uint64_t agreed = 0;
  for (size_t i = 0; i < classes_.size(); ++i) {
    const auto width = static_cast<int64_t>(classes_[i].tokens_per_page);
    uint64_t history = kScriptStart;
    for (int64_t position = 0; position < row.position; ++position) {
      const auto page = static_cast<size_t>(position / width);
      if (page >= row.pages[i].size()) break;
      const int64_t at = static_cast<int64_t>(row.pages[i][page].index()) * width + position % width;
      const Cell& cell = classes_[i].cells[static_cast<size_t>(at)];
      if (cell.position != position) {
        violate(plan, "sequence {}: page holds token {} where {} should be", row.id, cell.position, position);
        return 0;
      }
      if (cell.tenant != row.sampling.min_p) {
        violate(plan, "sequence {} reads what another tenant computed", row.id);
        return 0;
      }
      history = extend(history, cell.token, position);
    }
    if (i > 0 && history != agreed) violate(plan, "sequence {}: page classes disagree", row.id);
    agreed = history;
  }
  if (row.slot.valid()) {
    const uint64_t state = slots_[row.slot.index()].histories.back();
    if (!classes_.empty() && state != agreed) violate(plan, "sequence {}: pages and state disagree", row.id);
    agreed = state;
  }
  return agreed;
}

}  // namespace weir::sim
