#include "engine/sim/replay.h"

#include <algorithm>
#include <array>

#include "base/thread_time.h"
#include "engine/sim/taken.h"
#include "sched/scheduler.h"

namespace weir::sim {

namespace {

struct Flight {
  StepPlan plan;
  std::vector<WorkOwner> owners;
};

int64_t blocks_of(int64_t tokens) {
  return (tokens + kGridTokens - 1) / kGridTokens;
}

// A block for every 64 tokens of everything that is in the trace, and room for all rows beside that.
int64_t pages_without_bounds(const Trace& trace, const ReplayConfig& config) {
  int64_t pages = int64_t{trace.hash_count()} * (kTraceBlockTokens / kGridTokens);
  for (const TraceRequest& request : trace.requests()) pages += blocks_of(request.output_length) + 2;
  return pages + config.rows * blocks_of(config.context);
}

int64_t states_without_bounds(const Trace& trace, const ReplayConfig& config) {
  int64_t states = 0;
  for (const TraceRequest& request : trace.requests()) {
    states += 3;  // the branch, the end of the prompt, and one for the rounding of the intervals
    if (config.interval > 0) states += (request.input_length + request.output_length) / config.interval;
  }
  return states;
}

RunnerLimits limits_of(const Trace& trace, const ReplayConfig& config) {
  RunnerLimits limits;
  limits.rows_max = config.rows;
  limits.step_tokens_max = config.step_tokens;
  limits.sequence_tokens_max = config.context;
  limits.vocabulary = kTraceVocabulary;
  if (config.units > 0) {
    limits.state_slots = config.units;
    limits.pages = {config.units * config.pages_a_state};
    return limits;
  }
  limits.pages = {config.pages > 0 ? config.pages : static_cast<int32_t>(pages_without_bounds(trace, config))};
  const int64_t kept = config.states > 0 ? config.states : states_without_bounds(trace, config);
  limits.state_slots = config.rows + static_cast<int32_t>(kept);
  return limits;
}

SchedulerConfig scheduler_config_of(const Trace& trace, const ReplayConfig& config) {
  SchedulerConfig scheduler;
  scheduler.queue_requests_max = static_cast<int32_t>(config.queue_requests);
  scheduler.queue_tokens_max = config.queue_requests * config.context;
  scheduler.aging_us = 1'000'000;
  scheduler.prefix_caching = true;
  scheduler.reuse_generated = trace.turns() == TraceTurns::kAnswers;
  scheduler.checkpoint_interval = config.interval;
  return scheduler;
}

CacheLayout layout_of(const ReplayConfig& config) {
  return {{{"kv", 1, kGridTokens}}, config.has_states ? 1 : 0, 0, config.units > 0 ? config.pages_a_state : 0};
}

class Replay {
 public:
  Replay(const Trace& trace, const ReplayConfig& config)
      : trace_(trace),
        config_(config),
        scheduler_(scheduler_config_of(trace, config), layout_of(config), limits_of(trace, config)) {
    for (Flight& flight : flights_) scheduler_.reserve(&flight.plan, &flight.owners);
  }

  ReplayReport run() {
    const auto total = static_cast<int32_t>(trace_.requests().size());
    while (next_ < total || in_flight_ > 0) {
      arrive();
      while (in_flight_ < static_cast<int32_t>(flights_.size()) && plan(&flights_[static_cast<size_t>(in_flight_)])) {
        ++in_flight_;
      }
      if (in_flight_ > 0) {
        settle(flights_[0]);
        std::swap(flights_[0], flights_[1]);
        --in_flight_;
      } else if (next_ < total) {
        now_us_ = std::max(now_us_, trace_.requests()[static_cast<size_t>(next_)].arrival_us);
      }
    }
    finish();
    return std::move(report_);
  }

 private:
  void arrive() {
    const auto& requests = trace_.requests();
    while (next_ < static_cast<int32_t>(requests.size()) && scheduler_.waiting() < config_.queue_requests) {
      const TraceRequest& request = requests[static_cast<size_t>(next_)];
      if (request.arrival_us > now_us_) return;
      const int32_t index = next_++;
      if (request.input_length >= scheduler_.sequence_tokens_max()) {
        ++report_.refused;
        continue;
      }
      sampling_.max_tokens = request.output_length;
      const int32_t record =
          scheduler_.add({static_cast<SequenceId>(index) + 1, request.arrival_us, 0, &sampling_, {}, 0});
      trace_.prompt(index, &tokens_);
      scheduler_.append_prompt(record, tokens_);
      ++report_.requests;
      report_.prompt_tokens += request.input_length;
      report_.known_tokens += request.known;
    }
  }

