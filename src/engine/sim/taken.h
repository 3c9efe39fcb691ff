// What a plan takes of the caches, and so what it may evict: a block for the page that someone takes in its place, or
// with its state for the slot. Whatever a cache does beyond that is a storm.
#pragma once

#include <cstdint>

#include "plan/layout.h"
#include "plan/step.h"

namespace weir::sim {

struct Taken {
  int64_t pages = 0;  // of the first class: new to a row, or copies
  int64_t slots = 0;
  int64_t saves = 0;  // of the slots
  // A unit of `pages_a_slot` pages that is to become a slot costs as many blocks again as pages are taken, and those of
  // one unit beside. 0: there are no such units.
  int64_t evictions_max(int64_t pages_a_slot) const {
    return pages_a_slot > 0 ? 2 * pages + slots + pages_a_slot : pages + slots;
  }
};

inline Taken taken_by(const StepPlan& plan) {
  Taken taken;
  for (const Edit& edit : plan.edits) {
    const bool first_class = edit.page_class == PageClassId(0);
    taken.pages += edit.kind == EditKind::kAppendPages && first_class ? edit.count : 0;
    taken.pages += edit.kind == EditKind::kCopyPage && first_class ? 1 : 0;
    taken.pages -= edit.kind == EditKind::kRestoreState ? edit.position / kGridTokens : 0;  // taken over, not taken
    taken.slots += edit.kind == EditKind::kJoin || edit.kind == EditKind::kSaveState ? 1 : 0;
    taken.saves += edit.kind == EditKind::kSaveState ? 1 : 0;
  }
  return taken;
}

}  // namespace weir::sim
