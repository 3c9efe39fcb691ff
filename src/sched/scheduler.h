// Decides what each step computes. Pure: no clock, no thread, no I/O; the same calls give the same plans.
//
// The rules, in the order in which plan() applies them:
//  1. Every sequence that is decoding gets one token in every step, before anything else (rows_max <= step_tokens_max),
//     and drafts behind it as they pay (draft_policy.h) while there is room for all.
//  2. If one of them needs a page and none is free, the running sequence with the last key is preempted: everything it
//     holds is given back, and it is recomputed later from its own tokens. The sequence with the first key is never
//     preempted and fits alone (refused otherwise), so it always finishes: no livelock.
//  3. What is left of the token budget goes to prompts that were begun, then to admissions, in key order. The first in
//     the order that does not fit waits, and nobody passes it: no starvation.
//  4. What the caches still know of a sequence's first tokens is not computed again. A prompt stops where its state
//     is to be kept (next_checkpoint), wherever its chunks would end, so that what is kept never depends on them. Who
//     begins as a prompt that is being computed waits for it (waits_for_prefix): a burst computes its prefix once.
// A result is known two plans later at the earliest; what the host knows about a sequence is a lower bound until then.
// With drafts even how far a sequence got is not known: `computed` is an upper bound while steps are in flight.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "cache/id_pool.h"
#include "cache/sequence_cache.h"
#include "plan/layout.h"
#include "plan/step.h"
#include "sched/draft_policy.h"
#include "sched/ordered_queue.h"
#include "sched/token_store.h"

namespace weir {

struct SchedulerConfig {
  int32_t queue_requests_max = 0;
  int64_t queue_tokens_max = 0;
  int32_t prefill_chunk_max = 0;  // 0: the step's budget
  int64_t aging_us = 0;
  bool prefix_caching = false;
  // On devices whose kernels for prompts and for generated tokens give other bits: whether what was generated may be
  // reused as a prompt all the same. Where the bits are one, true costs nothing.
  bool reuse_generated = false;
  int64_t checkpoint_interval = 0;  // tokens between states kept on the way, a multiple of kGridTokens; 0: none
  // What was found of the first in the queue is kept until that may have changed. False, for tests: it is looked up in
  // every plan. The plans are the same.
  bool remember_lookups = true;
  uint64_t cache_seed = 0;      // of the hash that finds prefixes
  bool adaptive_drafts = true;  // false: always as many drafts as the runner makes
  DraftCost draft_cost;
};

enum class Phase : uint8_t {
  kFree,       // the record is unused
  kWaiting,    // never admitted
  kPrefill,    // resident; known tokens are still to be computed
  kDecode,     // resident; every known token is computed or in flight
  kPreempted,  // was admitted, holds nothing but its tokens
  kEnded,      // holds nothing; the record waits for forget()
};

// What of a prompt was found when it was admitted, in tokens: matched = reused + lost_to_checkpoint.
struct PrefixReuse {
  int32_t matched = 0;             // were known to the caches
  int32_t reused = 0;              // were not computed
  int32_t lost_to_checkpoint = 0;  // were known, but no state was kept at their end
  int32_t lost_to_eviction = 0;    // behind these, had been known until memory ran out
};

struct Sequence {
  Phase phase = Phase::kFree;
  bool admitted = false;  // ever
  OrderKey key;           // key.id names the sequence
  int32_t priority = 0;
  int64_t arrival_us = 0;
  int64_t admitted_us = 0;
  int64_t first_token_us = 0;
  int32_t prompt_count = 0;
  int32_t generated = 0;        // output tokens known
  int32_t samples_planned = 0;  // output tokens known or in flight, of a step with drafts one
  int32_t proposed = 0;         // drafts that the last submitted step proposes at most
  Acceptance acceptance;
  int32_t steps_in_flight = 0;  // submitted steps with work of this sequence
  int32_t preemption_count = 0;
  int32_t prompt_rows_published = 0;  // prompt log-probabilities of positions [1, 1 + this) went out
  // Tokens [0, computed) are computed or in flight, in this residency; with drafts in flight perhaps fewer.
  int64_t computed = 0;
  int64_t save_ordered = 0;  // the last position behind which the state was to be saved, in this residency
  int64_t computed_max = 0;  // the same over all residencies: below it work is recomputation
  int32_t suffix_count = 0;  // last tokens of the prompt that the next turn will render differently
  int64_t branch = 0;        // where another sequence's tokens went on otherwise, without a state there
  PrefixReuse reuse;
  CacheSalt salt{};
  RowId row;
  TokenList tokens;         // prompt and known output
  SamplingParams sampling;  // max_tokens cut to the end of the context

