// The two plain values that pass between the halves. StepPlan goes down: edits to the batch table, then which sequences
// compute how many tokens. StepResult comes up: the tokens. Neither knows what a page or a slot holds.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/ids.h"
#include "plan/sampling.h"

namespace weir {

enum class EditKind : uint8_t {
  kLeave,         // row: free it; later edits may reuse the row, its pages and its slot
  kJoin,          // row, state (zeroed), prompt_length, sampling = plan.sampling[first]
  kAppendPages,   // row, page_class, plan.pages[first, first + count) appended to the row's table of that class
  kCopyPage,      // row (who will write it), page_class, page plan.pages[first] copied to plan.pages[first + 1]
  kSaveState,     // the row's state behind its first `position` tokens -> slot `state`, see below
  kRestoreState,  // slot `state` (invalid: the model has none) -> row's live state; the row continues at `position`;
                  // plan.tokens[first, first + count) are the tokens before it, if the row's sampling has penalties
};

// Applied in order before the step's work. Rows are stable: a row keeps its index from join to leave.
// A state is saved when the row has computed `position` tokens: at once, or before the edits of the first plan after
// the step that brings it there; so a save may be ordered with that step or long before. A row has one save open at
// most; it is dropped when the row leaves or has stopped before it gets there. The end of a prompt's chunk, or accepted
// drafts, may have brought the row past `position` when it is saved: the slot still allows going on at `position`
// exactly, which is at most kRollbackTokens back and not before the last grid point that a token has been computed at
// or behind. Of drafts that is always so for a save ordered before the step that reaches `position`: only a step's
// token and first draft go over the grid.
struct Edit {
  EditKind kind = EditKind::kLeave;
  RowId row;
  StateSlotId state;
  PageClassId page_class;
  int32_t first = 0;
  int32_t count = 0;
  int64_t prompt_length = 0;  // kJoin: tokens [0, prompt_length) are prompt, the rest were generated
  int64_t position = 0;       // kSaveState, kRestoreState
};

// A row's numeric family follows its role, never the make-up or size of the step.
enum class RowRole : uint8_t { kPrompt, kGenerated };

// Tokens [position, position + token_count) of one sequence.
// `first_token` >= 0: they are plan.tokens[first_token ..): prompt, or generated tokens being recomputed.
// `first_token` == -1: token_count is 1 and the token is the one that the row sampled last, known to the runner alone;
// `position` is then an upper bound and the row's own cursor decides.
//
// Drafts (RunnerLimits::drafts_max > 0). The runner proposes up to `propose_count` drafts for a row at the end of a
// step that samples, and holds them for the row's next work. That work, if it is the sampled token (first_token == -1),
// computes the token and the first min(draft_count, drafts held) drafts behind it; the target's own token is sampled at
// each of these rows, and a draft is accepted if it is the token sampled before it. The tokens yielded are those of
// steps without drafts, to the bit, whatever was proposed. The runner verifies fewer where a draft's row beyond the
// first would stand on the grid (going back over it is impossible), behind max_tokens, the context or the row's pages.
// A step moves the row by 1 to 1 + draft_count tokens, so the next may be planned before it is known by how many.
// Pages of both classes must cover the item's token_count tokens, and should cover draft_count more, or fewer are
// verified. Those of "draft kv" should also cover the token sampled last, or nothing is proposed in this step, and one
// more for each draft but the first that is to be proposed. A page of "draft kv" holds for each of its tokens t but
// token 0 what the draft head makes of the token and the hidden row of t - 1: it depends on the tokens up to its end
// alone and is shared like one of "kv". Every step keeps it right, whether drafts are asked for or not.
//
// A work item never spans prompt and generated tokens. A row appears at most once in a step.
// If the row wants prompt log-probabilities and the prompt goes on behind this item, the next prompt token follows in
// plan.tokens at first_token + token_count: the last row's log-probability is about it.
struct SequenceWork {
  RowId row;
  RowRole role = RowRole::kPrompt;
  bool sample = false;  // sample a token from the last row's logits
  int32_t token_count = 0;
  int32_t draft_count = 0;    // drafts to verify behind the token (upper bound)
  int32_t propose_count = 0;  // drafts to propose for the row's next step (upper bound)
  int32_t first_token = -1;
  int64_t position = 0;
};

struct StepPlan {
  StepId id = 0;
  std::vector<Edit> edits;
  std::vector<SequenceWork> work;
  std::vector<TokenId> tokens;
  std::vector<PageId> pages;
  std::vector<SamplingParams> sampling;

  // Empties the plan and keeps its memory.
  void clear();
  // Tokens computed by the step, drafts included (upper bound).
  int64_t token_total() const;
};

struct TokenLogprob {
  TokenId token = 0;
  float logprob = 0.0F;  // raw: before temperature and penalties
  int32_t rank = 0;      // 1: the likeliest
};

enum class StopReason : uint8_t {
  kNone,
  kStopId,     // the last token is one of stop_ids
  kLength,     // the last token is the max_tokens-th
  kNotFinite,  // a row of logits has a NaN or an infinity: nothing of this item holds, and the sequence ends
};

// Log-probabilities of one token: of the token itself, then of the likeliest `top_count` ids, likeliest first, both in
// StepResult::logprobs[first ..].
struct LogprobRow {
  int32_t first = 0;
  int32_t top_count = 0;
};

// What one work item yielded. A row that had already stopped on the device yields nothing: token_count 0.
struct SequenceResult {
  RowId row;
  StopReason stop = StopReason::kNone;
  int32_t token_count = 0;       // tokens sampled, 0 or 1 + accepted drafts; none behind the one that ends the sequence
  int32_t drafted_count = 0;     // drafts computed behind the token
  int32_t first_token = 0;       // into StepResult::tokens
  int32_t first_row = 0;         // into StepResult::rows: token_count rows, if logprobs were asked for
  int32_t prompt_first_row = 0;  // into StepResult::rows
  int32_t prompt_row_count = 0;  // prompt log-probabilities: of the prompt tokens after each row of this chunk
};

struct StepResult {
  StepId id = 0;
  std::vector<SequenceResult> sequences;  // as StepPlan::work
  std::vector<TokenId> tokens;
  std::vector<LogprobRow> rows;
  std::vector<TokenLogprob> logprobs;
  std::string fault;  // not empty: the rank stopped, with operation and step; nothing else holds

  void clear();
};

}  // namespace weir
