#include "server/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

namespace weir {

namespace {

// Bucket bounds are vLLM's, so that its dashboards' quantiles mean the same here.
const std::vector<double> kFirstTokenBounds = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                                               1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0};
const std::vector<double> kTokenBounds = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,  0.3,  0.4, 0.5,
                                          0.75, 1.0,   2.5,  5.0,   7.5, 10.0, 20.0, 40.0, 80.0};
const std::vector<double> kRequestBounds = {0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
                                            30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
const std::vector<double> kChoiceBounds = {1, 2, 5, 10, 20};

// 1, 2, 5, 10, 20, 50, ... up to `limit`.
std::vector<double> token_bounds(int64_t limit) {
  std::vector<double> bounds;
  for (int64_t power = 1;; power *= 10) {
    for (int64_t digit : {1, 2, 5}) {
      if (digit * power > limit) {
        return bounds;
      }
      bounds.push_back(static_cast<double>(digit * power));
    }
  }
}

std::string number(double value) {
  if (std::isinf(value)) {
    return value > 0 ? "+Inf" : "-Inf";
  }
  return std::floor(value) == value && std::abs(value) < 1e15 ? fmt::format("{:.1f}", value) : fmt::format("{}", value);
}

std::string_view outcome_word(size_t outcome) {
  constexpr std::array<std::string_view, kOutcomeCount> kWords = {"stop", "length", "abort", "error"};
  return kWords[outcome];
}

}  // namespace

Histogram::Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1, 0) {}

void Histogram::observe(double value, int64_t times) {
  const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[static_cast<size_t>(bucket)] += times;
  count_ += times;
  sum_ += value * static_cast<double>(times);
}

std::vector<int64_t> Histogram::cumulative() const {
  std::vector<int64_t> out = counts_;
  for (size_t i = 1; i < out.size(); ++i) {
    out[i] += out[i - 1];
  }
  return out;
}

