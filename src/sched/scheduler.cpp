#include "sched/scheduler.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "base/planted.h"

namespace weir {
namespace {

// Whether the state of a row that has computed `from` tokens can be made that behind its first `to`.
bool reaches_back(int64_t from, int64_t to) {
  return from - to <= kRollbackTokens && to >= (from - 1) / kGridTokens * kGridTokens;
}

// A step or two of waiting is worth so many blocks that need not be computed.
constexpr int64_t kBlocksWorthWaiting = 4;

size_t records_max(const SchedulerConfig& config, const RunnerLimits& limits) {
  return static_cast<size_t>(config.queue_requests_max) + static_cast<size_t>(limits.rows_max);
}

}  // namespace

Status Scheduler::check(const SchedulerConfig& config, const CacheLayout& layout, const RunnerLimits& limits) {
  const auto refuse = [](std::string message, std::string remedy) {
    return Error{ErrorCode::kInvalidArgument, std::move(message), std::move(remedy)};
  };
  if (limits.rows_max < 1 || config.queue_requests_max < 1 || config.queue_tokens_max < 1 || config.aging_us < 1 ||
      config.prefill_chunk_max < 0 || limits.steps_in_flight < 1) {
    return refuse("rows, queue limits, aging time and steps in flight must be at least 1", "check the limits given");
  }
  if (limits.step_tokens_max < limits.rows_max) {
    return refuse(
        fmt::format("a step of {} tokens cannot advance {} sequences", limits.step_tokens_max, limits.rows_max),
        "raise --max-num-batched-tokens or lower --max-num-seqs");
  }
  if (layout.classes.size() != limits.pages.size()) {
    return refuse(fmt::format("{} page classes but {} page counts", layout.classes.size(), limits.pages.size()), "");
  }
  for (size_t i = 0; i < layout.classes.size(); ++i) {
    if (layout.classes[i].tokens_per_page < 1 || limits.pages[i] < 1) {
      return refuse(fmt::format("no page of class {}", layout.classes[i].name), "give the caches more memory");
    }
  }
  if (layout.state_slot_bytes > 0 && limits.state_slots < 1) {
    return refuse("no recurrent-state slot", "give the caches more memory");
  }
  if (layout.pages_a_slot > 0) {  // every class alike
    const auto fits = [&](const PageClass& pages, int32_t count) {
      return pages.tokens_per_page == layout.classes[0].tokens_per_page &&
             count == int64_t{limits.state_slots} * layout.pages_a_slot;
    };
    const bool whole = std::equal(layout.classes.begin(), layout.classes.end(), limits.pages.begin(), fits);
    if (!whole || layout.state_slot_bytes == 0) return refuse("pages and slots cannot share their memory so", "");
    if (pages_alone_max(layout, limits, 0) < 1) {
      return refuse(fmt::format("{} units of memory for {} sequences", limits.state_slots, limits.rows_max),
                    "give the caches more memory or lower --max-num-seqs");
    }
  }
  if (limits.drafts_max < 0 || limits.drafts_max > kDraftsMax) {
    return refuse(fmt::format("{} drafts a step", limits.drafts_max), fmt::format("give 0 to {}", kDraftsMax));
  }
  if (limits.sequence_tokens_max < 2) return refuse("a context of less than 2 tokens", "raise --max-model-len");
  return Ok{};
}

Scheduler::Scheduler(const SchedulerConfig& config, const CacheLayout& layout, const RunnerLimits& limits)
    : config_(config),
      limits_(limits),
      cache_(layout, limits, {config.prefix_caching, config.cache_seed}),
      sequence_tokens_max_(std::min(limits.sequence_tokens_max, cache_.tokens_alone_max())),
      store_(config.queue_tokens_max + limits.rows_max * sequence_tokens_max_,
             static_cast<int64_t>(records_max(config, limits))),
      rows_(limits.rows_max),
      records_(new std::byte[records_max(config, limits) * sizeof(Sequence)]),
      ids_(records_max(config, limits), 0),
      waiting_(static_cast<size_t>(config.queue_requests_max)),
      preempted_(static_cast<size_t>(limits.rows_max)),
      running_(static_cast<size_t>(limits.rows_max)) {
  free_records_.reserve(ids_.size());
  for (size_t i = ids_.size(); i-- > 0;) free_records_.push_back(static_cast<int32_t>(i));
  leaving_.reserve(static_cast<size_t>(limits.rows_max));
  if (!cache_.reuses()) return;
  lookup_.tokens.reserve(static_cast<size_t>(sequence_tokens_max_));
  lookup_.common.resize(static_cast<size_t>(limits.rows_max));
  known_.reserve(static_cast<size_t>(cache_.block_tokens()));
  piece_.reserve(TokenStore::kBlockTokens);
}

// A row can leave twice (ended before the plan, preempted in it), join once, take over and copy pages of every class
// and restore a state, get pages of its own twice, copy a page of every class for a checkpoint and save a state.
size_t Scheduler::edits_max() const {
  return static_cast<size_t>(limits_.rows_max) * (5 + 5 * limits_.pages.size());
}

// What a preemption frees can be taken again in the same plan. Pages that rows take over, and pairs of those that are
// copied, come on top.
size_t Scheduler::pages_max() const {
  const auto total = static_cast<size_t>(cache_.pages_total());
  if (!cache_.reuses()) return 2 * total;
  const auto longest = static_cast<size_t>(sequence_tokens_max_ / cache_.block_tokens() + 1);
  return 2 * total + static_cast<size_t>(limits_.rows_max) * limits_.pages.size() * (std::min(longest, total) + 4);
}

// Every item may carry one prompt token more than it computes, and one row the tokens before those that it computes.
size_t Scheduler::tokens_max() const {
  const int64_t history = cache_.reuses() ? sequence_tokens_max_ : 0;
  return static_cast<size_t>(limits_.step_tokens_max + limits_.rows_max + history);
}

void Scheduler::reserve(StepPlan* plan, std::vector<WorkOwner>* owners) const {
  plan->edits.reserve(edits_max());
  plan->work.reserve(static_cast<size_t>(limits_.rows_max));
  plan->tokens.reserve(tokens_max());
  plan->pages.reserve(pages_max());
  plan->sampling.reserve(static_cast<size_t>(limits_.rows_max));
  owners->reserve(static_cast<size_t>(limits_.rows_max));
}

void Scheduler::check_no_growth(const StepPlan& plan) const {
  WEIR_CHECK(plan.edits.size() <= edits_max() && plan.work.size() <= static_cast<size_t>(limits_.rows_max) &&
                 plan.tokens.size() <= tokens_max() && plan.pages.size() <= pages_max() &&
                 plan.sampling.size() <= static_cast<size_t>(limits_.rows_max),
             "a plan of {} edits, {} items, {} tokens, {} pages outgrew its memory", plan.edits.size(),
             plan.work.size(), plan.tokens.size(), plan.pages.size());
}

bool Scheduler::plan(int64_t now_us, StepPlan* plan, std::vector<WorkOwner>* owners) {
  owners->clear();
  Draft draft{plan, owners, now_us, limits_.step_tokens_max, 0, false};
  emit_leaves(&draft);
  continue_decodes(&draft);
  continue_prefills(&draft);
  admit(&draft);
  check_no_growth(*plan);
  if (!plan->work.empty()) return true;
  // Without work only rows that leave can have been edited: they leave with the next plan.
  for (const Edit& edit : plan->edits) {
    WEIR_CHECK(edit.kind == EditKind::kLeave, "an edit of row {} without work", edit.row.value());
    leaving_.push_back(edit.row);
  }
  plan->clear();
  return false;
}

void Scheduler::emit_leaves(Draft* draft) {
  for (const RowId row : leaving_) draft->plan->edits.push_back(Edit{.row = row, .state = {}, .page_class = {}});
  leaving_.clear();
}

void Scheduler::continue_decodes(Draft* draft) {
  // First key first: a preemption takes from the other end, so it never hits a sequence that this plan already
  // advances.
  for (int32_t position = 0; position < running_.size(); ++position) {
    draft->decodes += decodes(sequence(running_.at(position).index)) ? 1 : 0;
  }
  for (int32_t position = 0; position < running_.size(); ++position) {
    const int32_t index = running_.at(position).index;
    const Sequence& sequence = this->sequence(index);
    if (!decodes(sequence)) continue;
    --draft->decodes;
    if (planted(PlantedBug::kSkippedDecode) && this->sequence(running_.last().index).phase == Phase::kPrefill) continue;
    const int32_t drafts = drafts_of(sequence);
    if (make_room(draft, sequence, drafts)) add_decode(draft, index, drafts);
  }
}

bool Scheduler::decodes(const Sequence& sequence) const {
  return sequence.phase == Phase::kDecode && sequence.samples_planned < sequence.sampling.max_tokens;
}

// Drafts that are worth a try behind the sequence's next token, as many tokens as are still to come behind it at most.
int32_t Scheduler::drafts_of(const Sequence& sequence) const {
  const int32_t most = std::min(limits_.drafts_max, sequence.sampling.max_tokens - sequence.samples_planned - 1);
  if (most <= 0 || !config_.adaptive_drafts) return std::max(0, most);
  return choose_drafts(sequence.acceptance, most, running_.size(), config_.draft_cost);
}

// A page for the sequence's next token, and for drafts if there is one to be had. False: the sequence itself was the
// last in the order and had to go.
bool Scheduler::make_room(Draft* draft, const Sequence& sequence, int32_t drafts) {
  // Those verified in this step and those proposed in it, which have places behind them.
  const int64_t with_drafts = std::min(sequence.computed + 1 + 2 * drafts, sequence_tokens_max_);
  if (drafts > 0 && cache_.grow(sequence.row, with_drafts, draft->plan)) return true;
  // With drafts in flight `computed` may lie beyond the end of the context, the sequence does not.
  const int64_t needed = std::min(sequence.computed + 1, sequence_tokens_max_);
  while (!cache_.grow(sequence.row, needed, draft->plan)) {
    const OrderedQueue::Entry victim = running_.last();
    const bool itself = victim.key == sequence.key;
    preempt(draft, victim.index);
    if (itself) return false;
  }
  return true;
}

void Scheduler::preempt(Draft* draft, int32_t index) {
  Sequence& victim = sequence(index);
  draft->plan->edits.push_back(Edit{.row = vacate(&victim), .state = {}, .page_class = {}});
  victim.phase = Phase::kPreempted;
  victim.computed = 0;
  ++victim.preemption_count;
  ++counters_.preemptions;
  preempted_.insert(victim.key, index);
}

void Scheduler::add_decode(Draft* draft, int32_t index, int32_t drafts) {
  Sequence& decoding = sequence(index);
  SequenceWork work;
  work.row = decoding.row;
  work.role = RowRole::kGenerated;
  work.sample = true;
  work.token_count = 1;
  // What the others need stays.
  work.draft_count = std::min({drafts, decoding.proposed, draft->budget - draft->decodes - 1});
  work.propose_count = drafts;
  work.position = decoding.computed;
  const int32_t count = 1 + work.draft_count;
  cache_.begin_work(decoding.row, decoding.computed, draft->plan);
  // So many tokens are computed for certain before this step; the last sampled one never is.
  const int64_t certain = decoding.prompt_count + decoding.samples_planned - 1;
  const int64_t checkpoint = next_checkpoint(decoding);
  if (checkpoint <= decoding.computed + count && decoding.save_ordered <= certain) {
    order_save(draft, &decoding, checkpoint);
  }
  draft->plan->work.push_back(work);
  draft->budget -= count;
  decoding.computed += count;
  decoding.proposed = work.propose_count;
  draft->owners->push_back({index, decoding.key.id, false, true, decoding.computed, work.draft_count});
  decoding.computed_max = std::max(decoding.computed_max, decoding.computed);
  ++decoding.samples_planned;
  ++decoding.steps_in_flight;
}

void Scheduler::continue_prefills(Draft* draft) {
  foresee();
  for (int32_t position = 0; position < running_.size() && draft->budget > 0; ++position) {
    const int32_t index = running_.at(position).index;
    if (sequence(index).phase == Phase::kPrefill) add_prefill(draft, index);
  }
}

void Scheduler::add_prefill(Draft* draft, int32_t index) {
  Sequence& filling = sequence(index);
  const int64_t known = filling.tokens.count;
  const bool in_prompt = filling.computed < filling.prompt_count;
  const int64_t border = in_prompt ? filling.prompt_count : known;
  const int64_t cap = config_.prefill_chunk_max > 0 ? config_.prefill_chunk_max : border;
  int64_t end = std::min({border, filling.computed + draft->budget, filling.computed + cap});
  // A chunk that does not finish ends on the grid if it can: the recurrent state is folded there anyway.
  if (end < border && end / kGridTokens * kGridTokens > filling.computed) end = end / kGridTokens * kGridTokens;
  cache_.begin_work(filling.row, filling.computed, draft->plan);
  if (const int64_t checkpoint = next_checkpoint(filling); checkpoint <= end) {
    order_save(draft, &filling, checkpoint);
    // A few tokens to the prompt's end are no step of their own: the state behind them is good for both places.
    // The step behind it keeps what it needs, so there must be one.
    const bool ends = in_prompt && end == border && filling.sampling.max_tokens > 1 && next_checkpoint(filling) > end;
    if (!ends || !reaches_back(end, checkpoint)) end = checkpoint;
  }
  const bool peeks = in_prompt && filling.sampling.prompt_logprobs >= 0 && end < filling.prompt_count;

  SequenceWork work;
  work.row = filling.row;
  work.role = in_prompt ? RowRole::kPrompt : RowRole::kGenerated;
  work.sample = end == known && filling.samples_planned < filling.sampling.max_tokens;
  work.token_count = static_cast<int32_t>(end - filling.computed);
  work.first_token = static_cast<int32_t>(draft->plan->tokens.size());
  work.position = filling.computed;
  store_.read(&filling.tokens, filling.computed, work.token_count + (peeks ? 1 : 0), &draft->plan->tokens);
  if (work.sample) work.propose_count = drafts_of(filling);
  draft->plan->work.push_back(work);
  filling.proposed = work.propose_count;
  draft->owners->push_back({index, filling.key.id, end == filling.prompt_count, work.sample, end, 0});
  draft->budget -= work.token_count;

  counters_.recomputed_tokens += std::max<int64_t>(0, std::min(end, filling.computed_max) - filling.computed);
  filling.computed = end;
  filling.computed_max = std::max(filling.computed_max, end);
  ++filling.steps_in_flight;
  if (end == known) filling.phase = Phase::kDecode;
  if (work.sample) ++filling.samples_planned;
}

// The queue whose first sequence deserves a row next. Running and preempted sequences together never outnumber the
// rows: that bounds the tokens kept. At that bound only preempted ones may come back.
OrderedQueue* Scheduler::next_queue() {
  const bool fresh = !waiting_.empty() && running_.size() + preempted_.size() < limits_.rows_max;
  if (!fresh) return preempted_.empty() ? nullptr : &preempted_;
  return preempted_.empty() || waiting_.first().key < preempted_.first().key ? &waiting_ : &preempted_;
}

void Scheduler::admit(Draft* draft) {
  while (draft->budget > 0 && rows_.free() > 0 && cache_.slot_free()) {
    OrderedQueue* queue = next_queue();
    if (queue == nullptr) return;
    const bool jumps = planted(PlantedBug::kQueueJump) && queue->size() > 1;
    const int32_t index = queue->at(jumps ? 1 : 0).index;
    const Sequence& candidate = sequence(index);
    // What it sampled before it was preempted must have arrived: it is part of what is recomputed.
    if (candidate.steps_in_flight > 0) return;
    PrefixMatch match = this->match(&sequence(index));
    if (waits_for_prefix(candidate)) return;
    const bool history = match.reused > 0 && has_penalties(candidate.sampling);
    if (history && draft->history_used) return;
    // A page for each running sequence stays free, so that nobody who joins is preempted before the others have filled
    // one. What is taken over can stand in the way where every page counts.
    if (!cache_.fits(candidate.tokens.count, running_.size(), match)) {
      match = {};
      if (!cache_.fits(candidate.tokens.count, running_.size(), match)) return;
    } else if (cache_.evicted_blocks() != lookup_.evicted_blocks) {
      // Of what was evicted since it was looked up, some may be its own.
      match.lost_to_eviction = cache_.match(candidate.salt, lookup_.tokens).lost_to_eviction;
    }
    queue->remove(candidate.key);
    join(draft, index, match);
    foresee();
    add_prefill(draft, index);
  }
}

// What the candidate need not compute. The last token is always computed: it yields the next one. Where prompts and
// generated tokens have other bits, generated ones are computed again as such.
const PrefixMatch& Scheduler::match(Sequence* candidate) {
  if (!cache_.reuses()) return lookup_.match;
  Lookup& kept = lookup_;
  const bool same = config_.remember_lookups && kept.id == candidate->key.id &&
                    kept.token_count == candidate->tokens.count &&
                    kept.prompt_rows_published == candidate->prompt_rows_published;
  if (!same) look_up(candidate);
  const bool holds = kept.valid && kept.changes == cache_.changes();
  if (holds || kept.tokens.empty()) {
    cache_.count_idle(&kept.match);
    return kept.match;
  }
  ++counters_.lookups;
  kept.match = cache_.match(candidate->salt, kept.tokens);
  cache_.watch(kept.match);
  kept.valid = true;
  kept.changes = cache_.changes();
  kept.evicted_blocks = cache_.evicted_blocks();
  return kept.match;
}

// The candidate's tokens, and nothing else known of it.
void Scheduler::look_up(Sequence* candidate) {
  lookup_.id = candidate->key.id;
  lookup_.token_count = candidate->tokens.count;
  lookup_.prompt_rows_published = candidate->prompt_rows_published;
  lookup_.tokens.clear();
  lookup_.match = {};
  lookup_.valid = false;
  std::fill(lookup_.common.begin(), lookup_.common.end(), Lookup::Common());
  const bool wants_rows =
      candidate->sampling.prompt_logprobs >= 0 && candidate->prompt_rows_published < candidate->prompt_count - 1;
  if (wants_rows) return;
  const int64_t limit = candidate->tokens.count - 1;
  store_.read(&candidate->tokens, 0,
              config_.reuse_generated ? limit : std::min<int64_t>(limit, candidate->prompt_count), &lookup_.tokens);
}

void Scheduler::order_save(Draft* draft, Sequence* sequence, int64_t position) {
  cache_.order_save(sequence->row, position, draft->plan);
  sequence->save_ordered = position;
}

// Before prompts are computed on, the next in the queue is compared with them, while they can still leave a state for
// it.
void Scheduler::foresee() {
  OrderedQueue* queue = cache_.reuses() && !running_.empty() ? next_queue() : nullptr;
  if (queue == nullptr) return;
  const OrderedQueue::Entry next = queue->first();
  if (foreseen_ == next.key.id && foreseen_joins_ == joins_) return;
  foreseen_ = next.key.id;
  foreseen_joins_ = joins_;
  Sequence& candidate = sequence(next.index);
  match(&candidate);
  waits_for_prefix(candidate);
}

// Whether a prompt in the making will soon have left known much of what the candidate, just looked up, begins with. It
// is asked for a state where their ways part. Steps are full of that prompt until then, so waiting costs little.
bool Scheduler::waits_for_prefix(const Sequence& candidate) {
  const int64_t worth_it = lookup_.match.reused + kBlocksWorthWaiting * cache_.block_tokens();
  if (static_cast<int64_t>(lookup_.tokens.size()) < worth_it) return false;
  for (int32_t position = 0; position < running_.size(); ++position) {
    Sequence& other = sequence(running_.at(position).index);
    // With a second token sampled, all that its prompt leaves is known.
    if (other.generated > 1 || other.salt != candidate.salt) continue;
    const int64_t common = common_prefix(&other);
    int64_t known = common / cache_.block_tokens() * cache_.block_tokens();
    if (cache_.has_states() && known >= worth_it) {
      if (other.stable_end() <= common) {
        known = other.stable_end();
      } else if (other.computed < known) {
        if (other.branch <= other.computed) other.branch = known;
        known = other.branch <= common ? other.branch : 0;
      } else {
        known = other.save_ordered <= common ? other.save_ordered : 0;
      }
    }
    if (known >= worth_it) return true;
  }
  return false;
}

// Tokens that the sequence looked up and the prompt of a running one begin with alike.
int64_t Scheduler::common_prefix(Sequence* running) {
  Lookup::Common& known = lookup_.common[running->row.index()];
  if (known.id == running->key.id) return known.tokens;
  ++counters_.comparisons;
  const std::vector<TokenId>& tokens = lookup_.tokens;
  const auto limit = std::min<int64_t>(static_cast<int64_t>(tokens.size()), running->prompt_count);
  known = {running->key.id, limit};
  for (int64_t begin = 0; begin < limit; begin += TokenStore::kBlockTokens) {
    piece_.clear();
    store_.read(&running->tokens, begin, std::min(TokenStore::kBlockTokens, limit - begin), &piece_);
    const auto differs = std::mismatch(piece_.begin(), piece_.end(), tokens.begin() + begin).first;
    if (differs == piece_.end()) continue;
    known.tokens = begin + (differs - piece_.begin());
    break;
  }
  return known.tokens;
}

// The next place behind which the sequence's state is to be kept, or never: where another sequence's tokens went on
// otherwise, at the end of what the next turn will begin with, and at intervals.
int64_t Scheduler::next_checkpoint(const Sequence& sequence) const {
  constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  if (!cache_.reuses() || !cache_.has_states()) return kNever;
  int64_t next = kNever;
  const auto consider = [&](int64_t position) {
    if (position > std::max(sequence.computed, sequence.save_ordered)) next = std::min(next, position);
  };
  consider(sequence.branch);
  consider(sequence.stable_end());
  if (const int64_t interval = config_.checkpoint_interval; interval > 0) {
    const int64_t position = (std::max(sequence.computed, sequence.save_ordered) / interval + 1) * interval;
    const bool in_prompt = position <= sequence.prompt_count;
    // A step of its own for a state little before the prompt's is not worth it.
    const bool spared = in_prompt && position + interval / 2 > sequence.stable_end();
    if (in_prompt ? !spared : config_.reuse_generated) consider(position);
  }
  return next;
}

void Scheduler::join(Draft* draft, int32_t index, const PrefixMatch& match) {
  Sequence& joining = sequence(index);
  if (joining.phase == Phase::kWaiting) {
    count_admission(&joining, match);
    joining.admitted = true;
    joining.admitted_us = draft->now_us;
  }
  ++joins_;
  joining.phase = Phase::kPrefill;
  joining.row = rows_.take();
  joining.samples_planned = joining.generated;
  joining.computed = match.reused;
  joining.save_ordered = 0;
  joining.proposed = 0;
  // Less than a block from another one a state is not worth its memory.
  const int64_t to_others = std::min(match.whole - match.reused, std::abs(joining.stable_end() - match.whole));
  const bool apart = to_others >= cache_.block_tokens();
  joining.branch = apart ? match.whole : 0;
  if (planted(PlantedBug::kResumeOffByOne) && joining.preemption_count > 0) ++joining.computed;
  running_.insert(joining.key, index);
  Edit edit;
  edit.kind = EditKind::kJoin;
  edit.row = joining.row;
  edit.state = cache_.join(joining.row, joining.salt, match);
  edit.first = static_cast<int32_t>(draft->plan->sampling.size());
  edit.prompt_length = joining.prompt_count;
  draft->plan->edits.push_back(edit);
  SamplingParams& sampling = draft->plan->sampling.emplace_back(joining.sampling);
  // Log-probabilities that went out before a preemption are not computed again.
  if (joining.prompt_rows_published == joining.prompt_count - 1) sampling.prompt_logprobs = -1;
  cache_.adopt(joining.row, joining.tokens.count, match, draft->plan);
  if (match.reused > 0 && has_penalties(joining.sampling)) {
    Edit& restore = draft->plan->edits.back();
    restore.first = static_cast<int32_t>(draft->plan->tokens.size());
    restore.count = static_cast<int32_t>(match.reused);
    store_.read(&joining.tokens, 0, match.reused, &draft->plan->tokens);
    draft->history_used = true;
  }
}

void Scheduler::count_admission(Sequence* admitted, const PrefixMatch& match) {
  bool overtakes = false;
  bool promoted = false;
  for (int32_t position = 0; position < waiting_.size(); ++position) {
    const Sequence& other = sequence(waiting_.at(position).index);
    overtakes |= other.arrival_us < admitted->arrival_us;
    promoted |= other.priority < admitted->priority;
  }
  counters_.overtakes += overtakes ? 1 : 0;
  counters_.promotions += promoted ? 1 : 0;
  ++counters_.admitted;
  counters_.admitted_prompt_tokens += admitted->prompt_count;
  PrefixReuse& reuse = admitted->reuse;
  reuse.matched = static_cast<int32_t>(match.matched);
  reuse.reused = static_cast<int32_t>(match.reused);
  reuse.lost_to_checkpoint = reuse.matched - reuse.reused;
  reuse.lost_to_eviction = static_cast<int32_t>(match.lost_to_eviction);
  counters_.matched_tokens += reuse.matched;
  counters_.reused_tokens += reuse.reused;
  counters_.lost_to_checkpoint += reuse.lost_to_checkpoint;
  counters_.lost_to_eviction += reuse.lost_to_eviction;
}

}  // namespace weir
