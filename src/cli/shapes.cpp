#include "cli/shapes.h"

#include "cli/loading.h"
#include "models/draft_head.h"

namespace weir {

Result<ModelShapes> model_shapes(const Options& options, const std::filesystem::path& folder,
                                 const ModelConfig& config) {
  ModelShapes shapes;
  if (options.load_format == "dummy") {
    WEIR_ASSIGN_OR_RETURN(shapes.weights, dummy_shapes(config, dummy_format(options)));
    shapes.stored_bytes = shapes.weights.total_bytes;
  } else {
    WEIR_ASSIGN_OR_RETURN(shapes.checkpoint, Checkpoint::open(folder.string()));
    WEIR_ASSIGN_OR_RETURN(shapes.weights, load_weights(config, *shapes.checkpoint));
    shapes.stored_bytes = shapes.checkpoint->total_bytes();
  }
  std::vector<TokenId> ids = draft_vocabulary(options, config, nullptr);
  if (!ids.empty() && shapes.weights.mtp) add_draft_head(&shapes.weights, std::move(ids), nullptr);
  return shapes;
}

}  // namespace weir
