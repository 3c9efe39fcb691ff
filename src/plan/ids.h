// The numbered things that the deciding half hands to the computing half.
#pragma once

#include <array>
#include <cstdint>

#include "base/id.h"

namespace weir {

// A vocabulary id. Plain, because token lists are data, not handles.
using TokenId = int32_t;

using RowId = Id<struct RowTag>;              // a stable row of the runner's batch table: one live sequence
using StateSlotId = Id<struct StateSlotTag>;  // a recurrent-state slot (live or checkpoint)
using PageId = Id<struct PageTag>;            // a page within its class
using PageClassId = Id<struct PageClassTag>;  // an index into CacheLayout::classes

// The engine's name for one sequence; never reused within a process.
using SequenceId = uint64_t;
using StepId = uint64_t;

// Separates tenants: what sequences of different salts have computed is never shared. Zeros: no salt.
using CacheSalt = std::array<uint64_t, 4>;

}  // namespace weir
