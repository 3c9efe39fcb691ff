#include "runner/host_drafter.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "base/check.h"
#include "runner/logprobs.h"

namespace weir {
namespace {

int64_t own_bytes(const ModelConfig& config, const RunnerLimits& limits, bool some_ids) {
  const int64_t all_ids = some_ids ? config.vocabulary : 0;
  return (draft_rows(limits) * config.hidden + all_ids) * static_cast<int64_t>(sizeof(float));
}

}  // namespace

Result<std::unique_ptr<Drafter>> HostDrafter::create(Model* model, Caches* caches, Executor* main,
                                                     const RunnerLimits& limits) {
  std::unique_ptr<HostDrafter> drafter(new HostDrafter(model, caches, main, limits));
  const ExecutorLimits sizes{draft_rows(limits), limits.rows_max, limits.sequence_tokens_max, limits.vocabulary};
  WEIR_ASSIGN_OR_RETURN(drafter->draft_, model->make_executor(drafter->program_, caches, sizes));
  return std::unique_ptr<Drafter>(std::move(drafter));
}

HostDrafter::HostDrafter(Model* model, Caches* caches, Executor* main, const RunnerLimits& limits)
    : model_(model),
      caches_(caches),
      main_(main),
      limits_(limits),
      program_(make_draft_program(model->config, static_cast<int64_t>(model->draft_ids.size()))) {
  const auto sequences = static_cast<size_t>(limits.rows_max);
  const auto rows = static_cast<size_t>(limits.step_tokens_max);
  const auto width = static_cast<size_t>(model->config.hidden);
  items_.reserve(sequences);
  step_rows_.reserve(rows);
  hidden_.resize(rows * width);
  recycled_.resize(sequences * width);
  tokens_.reserve(rows + sequences);
  kv_.reserve(sequences);
  sequences_.reserve(sequences);
  sampled_.reserve(sequences);
  proposing_.reserve(sequences);
  going_on_.reserve(sequences);
  if (model->draft_ids.empty()) return;
  all_ids_.assign(static_cast<size_t>(model->config.vocabulary), -std::numeric_limits<float>::infinity());
}

int64_t HostDrafter::buffer_bytes() const {
  return draft_->buffer_bytes() + own_bytes(model_->config, limits_, !all_ids_.empty());
}

int64_t HostDrafter::work_bytes(const ModelConfig& config, const RunnerLimits& limits, int64_t head_rows) {
  return weir::work_bytes(config, make_draft_program(config, head_rows), draft_rows(limits)) +
         own_bytes(config, limits, head_rows > 0);
}

void HostDrafter::finish(const StepPlan& plan, const StepRows& rows, const StepResult& result, BatchTable* table,
                         Sampler* sampler) {
  list_items(plan, rows, result, table);
  if (items_.empty()) return;
  main_->normed_rows(step_rows_, hidden_.data());
  catch_up(rows, sampler);
  keep_hidden();
  chain(sampler);
}

// What each sequence has new, and how far it goes.
void HostDrafter::list_items(const StepPlan& plan, const StepRows& rows, const StepResult& result, BatchTable* table) {
  items_.clear();
  step_rows_.clear();
  for (const StepItem& from : rows.items) {
    const SequenceResult& yielded = result.sequences[static_cast<size_t>(from.work)];
    if (yielded.stop == StopReason::kNotFinite) continue;
    Item item;
    item.work = &plan.work[static_cast<size_t>(from.work)];
    item.row = &table->row(item.work->row);
    item.position = from.position;
    item.row_begin = from.row_begin;
    item.hidden_begin = static_cast<int64_t>(step_rows_.size());
    for (int64_t i = 0; i < item.row->position - item.position; ++i) {
      step_rows_.push_back(static_cast<int32_t>(item.row_begin + i));
    }
    const int64_t known = item.row->position + (yielded.token_count > 0 ? 1 : 0);
    const int64_t covered = table->covered(*item.row, kDraftKvClass);
    item.first = item.row->draft_position;
    item.end = std::max(item.first, std::min(known, covered));
    item.row->draft_position = item.end;
    WEIR_CHECK(item.first >= item.position || item.first == item.end, "draft KV up to {} of a row that was at {}",
               item.first, item.position);
    // The first draft comes from the row of the sampled token, each other from a row of its own behind it.
    if (yielded.token_count > 0 && yielded.stop == StopReason::kNone && item.end == known) {
      item.drafts = std::min(
          {static_cast<int64_t>(item.work->propose_count), covered - item.row->position, table->verifiable(*item.row)});
    }
    items_.push_back(item);
  }
}

void HostDrafter::begin_pass() {
  tokens_.clear();
  kv_.clear();
  sequences_.clear();
  sampled_.clear();
  proposing_.clear();
}

// The rows of all that the step computed, and the first drafts.
void HostDrafter::catch_up(const StepRows& rows, Sampler* sampler) {
  begin_pass();
  for (Item& item : items_) {
    if (item.first == item.end) continue;
    add_rows(item, rows);
    if (item.drafts > 0) {
      sampled_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
      proposing_.push_back(&item);
    }
  }
  run_pass(sampler);
}

void HostDrafter::add_rows(const Item& item, const StepRows& rows) {
  const auto row_begin = static_cast<int64_t>(tokens_.size());
  const int64_t count = item.end - item.first;
  kv_.push_back({row_begin, count, item.first, item.row->pages.at(kDraftKvClass.index()).data(), kDraftFirst});
  sequences_.push_back({item.work->role, item.work->row.value()});
  for (int64_t i = item.first; i < item.end; ++i) {
    tokens_.push_back(i == item.row->position ? item.row->last_token
                                              : rows.tokens[static_cast<size_t>(item.row_begin + i - item.position)]);
  }
  // The hidden row before the step's first is in the ring.
  const int64_t kept = item.first == item.position ? 1 : 0;
  if (kept > 0) draft_->set_hidden(row_begin, 1, caches_->hidden_row(item.row->state, item.first - 1));
  const int64_t from = item.hidden_begin + item.first + kept - 1 - item.position;
  draft_->set_hidden(row_begin + kept, count - kept, hidden_.data() + from * model_->config.hidden);
}

// The last hidden rows of each sequence go to its ring.
void HostDrafter::keep_hidden() {
  const int64_t width = model_->config.hidden;
  for (const Item& item : items_) {
    const int64_t end = item.row->position;
    for (int64_t i = std::max(item.position, end - kHiddenRing); i < end; ++i) {
      std::copy_n(hidden_.data() + (item.hidden_begin + i - item.position) * width, width,
                  caches_->hidden_row(item.row->state, i));
    }
  }
}

// Passes of one row for each sequence that has another draft to come.
void HostDrafter::chain(Sampler* sampler) {
  while (!going_on_.empty()) {
    begin_pass();
    draft_->set_hidden(0, static_cast<int64_t>(going_on_.size()), recycled_.data());
    for (Item* item : going_on_) {
      const BatchRow& row = *item->row;
      const auto index = static_cast<int32_t>(tokens_.size());
      tokens_.push_back(row.drafts[static_cast<size_t>(row.draft_count - 1)]);
      kv_.push_back(
          {index, 1, row.position + row.draft_count, row.pages.at(kDraftKvClass.index()).data(), kDraftFirst});
      sequences_.push_back({RowRole::kGenerated, item->work->row.value()});
      sampled_.push_back(index);
      proposing_.push_back(item);
    }
    run_pass(sampler);
  }
}

void HostDrafter::run_pass(Sampler* sampler) {
  going_on_.clear();
  if (tokens_.empty()) return;
  StepBatch batch;
  batch.tokens = tokens_;
  batch.kv = kv_;
  batch.sequences = sequences_;
  batch.sampled = sampled_;
  draft_->run(batch, [&](const SampledBlock& block) {
    const int64_t width = program_.buffer(program_.logits).width;
    for (int64_t i = 0; i < block.count; ++i) {
      propose(proposing_[static_cast<size_t>(block.first + i)], {block.logits + i * width, static_cast<size_t>(width)},
              block.normed + i * model_->config.hidden, sampler);
    }
  });
}

// The row's next draft, sampled as the target's token of its place will be. A row whose logits have a NaN or an
// infinity proposes nothing more.
void HostDrafter::propose(Item* item, std::span<const float> logits, const float* normed, Sampler* sampler) {
  if (!all_finite(logits)) return;
  BatchRow& row = *item->row;
  SampleArgs args;
  args.params = &row.sampling;
  args.history = &row.history;
  // Drafts continue the row's last token, which its next step adds to the history.
  std::array<TokenId, 1 + kDraftsMax> recent{row.last_token};
  std::copy_n(row.drafts.begin(), row.draft_count, recent.begin() + 1);
  args.recent = std::span(recent).first(static_cast<size_t>(1 + row.draft_count));
  args.position = row.position + row.draft_count + 1;
  args.output_count = args.position - row.prompt_length;
  args.vocabulary = limits_.vocabulary;
  row.drafts[static_cast<size_t>(row.draft_count++)] = sampler->sample(of_all_ids(logits), args);
  if (row.draft_count < item->drafts) {
    const int64_t width = model_->config.hidden;
    std::copy_n(normed, width, recycled_.data() + static_cast<int64_t>(going_on_.size()) * width);
    going_on_.push_back(item);
  }
}

// Sampling, its noise and its penalties go by token id.
std::span<const float> HostDrafter::of_all_ids(std::span<const float> logits) {
  if (all_ids_.empty()) return logits;
  for (size_t i = 0; i < logits.size(); ++i) all_ids_[static_cast<size_t>(model_->draft_ids[i])] = logits[i];
  return all_ids_;
}

}  // namespace weir
