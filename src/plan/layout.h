// What the caches of a model are made of, as sizes: the deciding half counts pages and slots and never looks inside.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace weir {

// The recurrent state is carried on absolute multiples of this many tokens, and pages hold as many: a page boundary is
// a grid point, so a checkpoint on the grid never splits a page.
inline constexpr int32_t kGridTokens = 64;

// Pages of so many tokens.
inline constexpr int64_t pages_of(int64_t tokens) {
  return (tokens + kGridTokens - 1) / kGridTokens;
}

// Tokens that a row can be taken back at most, to a place that is not before the last grid point that a token has been
// computed at or behind.
inline constexpr int32_t kRollbackTokens = 13;

// One class of page: KV of the attention layers, KV of the draft head, ...
struct PageClass {
  std::string name;
  int64_t bytes_per_page = 0;
  int32_t tokens_per_page = kGridTokens;
};

inline constexpr size_t kPageClassesMax = 4;

// Drafts of one step at most: with the token before them eight rows, which the kernels of few rows take at once.
inline constexpr int32_t kDraftsMax = 7;

// Sizes of one model's caches. At most kPageClassesMax classes. A model without recurrent layers has state_slot_bytes
// == 0 and needs no slots, unless drafts are made.
struct CacheLayout {
  std::vector<PageClass> classes;
  int64_t state_slot_bytes = 0;
  int64_t hidden_ring_bytes = 0;  // of the slot, its end: the hidden rows that the draft head goes on from
  // Above 0: pages and slots share their memory, in units of one slot or so many pages of every class. Page p of any
  // class and slot p / pages_a_slot are never in use together, and RunnerLimits has as many slots as units and
  // pages_a_slot times as many pages. 0: each has memory of its own.
  int32_t pages_a_slot = 0;
};

// The named maxima that memory is reserved for at start.
struct RunnerLimits {
  int32_t rows_max = 0;             // live sequences (--max-num-seqs)
  int32_t step_tokens_max = 0;      // tokens computed in one step (--max-num-batched-tokens)
  int32_t state_slots = 0;          // recurrent-state slots
  std::vector<int32_t> pages;       // pages per class, as CacheLayout::classes
  int64_t sequence_tokens_max = 0;  // context length (--max-model-len)
  int32_t vocabulary = 0;           // ids that may be sampled
  int32_t steps_in_flight = 2;      // plans submitted and not yet polled
  int32_t drafts_max = 0;           // drafts of a row in one step, [0, kDraftsMax]; 0: the draft head is not run
  // Benchmarks: of 2^32, how likely a draft is accepted whatever it is; -1: it is accepted if it is the token sampled.
  int64_t pinned_acceptance = -1;
};

// Where pages and slots share their memory, units that are never opened for pages, so that every row can have a slot
// and some states are kept whatever the rows ask for: an eighth, and at least those that one row's saves can hold.
inline constexpr int32_t slots_withheld(const RunnerLimits& limits) {
  return limits.rows_max + std::max(limits.state_slots / 8, limits.steps_in_flight + 1);
}

// Pages of a class that one sequence can have when it is alone.
inline int32_t pages_alone_max(const CacheLayout& layout, const RunnerLimits& limits, size_t page_class) {
  if (layout.pages_a_slot == 0) return limits.pages[page_class];
  return std::max(0, limits.state_slots - slots_withheld(limits)) * layout.pages_a_slot;
}

}  // namespace weir
