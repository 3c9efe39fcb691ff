// The operations of a program as a GPU runs them, layers of one shape counted together: what `weir plan` prints and
// PackedProfile times. A pure function of shapes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/config.h"
#include "models/program.h"
#include "models/weights.h"
#include "runner/cost.h"

namespace weir {

// The rows of a step: one generated row for each of `rows` sequences, or a prompt's.
struct UnitRows {
  int64_t rows = 1;
  bool prompt = false;
  friend bool operator==(const UnitRows&, const UnitRows&) = default;
};

struct GpuUnit {
  // One layer's operations: norms that are left to the operation behind them, and that one.
  using Part = std::vector<const Operation*>;

  std::string operation;
  std::string what;    // weights and shape
  std::string format;  // stored format of the weights
  std::string kernel;  // or kernels, in the order of their launch: the beginnings of their names
  bool head = false;   // over the sampled rows
  std::vector<int32_t> layers;
  std::vector<Part> parts;  // of each layer; points into the program
  StepCost cost;            // of one layer
};

// Whether these kernels were launched, each of a planned kind and every kind. Lists: "linear_few, few_experts".
bool kernels_match(std::string_view planned, std::string_view launched);

// Bytes of a key's or value's element in the layout that the model takes on a GPU.
int64_t gpu_kv_value_bytes(const ModelConfig& config);

// `weights`: shapes alone are read. The program must outlive the units.
std::vector<GpuUnit> gpu_units(const Program& program, const ModelConfig& config, const ModelWeights& weights,
                               const UnitRows& rows);

}  // namespace weir
