#include "runner/packed_drafter.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <variant>

#include "base/check.h"
#include "ops/draft/draft_gpu.h"
#include "ops/norm/norm_rows_gpu.h"
#include "runner/gpu_parts.h"
#include "runner/sample_rows.h"

namespace weir {
namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr size_t kGraphsMax = 256;
constexpr int64_t kRecordedRows = 8;

}  // namespace

Result<std::unique_ptr<Drafter>> PackedDrafter::create(const ModelConfig& config, const PackedWeights& weights,
                                                       std::span<const TokenId> ids, const GpuRope& rope, Gpu gpu,
                                                       GpuCaches* caches, PackedExecutor* main,
                                                       const RunnerLimits& limits) {
  std::unique_ptr<PackedDrafter> drafter(new PackedDrafter(config, ids, gpu, caches, main, limits));
  const ExecutorLimits sizes{draft_rows(limits), limits.rows_max, limits.sequence_tokens_max, limits.vocabulary};
  WEIR_ASSIGN_OR_RETURN(drafter->draft_,
                        PackedExecutor::create(drafter->program_, config, weights, rope, gpu, caches, sizes));
  WEIR_RETURN_IF_ERROR(drafter->allocate());
  WEIR_RETURN_IF_ERROR(drafter->record());
  return std::unique_ptr<Drafter>(std::move(drafter));
}

PackedDrafter::PackedDrafter(const ModelConfig& config, std::span<const TokenId> ids, Gpu gpu, GpuCaches* caches,
                             PackedExecutor* main, const RunnerLimits& limits)
    : config_(config),
      gpu_(gpu),
      caches_(caches),
      main_(main),
      limits_(limits),
      program_(make_draft_program(config, static_cast<int64_t>(ids.size()))),
      ids_(ids.begin(), ids.end()) {
  const auto sequences = static_cast<size_t>(limits.rows_max);
  items_.reserve(sequences);
  kv_.reserve(sequences);
  sequences_.reserve(sequences);
  requests_.reserve(sequences);
  tokens_.reserve(static_cast<size_t>(draft_rows(limits)));
}

// Bytes of everything behind `base`; with a base, where it is.
int64_t PackedDrafter::lay_out(std::byte* base) {
  GpuParts parts(base);
  const auto take = [&]<class T>(T*& place, int64_t count) { place = parts.take<T>(count); };
  const int64_t sequences = limits_.rows_max;
  const int64_t passes = limits_.drafts_max;
  take(normed_, limits_.step_tokens_max * config_.hidden);
  take(clean_, limits_.step_tokens_max);
  take(chosen_, sequences);
  take(each_, sequences);
  take(device_ids_, static_cast<int64_t>(ids_.size()));
  take(chain_rows_, passes * sequences);
  take(pass_sample_, passes * sequences);
  take(drafts_, passes * sequences);
  return parts.used();
}

int64_t PackedDrafter::work_bytes(const ModelConfig& config, const RunnerLimits& limits) {
  constexpr int64_t kSmall = 16 << 20;  // tables
  return limits.step_tokens_max * config.hidden * kFloat + kSmall;
}

Status PackedDrafter::allocate() {
  const int64_t sequences = limits_.rows_max;
  WEIR_ASSIGN_OR_RETURN(memory_, gpu_.device->allocate(lay_out(nullptr), "hidden rows of the draft head",
                                                       "lower --max-num-batched-tokens"));
  lay_out(memory_.data());
  gpu_.stream->zero(memory_.data(), memory_.size());
  WEIR_ASSIGN_OR_RETURN(proposed_,
                        gpu_.device->allocate_pinned((1 + limits_.drafts_max * sequences) * kFloat, "drafts"));
  done_ = gpu_.device->event();
  std::vector<int32_t> each(static_cast<size_t>(sequences));
  std::iota(each.begin(), each.end(), 0);
  gpu_.stream->copy_in(reinterpret_cast<std::byte*>(each_), each.data(), sequences * kFloat);
  if (!ids_.empty()) {
    gpu_.stream->copy_in(reinterpret_cast<std::byte*>(device_ids_), ids_.data(),
                         static_cast<int64_t>(ids_.size()) * kFloat);
    size_t same = 0;
    while (same < ids_.size() && ids_[same] == static_cast<TokenId>(same)) ++same;
    draft_->sampled_ids_ = device_ids_;
    draft_->sampled_identity_ = static_cast<int32_t>(same / 4 * 4);
  }
  return gpu_.stream->wait();
}

