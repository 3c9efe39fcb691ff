// The scheduler's other half: how sequences come, and how results and cancellations end them.
#include <algorithm>
#include <memory>
#include <type_traits>

#include "base/planted.h"
#include "sched/scheduler.h"

namespace weir {

// Records are made again for every sequence and never unmade.
static_assert(std::is_trivially_destructible_v<Sequence> && alignof(Sequence) <= alignof(std::max_align_t));

int32_t Scheduler::add(const SequenceRequest& request) {
  WEIR_CHECK(!free_records_.empty(), "all {} sequence records are in use", ids_.size());
  WEIR_CHECK(request.id != 0, "a sequence without an id");
  const int32_t index = free_records_.back();
  free_records_.pop_back();
  Sequence& added = *std::construct_at(&sequence(index));
  added.phase = Phase::kWaiting;
  added.key = {request.arrival_us + request.priority * config_.aging_us, request.id};
  added.priority = request.priority;
  added.arrival_us = request.arrival_us;
  added.sampling = *request.sampling;
  added.salt = request.salt;
  added.suffix_count = request.suffix_count;
  ids_[static_cast<size_t>(index)] = request.id;
  waiting_.insert(added.key, index);
  return index;
}

void Scheduler::append_prompt(int32_t index, std::span<const TokenId> tokens) {
  Sequence& added = sequence(index);
  store_.append(&added.tokens, tokens);
  added.prompt_count = static_cast<int32_t>(added.tokens.count);
  const int64_t room = sequence_tokens_max_ - added.prompt_count;
  WEIR_CHECK(room >= 0, "a prompt of {} tokens in a context of {}", added.prompt_count, sequence_tokens_max_);
  added.sampling.max_tokens = static_cast<int32_t>(std::min<int64_t>(added.sampling.max_tokens, room));
}

int32_t Scheduler::settle(const WorkOwner& owner, const SequenceResult& result, std::span<const TokenId> tokens,
                          int64_t now_us, StopReason* stop) {
  *stop = StopReason::kNone;
  // Ended since, and perhaps reused: what the runner still did for it is nobody's.
  if (ids_[static_cast<size_t>(owner.index)] != owner.id) return -1;
  Sequence& owned = sequence(owner.index);
  --owned.steps_in_flight;
  const bool broken = result.stop == StopReason::kNotFinite;
  WEIR_CHECK(owner.samples != tokens.empty() || (broken && tokens.empty()), "sequence {} sampled {} tokens", owner.id,
             tokens.size());
  if (!tokens.empty()) {
    if (owned.generated == 0) owned.first_token_us = now_us;
    store_.append(&owned.tokens, tokens);
    const auto count = static_cast<int32_t>(tokens.size());
    owned.generated += count;
    owned.samples_planned += count - 1;
    // Drafts that were not accepted take the row no further.
    if (owned.row.valid()) owned.computed -= 1 + owner.draft_count - count;
    if (result.drafted_count > 0) {
      owned.acceptance.record(result.drafted_count, count - 1);
      ++counters_.draft_rounds;
      counters_.draft_tokens += result.drafted_count;
      counters_.accepted_tokens += count - 1;
    }
    WEIR_CHECK(owned.generated <= owned.sampling.max_tokens, "sequence {} has {} tokens of at most {}", owner.id,
               owned.generated, owned.sampling.max_tokens);
  }
  if (owned.row.valid()) {
    if (broken) {
      cache_.distrust(owned.row);
    } else {
      publish(&owned, owner);
    }
  }
  *stop = result.stop;
  const bool full = owned.generated == owned.sampling.max_tokens && (owned.generated > 0 || owner.ends_prompt);
  if (full && *stop == StopReason::kNone) *stop = StopReason::kLength;
  if (*stop != StopReason::kNone) retire(owner.index);
  return owner.index;
}

// What the item has computed can be found from now on. Of tokens that were sampled, the last is not computed yet.
void Scheduler::publish(Sequence* sequence, const WorkOwner& owner) {
  if (!cache_.reuses()) return;
  int64_t computed = owner.samples ? sequence->tokens.count - 1 : owner.end;
  if (planted(PlantedBug::kUncomputedInKey) && cache_.block_tokens() > 1) computed = sequence->tokens.count;
  if (!config_.reuse_generated) computed = std::min<int64_t>(computed, sequence->prompt_count);
  const auto read = [this, sequence](int64_t position, int64_t count) -> std::span<const TokenId> {
    known_.clear();
    store_.read(&sequence->tokens, position, count, &known_);
    return known_;
  };
  cache_.publish(sequence->row, computed, owner.samples || owner.ends_prompt, read);
}

int32_t Scheduler::end(SequenceId id) {
  const auto found = std::find(ids_.begin(), ids_.end(), id);
  if (id == 0 || found == ids_.end()) return -1;
  const auto index = static_cast<int32_t>(found - ids_.begin());
  retire(index);
  return index;
}

int32_t Scheduler::any_live() const {
  const auto found = std::find_if(ids_.begin(), ids_.end(), [](SequenceId id) { return id != 0; });
  return found == ids_.end() ? -1 : static_cast<int32_t>(found - ids_.begin());
}

void Scheduler::forget(int32_t index) {
  WEIR_CHECK(sequence(index).phase == Phase::kEnded, "record {} is still live", index);
  sequence(index).phase = Phase::kFree;
  free_records_.push_back(index);
}

// Gives back the pages, the slot and the row. The row's kLeave edit must precede the plan's other edits of it.
RowId Scheduler::vacate(Sequence* sequence) {
  const RowId row = sequence->row;
  cache_.leave(row);
  rows_.give_back(row);
  running_.remove(sequence->key);
  sequence->row = RowId();
  return row;
}

void Scheduler::retire(int32_t index) {
  Sequence& ending = sequence(index);
  switch (ending.phase) {
    case Phase::kWaiting:
      waiting_.remove(ending.key);
      break;
    case Phase::kPreempted:
      preempted_.remove(ending.key);
      break;
    case Phase::kPrefill:
    case Phase::kDecode:
      leaving_.push_back(vacate(&ending));
      break;
    case Phase::kFree:
    case Phase::kEnded:
      WEIR_CHECK(false, "record {} ended twice", index);
  }
  store_.clear(&ending.tokens);
  ending.phase = Phase::kEnded;
  ids_[static_cast<size_t>(index)] = 0;
}

}  // namespace weir
