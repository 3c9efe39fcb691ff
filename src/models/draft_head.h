// A head of the draft pass's own: the rows of a part of the vocabulary, in eight bits. Most of what a draft costs is
// reading the head, and a draft that is wrong, or that this head cannot say, costs no more than a draft: what is
// generated does not depend on it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "models/weights.h"
#include "plan/ids.h"

namespace weir {

// The ids that drafts are drawn among, in ascending order: [0, first), and those of `also` (tokens that a tokenizer has
// beside its merges, the ends of a turn among them), as far as they are under `vocabulary`. Tokenizers number their
// merges by how often they were seen.
std::vector<TokenId> draft_ids(int64_t first, std::span<const TokenId> also, int64_t vocabulary);

// Gives the draft head its own head: row i is row ids[i] of lm_head as block FP8 (tensor/fp8_blocks.h). Without a pool
// the shape alone, with no data behind it. Programmer error: no draft head, or an id that is no row.
void add_draft_head(ModelWeights* weights, std::vector<TokenId> ids, ThreadPool* pool);

// Bytes of such a head, scales included.
int64_t draft_head_bytes(int64_t rows, int64_t hidden);

}  // namespace weir
