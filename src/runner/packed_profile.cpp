#include "runner/packed_profile.h"

#include <algorithm>
#include <functional>
#include <random>
#include <utility>

#include "base/check.h"
#include "ops/gpu/read_all.h"

namespace weir {
namespace {

constexpr int64_t kOtherBytes = int64_t{256} << 20;  // several times any second-level cache
constexpr int kRuns = 5;
// A graph's start takes microseconds: so many calls at least stand in one.
constexpr int64_t kCallsMin = 10;

// The last tokens before a recurrent state's next multiple of 64 are read beside it: half of them for the first
// sequence, as many as it comes for the others.
int64_t position_of(int64_t sequence, int64_t context) {
  constexpr int64_t kStride = 23;  // without a factor of 64: every number of tokens comes once in 64 sequences
  return context / kGridTokens * kGridTokens + (kGridTokens / 2 + kStride * sequence) % kGridTokens;
}

}  // namespace

Result<std::unique_ptr<PackedProfile>> PackedProfile::create(GpuModel* model, const CacheLayout& layout,
                                                             const RunnerLimits& limits) {
  if (!model->packed) {
    return Error{ErrorCode::kUnsupported, "operations are timed for the kernels for packed weights alone",
                 fmt::format("weir plan says why this model does not take them ({})",
                             packed_takes(model->config).error().message)};
  }
  WEIR_CHECK(layout.pages_a_slot == 0, "pages and slots, which are filled side by side, share memory");
  std::unique_ptr<PackedProfile> profile(new PackedProfile(model));
  profile->limits_ = limits;
  profile->greedy_.temperature = 0;
  WEIR_ASSIGN_OR_RETURN(profile->caches_, model->make_caches(layout, limits.pages, limits.state_slots));
  const ExecutorLimits sizes{limits.step_tokens_max, limits.rows_max, limits.sequence_tokens_max, limits.vocabulary};
  WEIR_ASSIGN_OR_RETURN(profile->executor_,
                        PackedExecutor::create(model->program, model->config, model->packed_weights, model->rope,
                                               {model->device.get(), &model->stream},
                                               static_cast<GpuCaches*>(profile->caches_.get()), sizes));
  WEIR_ASSIGN_OR_RETURN(profile->other_, model->device->allocate(kOtherBytes, "memory to read between runs",
                                                                 "lower --kv-cache-memory-bytes"));
  model->stream.zero(profile->other_.data(), kOtherBytes);
  profile->begin_ = model->device->event();
  profile->end_ = model->device->event();
  for (int32_t i = 0; i < limits.state_slots; ++i) profile->caches_->zero_slot(StateSlotId(i));
  WEIR_RETURN_IF_ERROR(profile->fill_pages(layout.classes[0].bytes_per_page));
  return profile;
}

// Every page has its own copy of the same random values, uniform in +-[0.5, 1); of FP8 pages these bits are finite.
Status PackedProfile::fill_pages(int64_t page_bytes) {
  if (page_bytes == 0) return Ok{};
  std::vector<uint16_t> values(static_cast<size_t>(page_bytes / 2));
  std::minstd_rand random(1);
  for (uint16_t& value : values) value = static_cast<uint16_t>((random() & 0x807f) | 0x3f00);
  const std::byte* first = caches_->page(kKvClass, PageId(0));
  model_->stream.copy_in(caches_->page(kKvClass, PageId(0)), values.data(), page_bytes);
  for (int32_t i = 1; i < limits_.pages[0]; ++i) {
    model_->stream.copy(caches_->page(kKvClass, PageId(i)), first, page_bytes);
  }
  return model_->stream.wait();
}

bool PackedProfile::fits(int64_t sequences, int64_t context) const {
  const int64_t pages = limits_.pages.empty() ? 0 : limits_.pages[0];
  return sequences <= limits_.rows_max && sequences <= limits_.step_tokens_max &&
         context + kGridTokens < limits_.sequence_tokens_max &&
         (model_->config.count_layers(LayerKind::kFull) == 0 || sequences * pages_of(context + 1) <= pages);
}

void PackedProfile::add_sequence(int64_t index, int64_t row_begin, int64_t row_count, int64_t position, RowRole role) {
  std::vector<std::byte*>& pages = pages_.emplace_back();
  const int64_t count = pages_of(position + row_count);
  if (model_->config.count_layers(LayerKind::kFull) > 0) {
    for (int64_t p = 0; p < count; ++p) {
      pages.push_back(caches_->page(kKvClass, PageId::from(index * count + p)));
    }
  } else {
    pages.resize(static_cast<size_t>(count));
  }
  kv_.push_back({row_begin, row_count, position, nullptr});
  sequences_.push_back({role, static_cast<int32_t>(index)});
  if (model_->config.count_layers(LayerKind::kLinear) > 0) {
    std::byte* slot = caches_->slot(StateSlotId::from(static_cast<size_t>(index)));
    static_cast<GpuCaches*>(caches_.get())->advance(slot, position);
    gdn_.push_back({row_begin, row_count, position, slot});
  }
  SampleRequest request;
  request.params = &greedy_;
  request.position = position + row_count;
  request.row = static_cast<int32_t>(index);
  request.on_device = executor_->samples(greedy_);
  requests_.push_back(request);
  sampled_.push_back(static_cast<int32_t>(row_begin + row_count - 1));
}

Status PackedProfile::lay_out(const UnitRows& rows, int64_t context) {
  pages_.clear();
  kv_.clear();
  gdn_.clear();
  sequences_.clear();
  sampled_.clear();
  requests_.clear();
  tokens_.resize(static_cast<size_t>(rows.rows));
  std::minstd_rand random(static_cast<uint32_t>(rows.rows));
  for (int32_t& token : tokens_) {
    token = static_cast<int32_t>(random() % static_cast<uint32_t>(model_->config.vocabulary));
  }
  if (rows.prompt) {
    add_sequence(0, 0, rows.rows, 0, RowRole::kPrompt);
  } else {
    for (int64_t i = 0; i < rows.rows; ++i) add_sequence(i, i, 1, position_of(i, context), RowRole::kGenerated);
  }
  for (size_t i = 0; i < kv_.size(); ++i) kv_[i].pages = pages_[i].data();
  StepBatch batch;
  batch.tokens = tokens_;
  batch.kv = kv_;
  batch.gdn = gdn_;
  batch.sequences = sequences_;
  batch.sampled = sampled_;
  batch.requests = requests_;
  PackedExecutor::Mailbox& mailbox = executor_->mailboxes_[0];  // no step: what is timed runs again and again
  executor_->fill_tables(batch, &mailbox);
  model_->stream.copy_in(executor_->tables_, mailbox.tables.data(), executor_->tables_used_);
  executor_->run_body();
  return model_->stream.wait();
}

void PackedProfile::run(const Operation& operation, bool head) {
  PackedExecutor::Rows rows{executor_->step_.token_count, nullptr, nullptr, nullptr};
  if (head) {
    rows = {static_cast<int64_t>(sampled_.size()), executor_->step_.sampled, executor_->step_.sample,
            executor_->tokens_};
  }
  std::visit([&](const auto& op) { executor_->execute(op, rows); }, operation);
}

// Fresh rows: what operations add to them would make all rows alike in time.
void PackedProfile::embed() {
  for (const Operation& operation : model_->program.body) {
    if (std::holds_alternative<EmbedOp>(operation)) run(operation, false);
  }
}

Result<double> PackedProfile::best_micros(const Job& job) {
  device::Stream& stream = model_->stream;
  stream.begin_graph();
  job();
  WEIR_ASSIGN_OR_RETURN(const device::Graph graph, stream.end_graph());
  double best = 0;
  for (int i = 0; i < kRuns; ++i) {
    embed();
    read_all({model_->device.get(), &stream}, other_.data(), kOtherBytes);
    stream.record(&begin_);
    stream.replay(graph);
    stream.record(&end_);
    WEIR_RETURN_IF_ERROR(end_.wait());
    const double micros = end_.micros_since(begin_);
    if (i == 0 || micros < best) best = micros;
  }
  return best;
}

// The first layer's kernels one by one, the best of several runs each.
Result<std::vector<UnitTime::Kernel>> PackedProfile::kernel_micros(const GpuUnit& unit) {
  device::Stream& stream = model_->stream;
  std::vector<UnitTime::Kernel> best;
  for (int i = 0; i < kRuns; ++i) {
    std::vector<std::string_view> names;
    std::vector<device::Event> moments;
    embed();
    // The launches are enqueued while this reads.
    read_all({model_->device.get(), &stream}, other_.data(), kOtherBytes);
    stream.record(&begin_);
    stream.note_launches(&names);
    stream.note_moments(&moments);
    for (const Operation* operation : unit.parts.front()) run(*operation, unit.head);
    stream.note_launches(nullptr);
    stream.note_moments(nullptr);
    if (moments.empty()) return best;
    WEIR_RETURN_IF_ERROR(moments.back().wait());
    std::vector<UnitTime::Kernel> kernels;
    for (size_t n = 0; n < names.size(); ++n) {
      const double micros = moments[n].micros_since(n == 0 ? begin_ : moments[n - 1]);
      const auto same = std::find_if(kernels.begin(), kernels.end(),
                                     [&](const UnitTime::Kernel& kernel) { return kernel.name == names[n]; });
      if (same != kernels.end()) {
        same->micros += micros;
      } else {
        kernels.push_back({names[n], micros});
      }
    }
    if (i == 0) best = kernels;
    for (size_t n = 0; n < best.size(); ++n) best[n].micros = std::min(best[n].micros, kernels[n].micros);
  }
  return best;
}

Result<UnitTime> PackedProfile::time(const GpuUnit& unit) {
  const auto layers = static_cast<int64_t>(unit.parts.size());
  const int64_t times = (kCallsMin + layers - 1) / layers;
  std::vector<std::string_view> names;
  const Job job = [&] {
    model_->stream.note_launches(&names);
    for (int64_t i = 0; i < times; ++i) {
      for (const GpuUnit::Part& part : unit.parts) {
        for (const Operation* operation : part) run(*operation, unit.head);
        model_->stream.note_launches(nullptr);
      }
    }
  };
  WEIR_ASSIGN_OR_RETURN(const double micros, best_micros(job));
  UnitTime time;
  time.micros = micros / static_cast<double>(times * layers);
  constexpr std::string_view kPrefix = "weir_";
  for (const std::string_view name : names) {
    if (!time.kernels.empty()) time.kernels += ", ";
    time.kernels += name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : name;
  }
  if (sequences_.front().role == RowRole::kPrompt || static_cast<int64_t>(tokens_.size()) > kFewRows) {
    WEIR_ASSIGN_OR_RETURN(time.parts, kernel_micros(unit));
  }
  return time;
}

Result<double> PackedProfile::time_step() {
  return best_micros([&] {
    executor_->run_body();
    executor_->run_head(0, static_cast<int64_t>(sampled_.size()));
  });
}

Result<double> PackedProfile::distinct_experts() {
  const ModelConfig& config = model_->config;
  const auto rows = static_cast<int64_t>(tokens_.size());
  const int64_t width = config.experts + (config.shared_width > 0 ? 1 : 0);
  std::vector<float> logits(static_cast<size_t>(rows * width));
  std::vector<int32_t> order(static_cast<size_t>(config.experts));
  int64_t layers = 0;
  int64_t distinct = 0;
  for (const Operation& operation : model_->program.body) {
    run(operation, false);
    if (!config.moe() || !std::holds_alternative<FeedForwardOp>(operation)) continue;
    model_->stream.copy_out(logits.data(), reinterpret_cast<const std::byte*>(executor_->router_),
                            rows * width * static_cast<int64_t>(sizeof(float)));
    WEIR_RETURN_IF_ERROR(model_->stream.wait());
    std::vector<bool> chosen(static_cast<size_t>(config.experts));
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = logits.data() + r * width;
      for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
      std::partial_sort(order.begin(), order.begin() + config.experts_per_token, order.end(),
                        [&](int32_t a, int32_t b) { return row[a] > row[b] || (row[a] == row[b] && a < b); });
      for (int64_t i = 0; i < config.experts_per_token; ++i) {
        chosen[static_cast<size_t>(order[static_cast<size_t>(i)])] = true;
      }
    }
    ++layers;
    distinct += std::count(chosen.begin(), chosen.end(), true);
  }
  return layers == 0 ? 0.0 : static_cast<double>(distinct) / static_cast<double>(layers);
}

}  // namespace weir
