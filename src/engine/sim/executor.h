// Executes plans on a model of the device's memory and checks each against the rules of plan/step.h: pages are arrays
// of what was written at each position, a state slot is a running hash. Rows carry the sequence's id as sampling.seed
// and its tenant as sampling.min_p, which the script does not use otherwise.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "plan/layout.h"
#include "plan/step.h"

namespace weir::sim {

struct DeviceRow {
  bool live = false;
  bool stopped = false;
  uint64_t id = 0;  // sampling.seed
  int64_t position = 0;
  int64_t prompt_length = 0;
  TokenId last_token = -1;      // sampled, not computed yet
  std::vector<TokenId> drafts;  // proposed for what follows last_token
  int32_t sampled = 0;          // in this residency
  StateSlotId slot;
  StateSlotId save_to;  // valid: a save is open
  int64_t save_position = 0;
  SamplingParams sampling;
  std::vector<std::vector<PageId>> pages;  // per class
};

class Executor {
 public:
  Executor(const CacheLayout& layout, const RunnerLimits& limits);

  const RunnerLimits& limits() const { return limits_; }
  // Executes one plan. What breaks a rule is added to violations().
  void execute(const StepPlan& plan, StepResult* result);

  const std::vector<DeviceRow>& rows() const { return rows_; }
  const std::vector<std::string>& violations() const { return violations_; }
  int64_t overshoots() const { return overshoots_; }
  // Verified items by how many drafts they accepted and whether more had been there: [accepted][rejected one].
  const std::array<std::array<int64_t, 2>, kDraftsMax + 1>& accepted() const { return accepted_; }

 private:
  struct Cell {
    TokenId token = -1;
    int64_t position = -1;
    float tenant = 0;
  };
  struct Class {
    int32_t tokens_per_page = 0;
    std::vector<int32_t> tables;  // per page: rows that have it
    std::vector<Cell> cells;      // [pages][tokens_per_page]
  };
  struct Slot {
    int32_t owner = -1;               // the row whose live state it is; -1: free, or kept
    std::vector<uint64_t> histories;  // behind each number of tokens, the last its own: rejected drafts go back
    int64_t count() const { return static_cast<int64_t>(histories.size()) - 1; }
  };

  template <class... Args>
  void violate(const StepPlan& plan, const char* format, Args... args);
  void apply(const StepPlan& plan, const Edit& edit);
  void join(const StepPlan& plan, const Edit& edit);
  void leave(DeviceRow* row, int32_t index);
  void append(const StepPlan& plan, const Edit& edit);
  void copy(const StepPlan& plan, const Edit& edit);
  void order_save(const StepPlan& plan, const Edit& edit);
  void save(const StepPlan& plan, DeviceRow* row);
  void restore(const StepPlan& plan, const Edit& edit);
  // Where pages and slots share their memory: what is written takes the other's place, and nobody may still use it.
  void take_pages_of(const StepPlan& plan, StateSlotId slot);
  void take_slot_of(const StepPlan& plan, PageId page);
  bool is_slot(StateSlotId slot) const { return slot.valid() && slot.index() < slots_.size(); }
  bool work_is_sound(const StepPlan& plan, const SequenceWork& work);
  void compute(const StepPlan& plan, const SequenceWork& work, StepResult* result, SequenceResult* yielded);
  // Samples behind the row's last token; whether the sequence goes on.
  bool sample(const StepPlan& plan, DeviceRow* row, StepResult* result, SequenceResult* yielded);
  void verify(const StepPlan& plan, const SequenceWork& work, DeviceRow* row, StepResult* result,
              SequenceResult* yielded);
  void propose(const StepPlan& plan, DeviceRow* row, int32_t count);
  void write(const StepPlan& plan, DeviceRow* row, TokenId token);
  void go_back(DeviceRow* row, int64_t position);
  uint64_t read_history(const StepPlan& plan, const DeviceRow& row);
  void add_row(StepResult* result, uint64_t history, TokenId token, int32_t top_count);

  CacheLayout layout_;
  RunnerLimits limits_;
  std::vector<DeviceRow> rows_;
  std::vector<Class> classes_;
  std::vector<Slot> slots_;
  std::vector<std::string> violations_;
  std::vector<uint8_t> seen_;
  int64_t overshoots_ = 0;
  std::array<std::array<int64_t, 2>, kDraftsMax + 1> accepted_{};
};

}  // namespace weir::sim
