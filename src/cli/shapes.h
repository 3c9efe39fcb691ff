// The shapes of a model's weights, for commands that count bytes and multiply-adds: headers are read, or config.json
// alone for dummy weights.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "cli/flags.h"
#include "models/config.h"
#include "models/weights.h"
#include "weights/checkpoint.h"

namespace weir {

struct ModelShapes {
  std::unique_ptr<Checkpoint> checkpoint;  // what `weights` point into; null for dummy weights
  ModelWeights weights;                    // with --draft-vocabulary's head, whose ids are counted without a tokenizer
  int64_t stored_bytes = 0;

  int64_t draft_ids() const { return weights.mtp ? static_cast<int64_t>(weights.mtp->head_ids.size()) : 0; }
};

Result<ModelShapes> model_shapes(const Options& options, const std::filesystem::path& folder,
                                 const ModelConfig& config);

}  // namespace weir