  // What the next turn will begin with ends here at the latest; the token behind it is computed in any case.
  int64_t stable_end() const { return prompt_count - std::max(1, suffix_count); }
};

// A request as the scheduler takes it.
struct SequenceRequest {
  SequenceId id = 0;
  int64_t arrival_us = 0;
  int32_t priority = 0;
  const SamplingParams* sampling = nullptr;
  CacheSalt salt{};
  int32_t suffix_count = 0;
};

// Which sequence a work item of a submitted plan belongs to.
struct WorkOwner {
  int32_t index = -1;
  SequenceId id = 0;         // the record may have been reused since: then the item is nobody's
  bool ends_prompt = false;  // the item computes the last prompt token
  bool samples = false;
  int64_t end = 0;          // tokens of the sequence before this are computed then, with all drafts accepted
  int32_t draft_count = 0;  // as in the work item
};

struct SchedulerCounters {
  int64_t admitted = 0;
  int64_t admitted_prompt_tokens = 0;
  int64_t preemptions = 0;
  int64_t recomputed_tokens = 0;
  int64_t overtakes = 0;     // admitted before an earlier arrival
  int64_t promotions = 0;    // admitted before a better priority
  int64_t draft_rounds = 0;  // items with drafts that were verified
  int64_t draft_tokens = 0;
  int64_t accepted_tokens = 0;
  int64_t matched_tokens = 0;  // sums of PrefixReuse over admissions
  int64_t reused_tokens = 0;
  int64_t lost_to_checkpoint = 0;
  int64_t lost_to_eviction = 0;
  int64_t lookups = 0;      // prompts that were hashed to find them in the caches
  int64_t comparisons = 0;  // prompts that were compared with one in the making
};

class Scheduler {
 public:
  // Whether these limits can serve at all; kInvalidArgument with the remedy.
  static Status check(const SchedulerConfig& config, const CacheLayout& layout, const RunnerLimits& limits);
  // `layout` and `limits` must have passed check(). Reserves everything.
  Scheduler(const SchedulerConfig& config, const CacheLayout& layout, const RunnerLimits& limits);

  // Tokens of prompt and output together that one sequence can have.
  int64_t sequence_tokens_max() const { return sequence_tokens_max_; }
  // Queues a sequence and returns its index. Its prompt follows in one or more calls of append_prompt, before the next
  // plan(). Programmer error: a full queue or a prompt that cannot run (the client checks both).
  int32_t add(const SequenceRequest& request);
  void append_prompt(int32_t index, std::span<const TokenId> tokens);

  // Gives a plan and its owners the memory that plan() will ever need; plan() checks that it suffices.
  void reserve(StepPlan* plan, std::vector<WorkOwner>* owners) const;
  // Fills an empty plan and the owners of its work; false: there is nothing to compute (the plan stays empty).
  bool plan(int64_t now_us, StepPlan* plan, std::vector<WorkOwner>* owners);

  // Takes one item's result. Returns the sequence's index, or -1 if nobody wants it any more. If the sequence has ended
  // (`*stop` is not kNone) it holds nothing any more and its record is kEnded.
  int32_t settle(const WorkOwner& owner, const SequenceResult& result, std::span<const TokenId> tokens, int64_t now_us,
                 StopReason* stop);

