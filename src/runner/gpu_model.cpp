#include "runner/gpu_model.h"

#include <algorithm>
#include <utility>

#include "ops/attention/attention_paged_args.h"
#include "ops/gdn/gdn_chunks_gpu.h"
#include "ops/gdn/gdn_gpu.h"
#include "ops/moe/gpu_args.h"
#include "ops/moe/moe_prompt_gpu.h"
#include "runner/cpu_weights.h"
#include "runner/packed_drafter.h"

namespace weir {
namespace {

Result<GpuRope> upload(const RopeTable& table, device::Device* device, device::Stream* stream) {
  GpuRope rope;
  static_assert(sizeof(RopeTable::Turn) == 2 * sizeof(double));
  const auto coarse = static_cast<int64_t>(table.coarse().size_bytes());
  const auto fine = static_cast<int64_t>(table.fine().size_bytes());
  WEIR_ASSIGN_OR_RETURN(rope.memory, device->allocate(coarse + fine, "rotation tables", "lower --max-model-len"));
  stream->copy_in(rope.memory.data(), table.coarse().data(), coarse);
  stream->copy_in(rope.memory.data() + coarse, table.fine().data(), fine);
  rope.coarse = reinterpret_cast<const double*>(rope.memory.data());
  rope.fine = reinterpret_cast<const double*>(rope.memory.data() + coarse);
  WEIR_RETURN_IF_ERROR(stream->wait());
  return rope;
}

// Shapes that the plain kernels do not take are refused before anything is copied.
Status check_shape(const ModelConfig& config, const device::DeviceInfo& info) {
  const auto refuse = [&](std::string what) {
    return with_remedy(Error{ErrorCode::kUnsupported, std::move(what), {}}, "run this model on the CPU: --device cpu");
  };
  if (config.kv_format == KvFormat::kFp8) return refuse("FP8 pages, which the plain float32 kernels do not take");
  if (config.head_dim > kGpuHeadDimMax) {
    return refuse(
        fmt::format("attention heads of {} values; the GPU's kernels take {}", config.head_dim, kGpuHeadDimMax));
  }
  if (config.moe() && config.experts_per_token > kGpuTopMax) {
    return refuse(fmt::format("{} experts a token; the GPU's kernels take {}", config.experts_per_token, kGpuTopMax));
  }
  if (config.count_layers(LayerKind::kLinear) > 0) {
    GpuGdnArgs args;
    set_shape(gdn_shape(config), &args);
    if (gdn_shared_bytes(args) > info.shared_bytes_max) {
      return refuse(fmt::format("Gated DeltaNet heads that need {} bytes of shared memory; {} has {} a block",
                                gdn_shared_bytes(args), info.name, info.shared_bytes_max));
    }
  }
  return Ok{};
}

}  // namespace

CacheSizes gpu_cache_sizes(const ModelConfig& config) {
  CacheSizes sizes = cpu_cache_sizes(config);
  if (packed_takes(config).ok()) {
    sizes.kv_page_bytes = paged_kv_bytes(config.kv_heads, config.kv_format == KvFormat::kFp8);
  }
  return sizes;
}

int64_t gpu_work_bytes(const ModelConfig& config, const Program& program, int64_t rows, int64_t sequences) {
  int64_t bytes = work_bytes(config, program, rows);
  if (!packed_takes(config).ok()) return bytes;
  const int64_t slots = config.moe() ? config.experts_per_token + (config.shared_width > 0 ? 1 : 0) : 1;
  const int64_t width = config.moe() ? config.expert_width : config.dense_width;
  bytes += moe_prompt_work_bytes(rows, slots, std::max<int64_t>(1, config.experts + 1), config.hidden, width);
  if (program.recurrent()) {
    bytes += gdn_chunks_scratch_bytes(gdn_shape(config), rows, sequences);
  }
  constexpr int64_t kStates = 256 << 20;   // of generated rows' segments
  constexpr int64_t kLoading = 128 << 20;  // parts on their way
  constexpr int64_t kGraphs = 256 << 20;   // recorded decode steps, at about a megabyte each
  return bytes + kStates + kLoading + kGraphs;
}

int64_t gpu_draft_bytes(const ModelConfig& config, const RunnerLimits& limits, int64_t head_rows) {
  return gpu_work_bytes(config, make_draft_program(config, head_rows), draft_rows(limits), limits.rows_max) +
         PackedDrafter::work_bytes(config, limits);
}

Result<std::unique_ptr<GpuModel>> GpuModel::create(std::unique_ptr<device::Device> opened, const ModelConfig& config,
                                                   const ModelWeights& weights, const CpuOptions& host,
                                                   int64_t positions) {
  auto model = std::make_unique<GpuModel>();
  model->packed = packed_takes(config).ok();
  if (!model->packed) WEIR_RETURN_IF_ERROR(check_shape(config, opened->info()));
  model->device = std::move(opened);
  model->config = config;
  model->cpu = std::make_unique<Cpu>(host);
  model->stream = model->device->stream();
  if (weights.mtp) model->draft_ids = weights.mtp->head_ids;
  if (model->packed) {
    WEIR_ASSIGN_OR_RETURN(model->packed_weights,
                          PackedWeights::upload(config, weights, {model->device.get(), &model->stream}));
  } else {
    WEIR_ASSIGN_OR_RETURN(model->weights, GpuWeights::upload(config, weights, model->device.get(), &model->stream));
  }
  WEIR_ASSIGN_OR_RETURN(model->rope, upload(RopeTable(config.rope_dims, config.rope_theta, positions),
                                            model->device.get(), &model->stream));
  model->program = make_main_program(config, gpu_cache_sizes(config));
  return model;
}

Result<std::unique_ptr<Caches>> GpuModel::make_caches(const CacheLayout& layout, const std::vector<int32_t>& pages,
                                                      int32_t slots) {
  WEIR_ASSIGN_OR_RETURN(auto caches, GpuCaches::create(layout, pages, slots, device.get(), &stream));
  return std::unique_ptr<Caches>(std::move(caches));
}

Result<std::unique_ptr<Executor>> GpuModel::make_executor(const Program& of, Caches* caches,
                                                          const ExecutorLimits& limits) {
  const Gpu gpu{device.get(), &stream};
  auto* gpu_caches = static_cast<GpuCaches*>(caches);
  if (packed) {
    WEIR_ASSIGN_OR_RETURN(auto executor,
                          PackedExecutor::create(of, config, packed_weights, rope, gpu, gpu_caches, limits));
    return std::unique_ptr<Executor>(std::move(executor));
  }
  WEIR_ASSIGN_OR_RETURN(auto executor, GpuExecutor::create(of, config, weights, rope, gpu, gpu_caches, limits));
  return std::unique_ptr<Executor>(std::move(executor));
}

Result<std::unique_ptr<Drafter>> GpuModel::make_drafter(Caches* caches, Executor* main, const RunnerLimits& limits) {
  WEIR_CHECK(packed, "drafts by the plain kernels");
  return PackedDrafter::create(config, packed_weights, draft_ids, rope, {device.get(), &stream},
                               static_cast<GpuCaches*>(caches), static_cast<PackedExecutor*>(main), limits);
}

}  // namespace weir