std::string escape_label(std::string_view value) {
  std::string out;
  for (char c : value) {
    if (c == '\\' || c == '"') {
      out += '\\';
    }
    out += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return out;
}

void MetricsText::family(std::string_view name, std::string_view type, std::string_view help) {
  if (skips(name)) {
    return;
  }
  fmt::format_to(std::back_inserter(out_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

void MetricsText::sample(std::string_view name, double value, std::string_view extra) {
  if (skips(name)) {
    return;
  }
  fmt::format_to(std::back_inserter(out_), "{}{{{}{}{}}} {}\n", name, labels_, extra.empty() ? "" : ",", extra,
                 number(value));
}

void MetricsText::gauge(std::string_view name, std::string_view help, double value, std::string_view extra) {
  family(name, "gauge", help);
  sample(name, value, extra);
}

void MetricsText::counter(std::string_view name, std::string_view help, double value, std::string_view extra) {
  family(name, "counter", help);
  sample(name, value, extra);
}

void MetricsText::histogram(std::string_view name, std::string_view help, const Histogram& histogram) {
  family(name, "histogram", help);
  const std::vector<int64_t> counts = histogram.cumulative();
  const std::string bucket = fmt::format("{}_bucket", name);
  for (size_t i = 0; i < counts.size(); ++i) {
    const double bound = i < histogram.bounds().size() ? histogram.bounds()[i] : INFINITY;
    sample(bucket, static_cast<double>(counts[i]), fmt::format("le=\"{}\"", number(bound)));
  }
  sample(fmt::format("{}_count", name), static_cast<double>(histogram.count()));
  sample(fmt::format("{}_sum", name), histogram.sum());
}

ServerMetrics::ServerMetrics(int64_t context_tokens)
    : time_to_first_token(kFirstTokenBounds),
      inter_token_latency(kTokenBounds),
      time_per_output_token(kTokenBounds),
      end_to_end(kRequestBounds),
      queue_time(kRequestBounds),
      prefill_time(kRequestBounds),
      decode_time(kRequestBounds),
      inference_time(kRequestBounds),
      prompt_tokens(token_bounds(context_tokens)),
      generation_tokens(token_bounds(context_tokens)),
      max_generation_tokens(token_bounds(context_tokens)),
      params_max_tokens(token_bounds(context_tokens)),
      params_n(kChoiceBounds) {}

void ServerMetrics::finish(Outcome outcome, const RequestTimes& times, int64_t prompt, int64_t generated) {
  ++finished[static_cast<size_t>(outcome)];
  end_to_end.observe(times.end_to_end);
  queue_time.observe(times.queue);
  prefill_time.observe(times.prefill);
  decode_time.observe(times.decode);
  inference_time.observe(times.prefill + times.decode);
  prompt_tokens.observe(static_cast<double>(prompt));
  generation_tokens.observe(static_cast<double>(generated));
  if (generated > 1) {
    time_per_output_token.observe(times.decode / static_cast<double>(generated - 1));
  }
}

namespace {

void write_gauges(const EngineStats& engine, const MetricsContext& context, MetricsText* out) {
  const auto real = [](int64_t value) { return static_cast<double>(value); };
  const double pages = engine.pages_total > 0 ? real(engine.pages_used) / real(engine.pages_total) : 0;
  const double slots = engine.slots_total > 0 ? real(engine.slots_used) / real(engine.slots_total) : 0;
  out->gauge("vllm:num_requests_running", "Requests in the running batch.", real(engine.running));
  out->gauge("vllm:num_requests_waiting", "Requests waiting to be scheduled.", real(engine.waiting));
  out->gauge("vllm:kv_cache_usage_perc", "Share of the cache pages in use, 0 to 1.", pages);
  out->gauge("vllm:gpu_cache_usage_perc", "Old name of vllm:kv_cache_usage_perc.", pages);
  out->gauge("vllm:cache_config_info", "Sizes of the cache.", 1,
             fmt::format("block_size=\"{}\",num_gpu_blocks=\"{}\"", context.block_size, engine.pages_total));
  out->gauge("weir:build_info", "The version that runs.", 1,
             fmt::format("version=\"{}\"", escape_label(context.version)));
  out->gauge("weir:ready", "1 when /ready answers 200.", context.ready ? 1 : 0);
  out->gauge("weir:http_connections", "Open client connections.", real(context.connections));
  out->gauge("weir:open_requests", "Generation requests whose response is not complete.", real(context.open_requests));
  out->gauge("weir:waiting_tokens", "Prompt tokens of waiting requests.", real(engine.waiting_tokens));
  out->gauge("weir:preempted_requests", "Waiting requests that were preempted.", real(engine.preempted));
  out->gauge("weir:pages_used", "Cache pages in use.", real(engine.pages_used));
  out->gauge("weir:pages_total", "Cache pages.", real(engine.pages_total));
  out->gauge("weir:pages_kept", "Cache pages kept for prompts to come.", real(engine.pages_kept));
  out->gauge("weir:checkpoints", "Recurrent states kept for prompts to come.", real(engine.checkpoints));
  out->gauge("weir:state_slots_used", "Recurrent-state slots in use.", real(engine.slots_used));
  out->gauge("weir:state_slot_usage_ratio", "Share of the recurrent-state slots in use, 0 to 1.", slots);
  out->gauge("weir:steps_in_flight", "Steps submitted to the runner and not retired.", real(engine.steps_in_flight));
}

void write_counters(const ServerMetrics& metrics, const EngineStats& engine, MetricsText* out) {
  const auto real = [](int64_t value) { return static_cast<double>(value); };
  out->counter("vllm:prompt_tokens_total", "Prompt tokens processed.", real(metrics.prompt_tokens_total));
  out->counter("vllm:generation_tokens_total", "Tokens generated.", real(metrics.generation_tokens_total));
  out->family("vllm:request_success_total", "counter", "Finished requests by reason.");
  for (size_t i = 0; i < kOutcomeCount; ++i) {
    out->sample("vllm:request_success_total", real(metrics.finished[i]),
                fmt::format("finished_reason=\"{}\"", outcome_word(i)));
  }
  out->counter("vllm:num_preemptions_total", "Preemptions by recompute.", real(engine.preemptions));
  for (std::string_view prefix : {"vllm:prefix_cache", "vllm:gpu_prefix_cache"}) {
    out->counter(fmt::format("{}_queries_total", prefix), "Prompt tokens looked up in the prefix cache.",
                 real(engine.prompt_tokens));
    out->counter(fmt::format("{}_hits_total", prefix), "Prompt tokens found in the prefix cache.",
                 real(engine.cached_tokens));
  }
  out->counter("weir:prefix_matched_tokens_total", "Prompt tokens whose pages were known.",
               real(engine.matched_tokens));
  out->counter("weir:prefix_reused_tokens_total", "Prompt tokens that were not computed again.",
               real(engine.cached_tokens));
  out->counter("weir:prefix_lost_to_checkpoint_tokens_total",
               "Prompt tokens whose pages were known, without a recurrent state to go on from.",
               real(engine.lost_to_checkpoint));
  out->counter("weir:prefix_lost_to_eviction_tokens_total",
               "Prompt tokens that had been known until their pages were needed.", real(engine.lost_to_eviction));
  out->counter("weir:evicted_blocks_total", "Kept blocks of 64 tokens given up for others.",
               real(engine.evicted_blocks));
  out->counter("weir:evicted_checkpoints_total", "Kept recurrent states given up for others.",
               real(engine.evicted_checkpoints));
  out->counter("vllm:spec_decode_num_drafts_total", "Draft rounds.", real(engine.draft_rounds));
  out->counter("vllm:spec_decode_num_draft_tokens_total", "Drafts verified.", real(engine.draft_tokens));
  out->counter("vllm:spec_decode_num_accepted_tokens_total", "Drafts accepted.", real(engine.accepted_tokens));
  out->counter("weir:steps_total", "Engine steps.", real(engine.steps));
  out->counter("weir:recomputed_tokens_total", "Tokens computed again after a preemption.",
               real(engine.recomputed_tokens));
  out->counter("weir:refused_full_total", "Requests refused because the queue was full.", real(engine.refused_full));
  out->counter("weir:not_finite_total", "Sequences ended because the model's output was not finite.",
               real(engine.not_finite));
  out->counter("weir:priority_overtakes_total", "Admissions before an earlier arrival.", real(engine.overtakes));
  out->counter("weir:age_promotions_total", "Admissions before a better priority.", real(engine.promotions));
  out->counter("weir:event_stalls_total", "Engine turns that waited for the server to read.",
               real(engine.event_stalls));
  out->counter("weir:http_requests_total", "HTTP requests.", real(metrics.http_requests_total));
  out->counter("weir:http_refused_total", "HTTP requests answered with 4xx or 5xx.", real(metrics.http_refused_total));
  out->counter("weir:slow_readers_total", "Streams cut off because the client did not read.",
               real(metrics.slow_readers_total));
  out->counter("weir:keep_alive_comments_total", "Comments sent on silent streams.",
               real(metrics.keep_alive_comments_total));
}

void write_histograms(const ServerMetrics& metrics, MetricsText* out) {
  out->histogram("vllm:time_to_first_token_seconds", "From arrival to the first token.", metrics.time_to_first_token);
  out->histogram("vllm:inter_token_latency_seconds", "Between tokens of a request.", metrics.inter_token_latency);
  out->histogram("vllm:time_per_output_token_seconds", "Old name of vllm:inter_token_latency_seconds.",
                 metrics.inter_token_latency);
  out->histogram("vllm:request_time_per_output_token_seconds", "Mean time per token of a request after its first.",
                 metrics.time_per_output_token);
  out->histogram("vllm:e2e_request_latency_seconds", "From arrival to the last token.", metrics.end_to_end);
  out->histogram("vllm:request_queue_time_seconds", "Waiting for the first step.", metrics.queue_time);
  out->histogram("vllm:request_prefill_time_seconds", "From the first step to the first token.", metrics.prefill_time);
  out->histogram("vllm:request_decode_time_seconds", "From the first token to the last.", metrics.decode_time);
  out->histogram("vllm:request_inference_time_seconds", "From the first step to the last token.",
                 metrics.inference_time);
  out->histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", metrics.prompt_tokens);
  out->histogram("vllm:request_generation_tokens", "Generated tokens of a request.", metrics.generation_tokens);
  out->histogram("vllm:request_max_num_generation_tokens", "Most tokens of a choice of a request.",
                 metrics.max_generation_tokens);
  out->histogram("vllm:request_params_max_tokens", "max_tokens of a request.", metrics.params_max_tokens);
  out->histogram("vllm:request_params_n", "n of a request.", metrics.params_n);
}

}  // namespace

std::string metrics_text(const ServerMetrics& metrics, const EngineStats& engine, const MetricsContext& context) {
  // One engine per process: a data-parallel rank is a process of its own.
  MetricsText out(fmt::format("model_name=\"{}\",engine=\"0\"", escape_label(context.model_name)), context.with_vllm);
  write_gauges(engine, context, &out);
  write_counters(metrics, engine, &out);
  write_histograms(metrics, &out);
  return out.take();
}

}  // namespace weir
