// Which pages and which state slot every live row holds. Knows numbers and sizes, never contents.
//
// Two steps are in flight and a page given back here may still be read by them. It may be taken again at once all the
// same: the runner executes plans in order, and whoever takes the page writes it in a later plan.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/id_pool.h"
#include "plan/ids.h"
#include "plan/layout.h"
#include "plan/step.h"

namespace weir {

class SequenceCache {
 public:
  SequenceCache(const CacheLayout& layout, const RunnerLimits& limits);

  // Tokens that one sequence can have pages for when it is alone.
  int64_t tokens_alone_max() const;
  // Whether one more row with `token_count` tokens fits, leaving `headroom` pages of every class free.
  bool fits(int64_t token_count, int32_t headroom) const;

  // Gives the row a state slot (invalid if the model has none). The slot must be free: see slot_free().
  StateSlotId join(RowId row);
  bool slot_free() const { return !has_slots_ || slots_.free() > 0; }
  // Appends the pages that tokens [0, token_count) of the row lack, and the edits that say so to `plan`. All classes or
  // nothing: false if a class has too few free pages.
  bool grow(RowId row, int64_t token_count, StepPlan* plan);
  // Gives back everything that the row holds.
  void leave(RowId row);

  int64_t pages_total() const;
  int64_t pages_used() const;
  int32_t slots_total() const { return has_slots_ ? slots_.total() : 0; }
  int32_t slots_used() const { return has_slots_ ? slots_.used() : 0; }

 private:
  struct Class {
    int32_t tokens_per_page = 0;
    IdPool<PageId> pool;
    std::vector<std::vector<PageId>> tables;  // per row, reserved for the longest sequence
  };

  static int64_t pages_for(const Class& pages, int64_t token_count) {
    return (token_count + pages.tokens_per_page - 1) / pages.tokens_per_page;
  }

  std::vector<Class> classes_;
  bool has_slots_;
  IdPool<StateSlotId> slots_;
  std::vector<StateSlotId> row_slots_;
};

}  // namespace weir
