// For kernel files: where a ring of slots in shared memory goes on.
#pragma once

#include "device/kernel.h"

namespace weir {

// Counts through the slots of a ring; the phase of a slot's barriers flips with each round.
struct RingPlace {
  int slot = 0;
  uint32_t phase = 0;
  WEIR_DEVICE void advance(int slots) {
    if (++slot == slots) {
      slot = 0;
      phase ^= 1U;
    }
  }
};

}  // namespace weir