  // Ends a live sequence at once, whatever it was doing: its pages serve the next plan. -1 if the id is not live.
  int32_t end(SequenceId id);
  // Any live sequence, -1 if there is none.
  int32_t any_live() const;
  // Frees the record of an ended sequence.
  void forget(int32_t index);

  Sequence& sequence(int32_t index) { return reinterpret_cast<Sequence*>(records_.get())[index]; }
  const SequenceCache& cache() const { return cache_; }
  const SchedulerCounters& counters() const { return counters_; }
  int32_t waiting() const { return waiting_.size(); }
  int32_t preempted() const { return preempted_.size(); }
  int32_t running() const { return running_.size(); }
  int64_t token_blocks_used() const { return store_.blocks_used(); }

 private:
  // One plan in the making.
  struct Draft {
    StepPlan* plan;
    std::vector<WorkOwner>* owners;
    int64_t now_us;
    int32_t budget;             // tokens left
    int32_t decodes = 0;        // sequences that still get their token out of it
    bool history_used = false;  // some row's earlier tokens are in the plan
  };

  // What is known of the sequence that was looked up last. A sequence that cannot be admitted stays first in the queue
  // for many plans.
  struct Lookup {
    SequenceId id = 0;
    int64_t token_count = 0;
    int32_t prompt_rows_published = 0;
    std::vector<TokenId> tokens;  // those that it may reuse
    PrefixMatch match;
    bool valid = false;          // the match, as long as
    uint64_t changes = 0;        // this stays
    int64_t evicted_blocks = 0;  // as of the match
    // How many of its tokens the sequence `id` in a row begins with.
    struct Common {
      SequenceId id = 0;
      int64_t tokens = 0;
    };
    std::vector<Common> common;  // by row
  };

  void emit_leaves(Draft* draft);
  void continue_decodes(Draft* draft);
  void continue_prefills(Draft* draft);
  void admit(Draft* draft);
  OrderedQueue* next_queue();
  const PrefixMatch& match(Sequence* candidate);
  void look_up(Sequence* candidate);
  void foresee();
  bool waits_for_prefix(const Sequence& candidate);
  int64_t common_prefix(Sequence* running);
  void join(Draft* draft, int32_t index, const PrefixMatch& match);
  void count_admission(Sequence* admitted, const PrefixMatch& match);
  int64_t next_checkpoint(const Sequence& sequence) const;
  void publish(Sequence* sequence, const WorkOwner& owner);
  bool decodes(const Sequence& sequence) const;
  int32_t drafts_of(const Sequence& sequence) const;
  bool make_room(Draft* draft, const Sequence& sequence, int32_t drafts);
  void preempt(Draft* draft, int32_t index);
  void add_decode(Draft* draft, int32_t index, int32_t drafts);
  void order_save(Draft* draft, Sequence* sequence, int64_t position);
  void add_prefill(Draft* draft, int32_t index);
  RowId vacate(Sequence* sequence);
  void retire(int32_t index);
  size_t edits_max() const;
  size_t pages_max() const;
  size_t tokens_max() const;
  void check_no_growth(const StepPlan& plan) const;

  SchedulerConfig config_;
  RunnerLimits limits_;
  SequenceCache cache_;
  int64_t sequence_tokens_max_;
  TokenStore store_;
  IdPool<RowId> rows_;
  std::unique_ptr<std::byte[]> records_;  // of Sequence: touched when first used, so a long queue costs nothing empty
  std::vector<SequenceId> ids_;           // of live records, 0 else: what end() searches
  std::vector<int32_t> free_records_;
  OrderedQueue waiting_;
  OrderedQueue preempted_;
  OrderedQueue running_;
  Lookup lookup_;
  std::vector<TokenId> known_;  // of the sequence that is published
  std::vector<TokenId> piece_;
  SequenceId foreseen_ = 0;     // who was first in the queue when foresee() last looked,
  int64_t foreseen_joins_ = 0;  // and how many had joined
  int64_t joins_ = 0;
  std::vector<RowId> leaving_;  // rows whose kLeave edit goes into the next plan
  SchedulerCounters counters_;
};

}  // namespace weir
