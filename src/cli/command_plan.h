// What the plans of a CPU and of a GPU share.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/flags.h"
#include "cli/loading.h"
#include "cli/shapes.h"

namespace weir {

// "3", "30 of 0..38", "draft", "-".
std::string layer_text(const std::vector<int32_t>& layers);
void print_memory(const MemoryPlan& memory);
nlohmann::ordered_json memory_json(const MemoryPlan& memory);

// --device cuda.
Status plan_gpu(const Options& options, const ModelConfig& config, const ModelShapes& shapes);

}  // namespace weir