// The steps of few sequences that verify any number of drafts and propose all, at any context.
Status PackedDrafter::record() {
  for (int64_t rows = 1; rows <= limits_.drafts_max + 1; ++rows) {
    if (rows > 1 && !main_->record_graphs(rows)) return Ok{};
    const int64_t most = std::min<int64_t>(limits_.rows_max, kRecordedRows / rows);
    for (int64_t sequences = 1; sequences <= most; ++sequences) {
      for (int64_t segments = 1;; segments = PackedExecutor::segments_of(segments * kPagedSegment + 1)) {
        Shape shape{sequences * rows,   sequences * rows,   sequences, sequences * rows,
                    limits_.drafts_max, rows + kDraftFirst, segments};
        PackedExecutor::Step& step = draft_->step_;
        step = {};
        step.token_count = shape.rows;
        step.generated_count = shape.rows;
        step.segments = segments;
        step.fresh = shape.fresh;
        step.first = kDraftFirst;
        draft_->point_step_at_tables(sequences, 0);
        step.sampled_before = clean_;
        if (graph_of(shape) == nullptr) return Ok{};
        if (segments >= PackedExecutor::segments_of(limits_.sequence_tokens_max)) break;
      }
    }
  }
  return Ok{};
}

void PackedDrafter::enqueue(const StepPlan& plan, const StepRows& rows, BatchTable* table) {
  list_items(plan, rows, table);
  if (!items_.empty() && !rows.for_host) launch(rows, table);
}

// What each sequence of the step brings, as far as it is known before the step is back.
void PackedDrafter::list_items(const StepPlan& plan, const StepRows& rows, BatchTable* table) {
  items_.clear();
  sampled_ = static_cast<int64_t>(rows.sampled.size());
  passes_ = 0;
  launched_ = false;
  std::vector<int64_t> sampled(plan.work.size(), -1);
  for (size_t i = 0; i < rows.wanted.size(); ++i) {
    const WantedRow& wanted = rows.wanted[i];
    if (wanted.about < 0 && wanted.draft < 0 && wanted.on_device) {
      sampled[static_cast<size_t>(wanted.work)] = static_cast<int64_t>(i);
    }
  }
  for (size_t i = 0; i < rows.items.size(); ++i) {
    const StepItem& from = rows.items[i];
    Item item;
    item.work = &plan.work[static_cast<size_t>(from.work)];
    const BatchRow& row = table->row(item.work->row);
    item.position = from.position;
    item.row_begin = from.row_begin;
    item.rows = rows.kv[i].row_count;
    item.known = item.position + item.work->token_count;
    item.sampled = sampled[static_cast<size_t>(from.work)];
    item.covered = table->covered(row, kDraftKvClass);
    item.first = row.draft_position;
    const int64_t end = item.sampled < 0 ? item.known : item.position + item.rows + 1;
    item.end = std::max(item.first, std::min(end, item.covered));
    WEIR_CHECK(item.first >= item.position || item.first == item.end, "draft KV up to {} of a row that was at {}",
               item.first, item.position);
    if (item.sampled >= 0) passes_ = std::max<int64_t>(passes_, item.work->propose_count);
    items_.push_back(item);
  }
}

// The step is back: what its rows sampled is in the table.
void PackedDrafter::learn(const StepPlan& plan, const StepResult& result, BatchTable* table) {
  passes_ = 0;
  for (Item& item : items_) {
    const SequenceResult& yielded = result.sequences[static_cast<size_t>(item.work - plan.work.data())];
    const BatchRow& row = table->row(item.work->row);
    item.sampled = -1;
    item.known = row.position;
    const bool sampled = yielded.token_count > 0 && yielded.stop == StopReason::kNone;
    item.end = std::max(item.first, std::min(item.known + (sampled ? 1 : 0), item.covered));
    if (!sampled || !main_->samples(row.sampling)) continue;
    item.last = row.position;
    passes_ = std::max<int64_t>(passes_, item.work->propose_count);
  }
}

void PackedDrafter::add_rows(const Item& item, const StepRows& rows, const BatchRow& row) {
  const auto& pages = row.pages.at(kDraftKvClass.index());
  const int64_t page_count = std::min(static_cast<int64_t>(pages.size()), pages_of(item.end + passes_));
  kv_.push_back(
      {static_cast<int64_t>(tokens_.size()), item.end - item.first, item.first, pages.data(), kDraftFirst, page_count});
  sequences_.push_back({item.work->role, item.work->row.value()});
  for (int64_t i = item.first; i < item.end; ++i) {
    if (i < item.known) {
      tokens_.push_back(rows.tokens[static_cast<size_t>(item.row_begin + i - item.position)]);
    } else if (item.sampled < 0) {
      tokens_.push_back(row.last_token);
    } else {
      // Where a draft stood, the token sampled there: they are the same as long as drafts hold.
      tokens_.push_back(last_sampled_of(static_cast<int32_t>(item.sampled + i - item.known)));
    }
  }
  const int64_t position = item.known + 1;  // of the first draft, or behind it
  requests_.push_back({&row.sampling, position, position - row.prompt_length, static_cast<int32_t>(kv_.size()) - 1,
                       item.sampled >= 0 || item.last >= 0});
}