  bool plan(Flight* flight) {
    flight->plan.clear();
    const int64_t evicted_before = scheduler_.cache().evicted_blocks();
    report_.evicted_between_plans += evicted_before - evicted_seen_;
    const int64_t start_ns = config_.time_plans ? thread_ns() : 0;
    const bool planned = scheduler_.plan(now_us_, &flight->plan, &flight->owners);
    const int64_t end_ns = config_.time_plans ? thread_ns() : 0;
    evicted_seen_ = scheduler_.cache().evicted_blocks();
    if (!planned) return false;
    if (config_.time_plans) report_.plan_ns.push_back(end_ns - start_ns);
    measure(flight->plan, evicted_seen_ - evicted_before);
    return true;
  }

  void measure(const StepPlan& plan, int64_t evicted) {
    const Taken taken = taken_by(plan);
    report_.checkpoints_saved += taken.saves;
    report_.plan_pages_max = std::max(report_.plan_pages_max, taken.pages);
    report_.plan_evicted_max = std::max(report_.plan_evicted_max, evicted);
    const int64_t allowed = taken.evictions_max(config_.units > 0 ? config_.pages_a_state : 0);
    report_.plan_evicted_excess = std::max(report_.plan_evicted_excess, evicted - allowed);
    ++report_.steps;
  }

  void settle(const Flight& flight) {
    now_us_ += config_.step_us + config_.token_us * flight.plan.token_total();
    for (size_t i = 0; i < flight.owners.size(); ++i) {
      const WorkOwner& owner = flight.owners[i];
      const auto request = static_cast<int32_t>(owner.id) - 1;
      const bool first = owner.samples && scheduler_.sequence(owner.index).generated == 0;
      SequenceResult result;
      result.token_count = owner.samples ? 1 : 0;
      const TokenId token =
          owner.samples ? trace_.answer(request, scheduler_.sequence(owner.index).generated) : TokenId{0};
      StopReason stop{};
      const int32_t index =
          scheduler_.settle(owner, result, std::span(&token, owner.samples ? 1U : 0U), now_us_, &stop);
      WEIR_CHECK(index >= 0, "request {} ended while it was computed", request);
      if (first) waited_us_ += now_us_ - trace_.requests()[static_cast<size_t>(request)].arrival_us;
      if (stop != StopReason::kNone) scheduler_.forget(index);
    }
  }

  void finish() {
    WEIR_CHECK(scheduler_.any_live() < 0, "a request was not finished");
    const SchedulerCounters& counters = scheduler_.counters();
    report_.matched_tokens = counters.matched_tokens;
    report_.reused_tokens = counters.reused_tokens;
    report_.lost_to_checkpoint = counters.lost_to_checkpoint;
    report_.lost_to_eviction = counters.lost_to_eviction;
    report_.preemptions = counters.preemptions;
    report_.recomputed_tokens = counters.recomputed_tokens;
    report_.evicted_blocks = scheduler_.cache().evicted_blocks();
    report_.evicted_checkpoints = scheduler_.cache().evicted_checkpoints();
    report_.pages_kept = scheduler_.cache().pages_kept();
    report_.checkpoints_kept = scheduler_.cache().checkpoints();
    report_.end_us = now_us_;
    report_.first_token_us = report_.requests > 0 ? waited_us_ / report_.requests : 0;
  }

  const Trace& trace_;
  ReplayConfig config_;
  Scheduler scheduler_;
  std::array<Flight, 2> flights_;  // a plan is made before the results of the one before it are known
  int32_t in_flight_ = 0;
  int32_t next_ = 0;
  int64_t now_us_ = 0;
  int64_t waited_us_ = 0;
  int64_t evicted_seen_ = 0;
  SamplingParams sampling_;
  std::vector<TokenId> tokens_;
  ReplayReport report_;
};

}  // namespace

Result<ReplayReport> replay(const Trace& trace, const ReplayConfig& config) {
  WEIR_RETURN_IF_ERROR(
      Scheduler::check(scheduler_config_of(trace, config), layout_of(config), limits_of(trace, config)));
  return Replay(trace, config).run();
}

}  // namespace weir::sim
