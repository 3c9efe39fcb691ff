// weir plan --device cuda: the kernels of a step of one row, of the most sequences and of a prompt's chunk. Needs no
// GPU: without one, memory is planned for the GPU that the kernels are compiled for.
#include <fmt/format.h>

#include <algorithm>

#include "cli/command_plan.h"
#include "runner/gpu_model.h"
#include "runner/gpu_units.h"

namespace weir {
namespace {

using Json = nlohmann::ordered_json;

// An NVIDIA H200: memory that its driver shows, the rate at which a kernel that only reads reads it, and its data
// sheet's BF16 rate.
constexpr int64_t kMemoryBytes = int64_t{143'771} << 20;
constexpr double kReadGbs = 4560;
constexpr double kSheetTflops = 990;
constexpr int64_t kContext = 10'000;  // of the sequences that decode

struct PlanRow {
  std::string program;
  UnitRows rows;
  GpuUnit unit;
  double bytes = 0;  // of one layer
  double floor_us = 0;
};

PlanRow plan_row(std::string program, const UnitRows& rows, GpuUnit unit, int64_t context) {
  PlanRow row{std::move(program), rows, std::move(unit)};
  StepCost cost = row.unit.cost;
  if (rows.prompt) cost.state_bytes = cost.context_bytes = 0;  // weights alone: the rest is bound by arithmetic
  row.bytes = cost.bytes(rows.rows, context);
  row.floor_us = row.bytes / kReadGbs / 1e3;
  if (rows.prompt) row.floor_us = std::max(row.floor_us, 2 * cost.prompt_macs(rows.rows) / kSheetTflops / 1e6);
  return row;
}

// The backbone's operations of each kind of step together; the draft head's are not part of a step.
void print_steps(const std::vector<PlanRow>& rows) {
  fmt::print("\n");
  for (size_t at = 0; at < rows.size() && rows[at].program == rows.front().program;) {
    const UnitRows of = rows[at].rows;
    double bytes = 0;
    double floor_us = 0;
    for (; at < rows.size() && rows[at].program == rows.front().program && rows[at].rows == of; ++at) {
      bytes += rows[at].bytes * static_cast<double>(rows[at].unit.layers.size());
      floor_us += rows[at].floor_us * static_cast<double>(rows[at].unit.layers.size());
    }
    fmt::print("a step of {} rows{}: {:.3f} GB{}, at least {:.3f} ms\n", of.rows, of.prompt ? " of a prompt" : "",
               bytes / 1e9, of.prompt ? " of weights" : "", floor_us / 1e3);
  }
}

void print_text(const std::vector<PlanRow>& rows, const MemoryPlan& memory, const ModelConfig& config,
                int64_t context) {
  fmt::print("{:<7} {:>6} {:<13} {:<12} {:<46} {:<12} {:>10} {:>9}  {}\n", "program", "rows", "operation", "layers",
             "weight and shape", "stored as", "MB each", "floor us", "kernels");
  for (const PlanRow& row : rows) {
    fmt::print("{:<7} {:>6} {:<13} {:<12} {:<46} {:<12} {:>10.3f} {:>9.2f}  {}\n", row.program,
               fmt::format("{}{}", row.rows.prompt ? "p " : "", row.rows.rows), row.unit.operation,
               layer_text(row.unit.layers), row.unit.what, row.unit.format, row.bytes / 1e6, row.floor_us,
               row.unit.kernel);
  }
  print_steps(rows);
  fmt::print("rows: one of each sequence at {} tokens of context; p: of one prompt\n", context);
  fmt::print("floor: one read at the {:.0f} GB/s that a kernel gets from an H200's memory; of a prompt, if more, its\n",
             kReadGbs);
  fmt::print("  arithmetic at the data sheet's {:.0f} TFLOP/s (BF16)\n", kSheetTflops);
  fmt::print("kernels are chosen by shape (heuristic: there is no table of tuned choices)\n");
  const Status takes = packed_takes(config);
  if (!takes.ok()) {
    fmt::print("plain float32 kernels, which are far from these floors: the fast ones do not take {}\n",
               takes.error().message);
  }
  print_memory(memory);
}

void print_json(const std::vector<PlanRow>& rows, const MemoryPlan& memory, int64_t context,
                const std::string& device) {
  Json out;
  for (const PlanRow& row : rows) {
    out["operations"].push_back({{"program", row.program},
                                 {"rows", row.rows.rows},
                                 {"prompt", row.rows.prompt},
                                 {"operation", row.unit.operation},
                                 {"what", row.unit.what},
                                 {"stored_as", row.unit.format},
                                 {"kernel", row.unit.kernel},
                                 {"chosen", "heuristic"},
                                 {"bytes", row.bytes},
                                 {"floor_us", row.floor_us},
                                 {"layers", row.unit.layers}});
  }
  out["context"] = context;
  out["device"] = device;
  out["read_gbs"] = kReadGbs;
  out["memory"] = memory_json(memory);
  fmt::print("{}\n", out.dump(1));
}

}  // namespace

Status plan_gpu(const Options& options, const ModelConfig& config, const ModelShapes& shapes) {
  const Result<int64_t> there = free_bytes_of(options);
  if (!there.ok() && there.error().code == ErrorCode::kInvalidArgument) return there.error();
  const int64_t free_bytes = there.ok() ? *there : kMemoryBytes;
  WEIR_ASSIGN_OR_RETURN(const MemoryPlan memory,
                        plan_memory(options, config, shapes.stored_bytes, static_cast<int32_t>(config.vocabulary),
                                    shapes.draft_ids(), free_bytes));
  if (memory.limits.drafts_max > 0 && !shapes.weights.mtp) return no_draft_head();
  if (memory.limits.drafts_max > 0 && !packed_takes(config).ok()) return drafts_elsewhere(options.device);
  const int64_t context = std::min(kContext, memory.limits.sequence_tokens_max - 1);
  std::vector<UnitRows> classes = {{1, false}};
  if (memory.limits.rows_max > 1) classes.push_back({memory.limits.rows_max, false});
  classes.push_back({memory.limits.step_tokens_max, true});
  std::vector<Program> programs = {make_main_program(config, gpu_cache_sizes(config))};
  if (shapes.weights.mtp) programs.push_back(make_draft_program(config, shapes.draft_ids()));
  std::vector<PlanRow> rows;
  for (const Program& program : programs) {
    for (const UnitRows& of : classes) {
      for (GpuUnit& unit : gpu_units(program, config, shapes.weights, of)) {
        rows.push_back(plan_row(program.name, of, std::move(unit), context));
      }
    }
  }
  if (options.json) {
    print_json(rows, memory, context, there.ok() ? options.device : "planned for an H200: none is here");
    return Ok{};
  }
  print_text(rows, memory, config, context);
  if (!there.ok()) {
    fmt::print("no GPU here: planned for an H200 ({})\n", there.error().text());
  }
  return Ok{};
}

}  // namespace weir
