// trace_replay FILE [--pages N] [--states N] [--interval TOKENS] ...: replays a trace through the scheduler and the
// prefix cache (replay.h) and prints how much of it was reused, beside what caches without bounds would reuse.
// A 35B model's page is 1.25 MiB and its state 80 MiB: B GiB split in halves are 409.6 B pages and 6.4 B states.
#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "engine/sim/replay.h"

namespace weir::sim {
namespace {

int usage() {
  fmt::print(
      stderr,
      "usage: trace_replay FILE [--requests N] [--turns blocks|prompts|answers] [--pages N] [--states N]\n"
      "  [--interval TOKENS] [--rows N] [--step-tokens N] [--context TOKENS] [--step-us N] [--token-us N]\n"
      "  [--units N [--pages-a-state N]]: one memory of so many states or pages, instead of --pages and --states\n"
      "  [--no-states 1] [--unbounded 0|1] [--times 0|1]\n"
      "0 pages or states: as many as are ever asked for\n");
  return 2;
}

double percent(int64_t part, int64_t whole) {
  return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

void print_tokens(std::string_view name, int64_t tokens, const ReplayReport& report) {
  fmt::print("  {:<22} {:>12}  {:5.1f} % of the prompts\n", name, tokens, percent(tokens, report.prompt_tokens));
}

void print(std::string_view title, const ReplayReport& report) {
  fmt::print("{}\n  {:<22} {:>12}  ({} refused)\n  {:<22} {:>12}\n", title, "requests", report.requests, report.refused,
             "prompt tokens", report.prompt_tokens);
  print_tokens("known by equality", report.known_tokens, report);
  print_tokens("matched", report.matched_tokens, report);
  print_tokens("reused", report.reused_tokens, report);
  print_tokens("lost to checkpoint", report.lost_to_checkpoint, report);
  print_tokens("lost to eviction", report.lost_to_eviction, report);
  fmt::print("  reused of known        {:11.1f} %\n", percent(report.reused_tokens, report.known_tokens));
  fmt::print("  evicted: {} blocks, {} states; kept at the end: {} pages, {} states; {} saves\n", report.evicted_blocks,
             report.evicted_checkpoints, report.pages_kept, report.checkpoints_kept, report.checkpoints_saved);
  fmt::print("  {} steps, {} preemptions, {} tokens computed again; {:.0f} s, first token after {:.2f} s (mean)\n",
             report.steps, report.preemptions, report.recomputed_tokens, static_cast<double>(report.end_us) / 1e6,
             static_cast<double>(report.first_token_us) / 1e6);
  fmt::print("  a plan at most: {} pages taken, {} blocks evicted, {} beyond what it took\n", report.plan_pages_max,
             report.plan_evicted_max, std::max<int64_t>(0, report.plan_evicted_excess));
}

void print_times(ReplayReport* report) {
  if (report->plan_ns.empty()) return;
  std::sort(report->plan_ns.begin(), report->plan_ns.end());
  const auto at = [&](double share) {
    const auto last = static_cast<double>(report->plan_ns.size() - 1);
    return static_cast<double>(report->plan_ns[static_cast<size_t>(share * last)]) / 1e3;
  };
  fmt::print("  plan(): median {:.1f} us, 99 % {:.1f} us, 99.9 % {:.1f} us, max {:.1f} us\n", at(0.5), at(0.99),
             at(0.999), at(1.0));
}

struct Asked {
  ReplayConfig config;
  int64_t requests = INT64_MAX;
  TraceTurns turns = TraceTurns::kBlocks;
  bool unbounded = true;
};

bool take_turns(std::string_view text, TraceTurns* turns) {
  constexpr std::pair<std::string_view, TraceTurns> kNames[] = {
      {"blocks", TraceTurns::kBlocks}, {"prompts", TraceTurns::kPrompts}, {"answers", TraceTurns::kAnswers}};
  for (const auto& [name, value] : kNames) {
    if (text == name) *turns = value;
    if (text == name) return true;
  }
  return false;
}

bool take(std::string_view flag, const char* text, Asked* asked) {
  if (flag == "--turns") return take_turns(text, &asked->turns);
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  if (end == text || *end != '\0' || value < 0 || value > INT32_MAX) return false;
  const auto small = static_cast<int32_t>(value);
  ReplayConfig& config = asked->config;
  if (flag == "--requests") return asked->requests = value, true;
  if (flag == "--pages") return config.pages = small, true;
  if (flag == "--states") return config.states = small, true;
  if (flag == "--units") return config.units = small, true;
  if (flag == "--pages-a-state") return config.pages_a_state = small, true;
  if (flag == "--interval") return config.interval = value, true;
  if (flag == "--rows") return config.rows = small, true;
  if (flag == "--step-tokens") return config.step_tokens = small, true;
  if (flag == "--context") return config.context = value, true;
  if (flag == "--step-us") return config.step_us = value, true;
  if (flag == "--token-us") return config.token_us = value, true;
  if (flag == "--no-states") return config.has_states = value == 0, true;
  if (flag == "--unbounded") return asked->unbounded = value != 0, true;
  if (flag == "--times") return config.time_plans = value != 0, true;
  return false;
}

int fail(const Error& error) {
  fmt::print(stderr, "trace_replay: {}; {}\n", error.message, error.remedy);
  return 1;
}

int run(const char* path, const Asked& asked) {
  const Result<Trace> trace = Trace::read(path, asked.requests, asked.turns);
  if (!trace.ok()) return fail(trace.error());
  Result<ReplayReport> report = replay(*trace, asked.config);
  if (!report.ok()) return fail(report.error());
  print(fmt::format("{} pages, {} states (0: without bounds), a state every {} tokens, {} rows", asked.config.pages,
                    asked.config.states, asked.config.interval, asked.config.rows),
        *report);
  print_times(&*report);
  if (!asked.unbounded || (asked.config.pages == 0 && asked.config.states == 0)) return 0;
  ReplayConfig without = asked.config;
  without.pages = 0;
  without.states = 0;
  const Result<ReplayReport> all = replay(*trace, without);
  if (!all.ok()) return fail(all.error());
  fmt::print("\n");
  print("caches without bounds", *all);
  fmt::print("\nreused: {:.1f} % of what caches without bounds reuse\n",
             percent(report->reused_tokens, all->reused_tokens));
  return 0;
}

}  // namespace
}  // namespace weir::sim

int main(int argc, char** argv) {
  if (argc < 2 || argc % 2 != 0) return weir::sim::usage();
  weir::sim::Asked asked;
  for (int i = 2; i + 1 < argc; i += 2) {
    if (!weir::sim::take(argv[i], argv[i + 1], &asked)) return weir::sim::usage();
  }
  return weir::sim::run(argv[1], asked);
}
