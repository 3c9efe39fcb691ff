#include "runner/packed_executor.h"

#include <algorithm>

#include "base/check.h"
#include "ops/gdn/gdn_chunks_gpu.h"
#include "ops/moe/moe_few_gpu.h"
#include "ops/moe/moe_packed_args.h"
#include "ops/moe/moe_prompt_gpu.h"
#include "ops/sample/sample_gpu.h"
#include "ops/step/step_gpu.h"
#include "runner/cpu_weights.h"
#include "runner/gpu_parts.h"
#include "runner/sample_rows.h"

namespace weir {
namespace {

constexpr int64_t kFloat = sizeof(float);
// For the states of generated rows' segments; more rows or longer contexts are worked off in parts.
constexpr int64_t kPartialBytes = 256 << 20;
// Shapes of decode steps that are recorded; others run call by call.
constexpr size_t kGraphsMax = 256;
constexpr int64_t kRecordedRows = 8;
constexpr int64_t kSegmentSteps = 4;

bool is_generated(const StepBatch& batch, size_t sequence) {
  return !batch.sequences.empty() && batch.sequences[sequence].role == RowRole::kGenerated;
}

}  // namespace

int64_t PackedExecutor::segments_of(int64_t positions) {
  int64_t segments = 1;
  while (segments * kPagedSegment < positions) segments *= kSegmentSteps;
  return segments;
}

Result<std::unique_ptr<PackedExecutor>> PackedExecutor::create(const Program& program, const ModelConfig& config,
                                                               const PackedWeights& weights, const GpuRope& rope,
                                                               Gpu gpu, GpuCaches* caches,
                                                               const ExecutorLimits& limits) {
  std::unique_ptr<PackedExecutor> executor(new PackedExecutor(program, config, weights, rope, gpu, caches, limits));
  WEIR_RETURN_IF_ERROR(executor->allocate());
  if (program.hidden_in.valid()) return executor;  // the drafter records its passes itself
  executor->record_graphs(1);
  return executor;
}

PackedExecutor::PackedExecutor(const Program& program, const ModelConfig& config, const PackedWeights& weights,
                               const GpuRope& rope, Gpu gpu, GpuCaches* caches, const ExecutorLimits& limits)
    : program_(program),
      config_(config),
      weights_(weights),
      rope_(rope),
      gpu_(gpu),
      caches_(caches),
      limits_(limits),
      // What a draft head makes of prompts is no output.
      quantises_(config.prefill_activations == PrefillActivations::kFp8 && !program.hidden_in.valid()) {
  for (const Operation& operation : program.body) {
    if (const auto* op = std::get_if<AttentionOp>(&operation)) mixed_id_ = op->y.buffer;
    if (const auto* op = std::get_if<GdnOp>(&operation)) mixed_id_ = op->y.buffer;
  }
}

// Bytes of everything behind `base`; with a base, where it is.
int64_t PackedExecutor::lay_out(std::byte* base) {
  const int64_t head_rows = std::min(limits_.rows, kHeadBlockRows);
  GpuParts parts(base);
  int64_t widest = config_.hidden;
  for (size_t i = 0; i < program_.buffers.size(); ++i) {
    const BufferSpec& spec = program_.buffers[i];
    if (BufferId::from(i) == mixed_id_) {
      mixed_ = parts.take<uint16_t>(limits_.rows * spec.width);
      buffers_[i] = nullptr;
      continue;
    }
    buffers_[i] = parts.take<float>((spec.space == RowSpace::kStep ? limits_.rows : head_rows) * spec.width);
  }
  for (const Operation& operation : program_.body) {
    if (const auto* op = std::get_if<LinearOp>(&operation)) widest = std::max(widest, stride(op->x));
  }
  for (uint16_t*& rows : operands_) rows = parts.take<uint16_t>(limits_.rows * widest);
  if (quantises_) {
    codes_ = parts.take<uint8_t>(limits_.rows * widest);
    code_scales_ = parts.take<float>(limits_.rows * ((widest + kBlockK - 1) / kBlockK));
  }
  int64_t hidden = 0;
  int64_t router = 0;
  int64_t slots = 0;
  int64_t work = 0;
  for (const Operation& operation : program_.body) {
    const auto* op = std::get_if<FeedForwardOp>(&operation);
    if (op == nullptr) continue;
    const PackedFeedForward& layer = weights_.feed_forward(op->layer);
    hidden = std::max<int64_t>(hidden, int64_t{layer.slots()} * layer.width);
    router = std::max<int64_t>(router, layer.experts + layer.shared);
    slots = std::max<int64_t>(slots, layer.slots());
    if (limits_.rows > kRowsWithNorm || quantises(*op)) {
      work = std::max(work, moe_prompt_work_bytes(limits_.rows, layer.slots(), static_cast<int64_t>(layer.mlps.size()),
                                                  config_.hidden, layer.width, quantises(*op)));
    }
  }
  queries_ = parts.take<uint16_t>(limits_.rows * config_.heads * config_.head_dim);
  hidden_ = parts.take<uint16_t>(std::min<int64_t>(limits_.rows, kPackedMoeRows) * hidden);
  router_ = parts.take<float>(limits_.rows * router);
  experts_ = parts.take<int32_t>(limits_.rows * slots);
  expert_weights_ = parts.take<float>(limits_.rows * slots);
  moe_work_ = parts.take<std::byte>(work);
  some_routes_ = parts.take<uint8_t>(kSomeRoutesBytes);
  few_turns_ = parts.take<GpuFewTurns>(1);
  partial_ = parts.take<float>(kPartialBytes / kFloat);
  if (program_.recurrent()) {
    gdn_scratch_ = parts.take<uint8_t>(gdn_chunks_scratch_bytes(gdn_shape(config_), limits_.rows, limits_.sequences));
  }
  fault_ = parts.take<int32_t>(1);
  number_ = parts.take<uint32_t>(1);
  tokens_ = parts.take<int32_t>(limits_.rows);
  next_tokens_ = parts.take<int32_t>(limits_.sequences);
  sample_scratch_ = parts.take<GpuSampleScratch>(kHeadBlockRows);
  tables_ = parts.take<std::byte>(tables_bytes_);
  return parts.used();
}

Status PackedExecutor::allocate() {
  {
    GpuParts tables(nullptr);
    tables.take<std::byte>(places(nullptr, limits_.rows, limits_.sequences, limits_.rows, limits_.rows).end -
                           static_cast<std::byte*>(nullptr));
    for (int64_t i = 0; i < limits_.sequences; ++i) tables.take<uint8_t*>(pages_of(limits_.positions));
    tables.take<GpuPromptTile>(
        paged_prompt_tiles_max(limits_.rows, limits_.sequences, config_.heads / config_.kv_heads));
    tables_bytes_ = tables.used();
  }
  buffers_.resize(program_.buffers.size());
  WEIR_ASSIGN_OR_RETURN(memory_,
                        gpu_.device->allocate(lay_out(nullptr), "work buffers", "lower --max-num-batched-tokens"));
  lay_out(memory_.data());
  for (Mailbox& mailbox : mailboxes_) {
    WEIR_ASSIGN_OR_RETURN(mailbox.tables, gpu_.device->allocate_pinned(tables_bytes_, "step tables"));
    WEIR_ASSIGN_OR_RETURN(mailbox.lists,
                          gpu_.device->allocate_pinned(sample_lists_bytes(limits_.sequences), "sampling lists"));
    WEIR_ASSIGN_OR_RETURN(mailbox.tokens, gpu_.device->allocate_pinned((limits_.rows + 1) * kFloat, "tokens"));
  }
  for (Flight& flight : flights_) {
    flight.begun = gpu_.device->event();
    flight.done = gpu_.device->event();
  }
  const int64_t head_rows = std::min(limits_.rows, kHeadBlockRows);
  WEIR_ASSIGN_OR_RETURN(
      logits_, gpu_.device->allocate_pinned(head_rows * (config_.vocabulary + config_.hidden) * kFloat, "logits"));
  gpu_.stream->zero(memory_.data(), memory_.size());
  if (!config_.moe()) {
    // A dense layer's rows all go to its one expert, with weight 1.
    const std::vector<float> ones(static_cast<size_t>(limits_.rows), 1.0F);
    gpu_.stream->copy_in(reinterpret_cast<std::byte*>(expert_weights_), ones.data(), limits_.rows * kFloat);
  }
  return gpu_.stream->wait();
}

bool PackedExecutor::samples(const SamplingParams& params) const {
  return gpu_samples(params) && config_.vocabulary <= kGpuSampleWidthMax;
}

void PackedExecutor::set_hidden(int64_t first, int64_t count, const float* rows) {
  const BufferRef hidden{program_.hidden_in, 0};
  gpu_.stream->copy_in(reinterpret_cast<std::byte*>(data(hidden) + first * stride(hidden)), rows,
                       count * stride(hidden) * kFloat);
  const Status status = gpu_.stream->wait();
  WEIR_CHECK(status.ok(), "{}", status.error().text());
}

PackedExecutor::Places PackedExecutor::places(std::byte* base, int64_t tokens, int64_t sequences, int64_t sampled,
                                              int64_t generated) const {
  GpuParts parts(base);
  Places out;
  out.head = parts.take<GpuStepHead>(1);
  if (program_.hidden_in.valid()) {
    out.drafted = parts.take<GpuDraftSequence>(sequences);
    out.draft_sample = parts.take<GpuSampleRow>(sequences);
  }
  out.tokens = parts.take<int32_t>(tokens);
  out.rows = parts.take<GpuRow>(tokens);
  out.pages = parts.take<uint8_t**>(sequences);
  out.sampled = parts.take<int32_t>(sampled);
  out.sample = parts.take<GpuSampleRow>(sampled);
  out.generated = parts.take<int32_t>(generated);
  out.gdn_generated = parts.take<GpuGdnSequence>(sequences);
  out.gdn_prompts = parts.take<GpuGdnSequence>(sequences);
  out.end = base + parts.used();
  return out;
}

// Places depend on how many tokens, sequences and sampled rows there are, never on their contents: a graph recorded for
// one step fits every step of the same shape.
void PackedExecutor::point_step_at_tables(int64_t sequences, int64_t sampled) {
  const Places at = places(tables_, step_.token_count, sequences, sampled, step_.generated_count);
  step_.tokens = at.tokens;
  step_.sampled_before = next_tokens_;
  step_.rows = at.rows;
  step_.pages = at.pages;
  step_.sampled = at.sampled;
  step_.sample = at.sample;
  step_.generated = at.generated;
  step_.gdn_generated = at.gdn_generated;
  step_.gdn_prompts = at.gdn_prompts;
  step_.drafted = at.drafted;
  step_.draft_sample = at.draft_sample;
  // Steps of fewer segments have a shape of their own.
  GpuParts page_list(nullptr);
  page_list.take<uint8_t*>(pages_of(std::max<int64_t>(1, step_.segments / kSegmentSteps * kPagedSegment)));
  step_.usual_bytes = at.end - tables_ + sequences * page_list.used();
}

// Where the next step is laid out. Its kernels must be enqueued: the device counts the steps, too.
PackedExecutor::Mailbox& PackedExecutor::next_mailbox() {
  static_assert(kStepMailboxes >= kFlights, "a mailbox is free once its last step has been collected");
  Mailbox& mailbox = mailboxes_[next_number_ % kStepMailboxes];
  mailbox.number = next_number_++;
  return mailbox;
}

// Everything that the step's kernels look up.
PackedExecutor::Places PackedExecutor::fill_tables(const StepBatch& batch, Mailbox* mailbox) {
  const auto sequences = static_cast<int64_t>(batch.kv.size());
  const auto sampled = static_cast<int64_t>(batch.sampled.size());
  WEIR_CHECK(sequences <= limits_.sequences, "{} sequences in a step of {}", sequences, limits_.sequences);
  step_ = Step{};
  step_.token_count = static_cast<int64_t>(batch.tokens.size());
  int64_t longest = 1;
  std::vector<PromptRows> prompts;
  for (size_t i = 0; i < batch.kv.size(); ++i) {
    const KvSequence& s = batch.kv[i];
    WEIR_CHECK(i == 0 || s.first == step_.first, "rows that see tokens from {} on beside others from {}", s.first,
               step_.first);
    step_.first = s.first;
    step_.fresh = std::max(step_.fresh, s.row_count);
    const bool prompt = !is_generated(batch, i);
    if (step_.runs.empty() || step_.runs.back().prompt != prompt) {
      step_.runs.push_back({s.row_begin, s.row_count, prompt});
    } else {
      step_.runs.back().count += s.row_count;
    }
    if (!prompt) {
      step_.generated_count += s.row_count;
      longest = std::max(longest, s.position + s.row_count);
    } else {
      prompts.push_back({s.row_begin, s.row_count, static_cast<int64_t>(i), s.position});
    }
  }
  step_.segments = segments_of(longest);
  step_.fresh += step_.first;  // what nobody sees is written with the first row
  const Places host = places(mailbox->tables.data(), step_.token_count, sequences, sampled, step_.generated_count);
  point_step_at_tables(sequences, sampled);
  std::copy(batch.tokens.begin(), batch.tokens.end(), host.tokens);
  std::copy(batch.sampled.begin(), batch.sampled.end(), host.sampled);
  if (batch.requests.empty()) {
    std::fill_n(host.sample, sampled, GpuSampleRow{});
  } else {
    lay_out_samples(batch.requests, host.sample, {mailbox->lists.data(), static_cast<size_t>(mailbox->lists.size())});
  }
  GpuParts rest(host.end);
  const auto on_device = [&](auto* place) {
    return reinterpret_cast<decltype(place)>(tables_ + (reinterpret_cast<std::byte*>(place) - mailbox->tables.data()));
  };
  int32_t* generated = host.generated;
  for (size_t i = 0; i < batch.kv.size(); ++i) {
    const KvSequence& s = batch.kv[i];
    for (int64_t r = 0; r < s.row_count; ++r) {
      host.rows[s.row_begin + r] = {static_cast<int32_t>(i), static_cast<int32_t>(s.position + r)};
      if (is_generated(batch, i)) *generated++ = static_cast<int32_t>(s.row_begin + r);
    }
    const int64_t count = std::max(s.page_count, pages_of(s.position + s.row_count));
    auto** pages = rest.take<uint8_t*>(count);
    WEIR_CHECK(host.end + rest.used() <= mailbox->tables.data() + tables_bytes_, "step tables of over {} bytes",
               tables_bytes_);
    for (int64_t p = 0; p < count; ++p) pages[p] = reinterpret_cast<uint8_t*>(s.pages[p]);
    host.pages[i] = on_device(pages);
  }
  fill_gdn(batch, host);
  const std::vector<GpuPromptTile> tiles = paged_attention_tiles(prompts, config_.heads / config_.kv_heads);
  step_.tile_count = static_cast<int64_t>(tiles.size());
  auto* tile_place = rest.take<GpuPromptTile>(step_.tile_count);
  tables_used_ = host.end + rest.used() - mailbox->tables.data();
  WEIR_CHECK(tables_used_ <= tables_bytes_, "step tables of {} bytes, {} reserved", tables_used_, tables_bytes_);
  std::copy(tiles.begin(), tiles.end(), tile_place);
  step_.tiles = on_device(tile_place);
  *host.head = {mailbox->number, 0, tables_used_};
  return host;
}

void PackedExecutor::fill_gdn(const StepBatch& batch, const Places& host) {
  for (size_t i = 0; i < batch.gdn.size(); ++i) {
    const GdnSequence& s = batch.gdn[i];
    if (s.row_count == 0) continue;
    const int64_t base = caches_->base(s.slot);
    WEIR_CHECK(s.position >= base && s.position <= base + kGdnChunk, "position {} with a slot at {}", s.position, base);
    const GpuGdnSequence entry{reinterpret_cast<uint8_t*>(s.slot), static_cast<int32_t>(s.row_begin),
                               static_cast<int32_t>(s.row_count), static_cast<int32_t>(s.position),
                               static_cast<int32_t>(base)};
    if (is_generated(batch, i)) {
      host.gdn_generated[step_.gdn_generated_count++] = entry;
    } else {
      host.gdn_prompts[step_.gdn_prompt_count++] = entry;
      step_.gdn_chunks += gdn_chunk_count(entry.position, entry.row_count, entry.base);
    }
    caches_->advance(s.slot, s.position + s.row_count);
  }
}

void PackedExecutor::run_program(const std::vector<Operation>& operations, const Rows& rows) {
  for (const Operation& operation : operations) {
    std::visit([&](const auto& op) { execute(op, rows); }, operation);
  }
}

// The step's first kernel. Behind it stands one that waits before anything else, and every later kernel behind that
// one: so tables are there for whatever reads them, also before its own wait.
void PackedExecutor::fetch_tables() {
  GpuStepFetchArgs args;
  for (size_t i = 0; i < mailboxes_.size(); ++i) {
    args.from[i] = reinterpret_cast<const uint8_t*>(mailboxes_[i].tables.data());
  }
  args.to = reinterpret_cast<uint8_t*>(tables_);
  args.number = number_;
  args.fault = fault_;
  args.bytes_max = tables_bytes_;
  args.ahead = step_.usual_bytes;
  step_fetch(gpu_, args);
}

// Its last: the fault and what the step sampled, to where its mailbox says.
void PackedExecutor::report_tokens(const int32_t* tokens, int64_t count, const Reports& to) {
  GpuStepReportArgs args;
  for (size_t i = 0; i < to.size(); ++i) args.to[i] = reinterpret_cast<int32_t*>(to[i]->data());
  args.tokens = tokens;
  args.fault = fault_;
  args.number = number_;
  args.count = static_cast<int32_t>(count);
  step_report(gpu_, args);
}

void PackedExecutor::run_body() {
  run_program(program_.body, {step_.token_count, nullptr, nullptr, nullptr});
}

void PackedExecutor::run_head(int64_t first, int64_t count) {
  run_program(program_.head, {count, step_.sampled + first, step_.sample + first, tokens_ + first});
}

// The recorded decode step of this shape, with its tables' way in, the head, the sampling of all rows and the tokens'
// way out; step_ is of it too. It serves both mailboxes: the device counts the steps. Null without memory for one more:
// then the same calls are made one by one.
device::Graph* PackedExecutor::graph_of(const Shape& shape) {
  if (graphs_.size() >= kGraphsMax && graphs_.count(shape) == 0) return nullptr;
  device::Graph& graph = graphs_[shape];
  if (!graph) {
    gpu_.stream->begin_graph();
    fetch_tables();
    run_body();
    run_head(0, shape.sequences * shape.rows);
    report_sampled(shape.sequences * shape.rows);
    auto recorded = gpu_.stream->end_graph();
    if (!recorded.ok()) return nullptr;
    graph = std::move(*recorded);
  }
  return &graph;
}

bool PackedExecutor::replay(const StepBatch& batch) {
  const auto sampled = static_cast<int64_t>(batch.sampled.size());
  const auto sequences = static_cast<int64_t>(batch.kv.size());
  if (step_.generated_count != step_.token_count || sampled != step_.token_count || sampled > kHeadBlockRows ||
      step_.gdn_generated_count != static_cast<int64_t>(batch.gdn.size())) {
    return false;
  }
  const int64_t rows = batch.kv.front().row_count;
  for (const KvSequence& s : batch.kv) {
    if (s.row_count != rows) return false;
  }
  const device::Graph* graph = graph_of({sequences, rows, step_.segments});
  if (graph == nullptr) return false;
  gpu_.stream->replay(*graph);
  return true;
}

// Before the first request: decode steps of `rows` rows of few sequences at any context, which are the ones that a
// recording would hold up; others are recorded when they first come. False: there is no memory for all.
bool PackedExecutor::record_graphs(int64_t rows) {
  const bool recurrent = config_.count_layers(LayerKind::kLinear) > 0;
  const int64_t most = std::min(limits_.sequences, std::min(limits_.rows, kRecordedRows) / rows);
  for (int64_t sequences = 1; sequences <= most; ++sequences) {
    for (int64_t segments = 1;; segments *= kSegmentSteps) {
      step_ = Step{};
      step_.token_count = sequences * rows;
      step_.generated_count = step_.token_count;
      step_.gdn_generated_count = recurrent ? sequences : 0;
      step_.segments = segments;
      step_.fresh = rows;
      point_step_at_tables(sequences, step_.token_count);
      if (graph_of({sequences, rows, segments}) == nullptr) return false;
      if (segments >= segments_of(limits_.positions)) break;
    }
  }
  return true;
}

// Of a step that has ended, as long as its events stand, while the step behind it runs.
void PackedExecutor::note_time(const Flight& ended) {
  static_assert(kFlights == 2, "the step behind an ended one is the other");
  const Flight& next = flights_[first_flight_];
  if (&next == &ended || ended.empty || next.empty || !next.begun.passed()) return;
  times_.add({static_cast<float>(ended.done.micros_since(ended.begun)),
              static_cast<float>(next.begun.micros_since(ended.done))});
}

void PackedExecutor::enqueue(const StepBatch& batch) {
  WEIR_CHECK(flight_count_ < flights_.size(), "{} steps in flight", flight_count_);
  Flight& flight = flights_[(first_flight_ + flight_count_++) % flights_.size()];
  const auto tokens = static_cast<int64_t>(batch.tokens.size());
  WEIR_CHECK(tokens <= limits_.rows, "{} rows in a step of {}", tokens, limits_.rows);
  note_time(flight);
  flight.empty = tokens == 0;
  flight.sampled = static_cast<int64_t>(batch.sampled.size());
  if (flight.empty) return;
  flight.to_host = batch.requests.empty();
  for (const SampleRequest& request : batch.requests) flight.to_host |= !request.on_device;
  Mailbox& mailbox = next_mailbox();
  flight.mailbox = &mailbox;
  fill_tables(batch, &mailbox);
  gpu_.stream->record(&flight.begun);
  if (!replay(batch)) {
    fetch_tables();
    run_body();
    // Rows of which the host wants logits are computed when it asks for them: their step is collected before the next.
    const int64_t sampled = flight.to_host ? 0 : flight.sampled;
    const int64_t block = std::min(limits_.rows, kHeadBlockRows);
    for (int64_t first = 0; first < sampled; first += block) run_head(first, std::min(block, sampled - first));
    report_sampled(sampled);
  }
  gpu_.stream->record(&flight.done);
}

bool PackedExecutor::ready() {
  const Flight& flight = flights_[first_flight_];
  return flight.empty || flight.done.passed();
}

void PackedExecutor::check_fault(int32_t fault) {
  WEIR_CHECK(fault != kStepFaultTables, "a step found the tables of another");
  WEIR_CHECK(fault == 0, "the token id of row {} is outside the vocabulary", fault - 1);
}

void PackedExecutor::wait(const Flight& flight) const {
  const Status status = flight.done.wait();
  WEIR_CHECK(status.ok(), "{}", status.error().text());
  check_fault(*reinterpret_cast<const int32_t*>(flight.mailbox->tokens.data()));
}

void PackedExecutor::collect(const Consume& consume) {
  WEIR_CHECK(flight_count_ > 0, "no step in flight");
  Flight& flight = flights_[first_flight_];
  first_flight_ = (first_flight_ + 1) % flights_.size();
  --flight_count_;
  if (flight.empty) return;
  wait(flight);
  auto* tokens = reinterpret_cast<TokenId*>(flight.mailbox->tokens.data()) + 1;
  if (!flight.to_host) {
    if (flight.sampled > 0) consume({0, flight.sampled, nullptr, nullptr, tokens});
    return;
  }
  auto* logits = reinterpret_cast<float*>(logits_.data());
  const int64_t block = std::min(limits_.rows, kHeadBlockRows);
  float* normed = logits + block * config_.vocabulary;
  for (int64_t first = 0; first < flight.sampled; first += block) {
    const int64_t count = std::min(block, flight.sampled - first);
    run_head(first, count);
    gpu_.stream->copy_out(logits, reinterpret_cast<const std::byte*>(data({program_.logits, 0})),
                          count * config_.vocabulary * kFloat);
    gpu_.stream->copy_out(normed, reinterpret_cast<const std::byte*>(data({program_.normed, 0})),
                          count * config_.hidden * kFloat);
    gpu_.stream->copy_out(tokens, reinterpret_cast<const std::byte*>(tokens_ + first), count * kFloat);
    gpu_.stream->record(&flight.done);
    wait(flight);
    consume({first, count, logits, normed, tokens});
  }
}

}  // namespace weir