void PackedDrafter::fill_sequences(BatchTable* table, const PackedExecutor::Places& host,
                                   const PackedExecutor::Mailbox& mailbox) {
  for (size_t s = 0; s < items_.size(); ++s) {
    const Item& item = items_[s];
    const BatchRow& row = table->row(item.work->row);
    GpuDraftSequence& own = host.drafted[s] = {};
    own.ring = caches_->hidden_ring(row.state);
    own.position = static_cast<int32_t>(item.position);
    own.row_begin = static_cast<int32_t>(item.row_begin);
    own.rows = static_cast<int32_t>(item.rows);
    own.known = static_cast<int32_t>(item.known);
    // A sequence without rows in the pass has none to choose: the last is taken, and nothing sampled.
    const bool there = item.first < item.end;
    own.sampled = there ? static_cast<int32_t>(item.sampled) : -1;
    own.last = there ? static_cast<int32_t>(item.last) : -1;
    own.pass_row = static_cast<int32_t>(std::min(kv_[s].row_begin, static_cast<int64_t>(tokens_.size()) - 1));
    own.first = static_cast<int32_t>(item.first);
    own.covered = static_cast<int32_t>(item.covered);
    own.banned_end = static_cast<int32_t>(row.prompt_length + row.sampling.min_tokens);
  }
  const device::PinnedBytes& lists = mailbox.lists;
  lay_out_samples(requests_, host.draft_sample, {lists.data(), static_cast<size_t>(lists.size())});
}

// The recorded passes of this shape; draft_->step_ is of it too. Null without memory for one more.
device::Graph* PackedDrafter::graph_of(const Shape& shape) {
  if (graphs_.size() >= kGraphsMax && graphs_.count(shape) == 0) return nullptr;
  device::Graph& graph = graphs_[shape];
  if (!graph) {
    gpu_.stream->begin_graph();
    run(shape);
    auto recorded = gpu_.stream->end_graph();
    if (!recorded.ok()) return nullptr;
    graph = std::move(*recorded);
  }
  return &graph;
}

// Behind the step: the passes of the draft head, and their drafts to the host.
void PackedDrafter::launch(const StepRows& rows, BatchTable* table) {
  launched_ = true;
  tokens_.clear();
  kv_.clear();
  sequences_.clear();
  requests_.clear();
  bool decodes = true;
  int64_t longest = 1;
  for (const Item& item : items_) {
    add_rows(item, rows, table->row(item.work->row));
    // Tokens that are computed again come in chunks of any size.
    decodes = decodes && item.work->first_token < 0;
    longest = std::max(longest, item.end + passes_);
  }
  const auto count = static_cast<int64_t>(items_.size());
  StepBatch batch;
  batch.tokens = tokens_;
  batch.kv = kv_;
  batch.sequences = sequences_;
  PackedExecutor::Mailbox& mailbox = draft_->next_mailbox();
  const PackedExecutor::Places host = draft_->fill_tables(batch, &mailbox);
  fill_sequences(table, host, mailbox);
  PackedExecutor::Step& step = draft_->step_;
  step.segments = PackedExecutor::segments_of(longest);
  step.sampled_before = clean_;
  const Shape shape{
      static_cast<int64_t>(rows.tokens.size()), sampled_, count, step.token_count, passes_, step.fresh, step.segments};
  const bool recordable = decodes && shape.rows > 0 && shape.rows <= kHeadBlockRows;
  const device::Graph* graph = recordable ? graph_of(shape) : nullptr;
  if (graph != nullptr) {
    gpu_.stream->replay(*graph);
  } else {
    run(shape);
  }
  gpu_.stream->record(&done_);
}

GpuDraftArgs PackedDrafter::args_of(const Shape& shape) const {
  GpuDraftArgs args;
  args.sequences = draft_->step_.drafted;
  args.ids = main_->step_.tokens;
  args.tokens = main_->tokens_;
  args.normed = normed_;
  args.pass_rows = draft_->step_.rows;
  args.sample = draft_->step_.draft_sample;
  args.clean = clean_;
  args.chosen = chosen_;
  args.chain_rows = chain_rows_;
  args.pass_sample = pass_sample_;
  args.drafts = drafts_;
  args.hidden = draft_->data({program_.hidden_in, 0});
  args.count = static_cast<int32_t>(shape.sequences);
  args.sampled = static_cast<int32_t>(shape.sampled);
  args.passes = static_cast<int32_t>(shape.passes);
  args.width = static_cast<int32_t>(config_.hidden);
  args.slots = static_cast<int32_t>(kHiddenRing);
  args.pinned = limits_.pinned_acceptance;
  return args;
}

