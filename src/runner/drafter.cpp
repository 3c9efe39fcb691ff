#include "runner/drafter.h"

#include "runner/host_drafter.h"

namespace weir {

Error no_draft_head() {
  return {ErrorCode::kUnsupported, "this checkpoint has no multi-token prediction head",
          "leave out --num-speculative-tokens and --speculative-config, or use a checkpoint with mtp.* tensors"};
}

Error drafts_elsewhere(const std::string& device) {
  return {ErrorCode::kUnsupported,
          fmt::format("{}: no drafts for a model of these shapes, which its plain kernels run", device),
          "leave out --num-speculative-tokens and --speculative-config, or give --device cpu"};
}

Result<std::unique_ptr<Drafter>> Model::make_drafter(Caches* caches, Executor* main, const RunnerLimits& limits) {
  return HostDrafter::create(this, caches, main, limits);
}

Result<std::unique_ptr<Drafter>> Drafter::create(Model* model, Caches* caches, Executor* main,
                                                 const RunnerLimits& limits) {
  if (limits.drafts_max < 0 || limits.drafts_max > kDraftsMax) {
    return with_remedy(make_error(ErrorCode::kInvalidArgument, "{} drafts a step", limits.drafts_max),
                       fmt::format("give 0 to {}", kDraftsMax));
  }
  if (!model->has_draft_head()) return no_draft_head();
  if (!model->can_draft()) return drafts_elsewhere(model->device_text());
  return model->make_drafter(caches, main, limits);
}

}  // namespace weir