// From the tables' way in to the drafts' way out; draft_->step_ is the first pass. Of the kernels, those up to the
// pass's first each wait before they read anything.
void PackedDrafter::run(const Shape& shape) {
  draft_->fetch_tables();
  norm_step(shape.step_rows);
  const GpuDraftArgs args = args_of(shape);
  draft_accept(gpu_, args);
  draft_gather(gpu_, args, shape.rows);
  draft_keep(gpu_, args);
  if (shape.rows > 0) draft_->run_body();
  if (shape.rows > 0 && shape.passes > 0) {
    heads(shape, 0, chosen_);
    chain(shape);
  }
  draft_->report_tokens(drafts_, shape.passes * shape.sequences, {&proposed_, &proposed_});
}

// The backbone's rows as its head norms them.
void PackedDrafter::norm_step(int64_t rows) {
  const auto& norm = std::get<NormOp>(main_->program_.head.front());
  GpuNormRowsArgs args;
  args.x = main_->data(norm.x);
  args.x_stride = main_->stride(norm.x);
  args.weight = main_->weights_.vector(norm.weight);
  args.size = static_cast<int32_t>(config_.hidden);
  args.eps = config_.rms_eps;
  args.y = normed_;
  args.y_stride = config_.hidden;
  norm_rows(gpu_, args, rows);
}

// Passes of one row for each sequence.
void PackedDrafter::chain(const Shape& shape) {
  const PackedExecutor::Step first = draft_->step_;
  float*& hidden = draft_->buffers_[program_.hidden_in.index()];
  float* const own = hidden;
  for (int64_t pass = 1; pass < shape.passes; ++pass) {
    PackedExecutor::Step& step = draft_->step_;
    step = {};
    step.tokens = draft_->next_tokens_;
    step.sampled_before = draft_->next_tokens_;
    step.rows = chain_rows_ + pass * shape.sequences;
    step.pages = first.pages;
    step.generated = each_;
    step.token_count = shape.sequences;
    step.generated_count = shape.sequences;
    step.segments = shape.segments;
    step.first = kDraftFirst;
    // What the head made of the row before is its next hidden row; many rows were copied block by block.
    if (shape.sequences <= kHeadBlockRows) hidden = draft_->data({program_.normed, 0});
    draft_->run_body();
    hidden = own;
    heads(shape, pass, each_);
  }
  draft_->step_ = first;
}

void PackedDrafter::heads(const Shape& shape, int64_t pass, const int32_t* chosen) {
  const int64_t begin = pass * shape.sequences;
  for (int64_t first = 0; first < shape.sequences; first += kHeadBlockRows) {
    const int64_t count = std::min(kHeadBlockRows, shape.sequences - first);
    draft_->run_program(program_.head, {count, chosen + first, pass_sample_ + begin + first, drafts_ + begin + first});
    if (shape.sequences <= kHeadBlockRows) continue;
    gpu_.stream->copy(reinterpret_cast<std::byte*>(draft_->data({program_.hidden_in, 0}) + first * config_.hidden),
                      reinterpret_cast<const std::byte*>(draft_->data({program_.normed, 0})),
                      count * config_.hidden * kFloat);
  }
}

void PackedDrafter::finish(const StepPlan& plan, const StepRows& rows, const StepResult& result, BatchTable* table,
                           Sampler*) {
  if (items_.empty()) return;
  if (!launched_) {
    learn(plan, result, table);
    launch(rows, table);
  }
  const Status status = done_.wait();
  WEIR_CHECK(status.ok(), "{}", status.error().text());
  const auto* proposed = reinterpret_cast<const TokenId*>(proposed_.data());
  PackedExecutor::check_fault(*proposed++);
  for (size_t s = 0; s < items_.size(); ++s) {
    const Item& item = items_[s];
    const SequenceResult& yielded = result.sequences[static_cast<size_t>(item.work - plan.work.data())];
    if (yielded.stop == StopReason::kNotFinite) continue;
    BatchRow& row = table->row(item.work->row);
    const bool sampled = yielded.token_count > 0 && yielded.stop == StopReason::kNone;
    const int64_t known = row.position + (sampled ? 1 : 0);
    const int64_t end = std::max(item.first, std::min({known, item.end, item.covered}));
    row.draft_position = end;
    if (!sampled || end < known || (item.sampled < 0 && item.last < 0)) continue;
    const int64_t most =
        std::min({static_cast<int64_t>(item.work->propose_count), item.covered - row.position, table->verifiable(row)});
    for (int64_t i = 0; i < most; ++i) {
      const TokenId token = proposed[static_cast<size_t>(i) * items_.size() + s];
      if (token == kNotFiniteToken) break;
      row.drafts[static_cast<size_t>(row.draft_count++)] = token;
    }
  }
}

}  // namespace weir
