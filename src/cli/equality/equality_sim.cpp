// equality_sim [--schedules N] [--seed S] [--models NAME,NAME] [--reach-min N] [--seconds T]: schedules S .. S + N - 1,
// the models in turn, a block of schedules each; a name given twice has two turns. Run at the repository's root. Ends
// with 1 at the first difference, or if something was reached too rarely. Totals of several runs add up.
// equality_sim --endurance N [--models NAME] [--seed S]: N steps of sequences with drafts, and how often these are
// accepted over time. Ends with 1 where that gets less.
// equality_sim --distribution N [--models NAME] [--drafts K] [--seed S]: N samples of three tokens, of the seeds from S
// on, with 0, 1, 2 and 3 drafts each, or with K, against the model's probabilities. Ends with 1 where chance would give
// such a chi-square once in a thousand times.
// equality_sim --conversations N [--turns T] [--models NAME,NAME] [--seed S] [--reach-min N]: conversations S .. S + N
// - 1 of T turns each, the models in turn, a block each, under the default policy of reuse, --reuse-generated and
// without a cache: what each computes again, what it takes, and how often answers differ. Ends with 1 where the
// default's are not those without a cache, bit for bit, on the CPU --reuse-generated's too, and where that policy went
// on in generated rows less than N times, or never.
// equality_sim --storm N [--models NAME] [--seed S]: N prompts that come again and again to memory for a tenth of what
// they leave, beside sequences that decode (storm.h): the times of all kinds of steps, and of the planning alone. Ends
// with 1 where evictions make a step take more than twice the median of its kind, where a plan takes longer than a step
// in which sequences decode alone, or evicts more than it takes.
// --jobs N: schedules, conversations and samples by N threads of this one process, each with models of its own.
// --seconds T: all of them end within about T seconds, and say how far they got; with 1 if that is nowhere.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cli/equality/block_jobs.h"
#include "cli/equality/conversations.h"
#include "cli/equality/deadline.h"
#include "cli/equality/distribution.h"
#include "cli/equality/endurance.h"
#include "cli/equality/equality.h"
#include "cli/equality/jobs.h"
#include "cli/equality/storm.h"
#include "runner/cpu_caches.h"
#include "runner/test_model.h"

namespace weir::equality {
namespace {

// moe-fit's shapes are those that packed weights and drafts on a GPU take: every second turn.
constexpr const char* kModels =
    "moe-fit,moe-odd,moe-fit,next,moe-fit,moe-fp8,moe-fit,moe-real,moe-fit,moe-mxfp4,moe-fit,dense-tied";

// Those with a draft head that a GPU can run too come more often.
constexpr const char* kTalkers = "moe-fit,moe-odd,moe-fit,next,moe-fit,moe-fit fp8";

constexpr int64_t kJobsMax = 256;  // far more than there are processors to turn engines

struct Options {
  int64_t schedules = 100;
  uint64_t seed = 1;
  int64_t reach_min = 0;
  int64_t samples = 0;
  int64_t steps = 0;
  int64_t conversations = 0;
  int64_t turns = 4;
  int64_t prompts = 0;
  int64_t drafts = -1;
  int64_t seconds = 0;
  int64_t jobs = 1;
  std::string models;
};

int usage() {
  fmt::print(stderr,
             "usage: equality_sim [--schedules N] [--seed S] [--models NAME,NAME] [--reach-min N] | --distribution N "
             "[--drafts K] [--seed S] | --endurance N [--seed S] | --conversations N [--turns T] [--seed S] "
             "[--models NAME,NAME] [--reach-min N] | --storm N [--models NAME] [--seed S]; [--jobs N] [--seconds T]\n");
  return 2;
}

// The names in --models, or in what stands for it.
std::vector<std::string> models_of(const Options& options, const char* by_default) {
  const std::string names = options.models.empty() ? by_default : options.models;
  std::vector<std::string> out;
  for (size_t begin = 0; begin < names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    out.push_back(names.substr(begin, end - begin));
    begin = end + 1;
  }
  return out;
}

// "12 of next, 3 of moe-odd".
std::string of_each(const std::map<std::string, int64_t>& counts) {
  std::string out;
  for (const auto& [name, count] : counts) out += fmt::format("{}{} of {}", out.empty() ? "" : ", ", count, name);
  return out;
}

using Loaded = Result<std::vector<std::unique_ptr<Model>>>;

// The model that --models names, so many times.
Loaded load(const Options& options, int64_t times) {
  std::vector<std::unique_ptr<Model>> models;
  for (int64_t i = 0; i < times; ++i) {
    WEIR_ASSIGN_OR_RETURN(auto model, load_golden_model(options.models.empty() ? golden_with_drafts() : options.models,
                                                        kPositions, {}, host_threads(times)));
    models.push_back(std::move(model));
  }
  return models;
}

int distribution(const std::vector<std::unique_ptr<Model>>& loaded, const Options& options) {
  std::vector<Model*> models;
  for (const auto& model : loaded) models.push_back(model.get());
  bool fits = true;
  for (const int32_t drafts : {0, 1, 2, 3}) {
    if (options.drafts >= 0 && options.drafts != drafts) continue;
    // Each has its part of the time.
    const Deadline deadline(options.drafts >= 0 ? options.seconds : options.seconds / 4);
    const Fit fit = fit_of_three_tokens(models, drafts, options.samples, options.seed, deadline);
    fmt::print(
        "{} drafts: {} samples, chi-square {:.1f} with {} degrees of freedom, p = {:.3f}; {} of {} drafts accepted; {} "
        "steps, {:.1f} s\n",
        drafts, fit.samples, fit.chi_square, fit.degrees, fit.p_value(), fit.accepted, fit.drafted, fit.steps,
        deadline.elapsed_s());
    fits &= fit.p_value() > 1e-3;
  }
  return fits ? 0 : 1;
}

int endurance(Model* model, const Options& options, const Deadline& deadline) {
  const Endurance out = run_endurance(model, options.steps, deadline, options.seed);
  const auto print = [](const char* what, const auto& tenths) {
    fmt::print("accepted, tenths of {}:", what);
    for (const Tenth& tenth : tenths) fmt::print(" {:.4f}", tenth.rate());
    fmt::print("\n");
  };
  print("the steps", out.by_age);
  print("a sequence", out.by_position);
  fmt::print("{} of {} steps of sequences with drafts, in {} steps, {:.1f} s\n", out.rounds, options.steps, out.steps,
             deadline.elapsed_s());
  return out.decays() ? 1 : 0;
}

// Microseconds of the thread.
struct HostTimes {
  double median = 0;
  double p99 = 0;
  double max = 0;
};
HostTimes host_times(const std::vector<StormStep>& steps, int64_t StormStep::* ns) {
  std::vector<int64_t> sorted;
  for (const StormStep& step : steps) sorted.push_back(step.*ns);
  std::sort(sorted.begin(), sorted.end());
  const auto at = [&](size_t hundredths) {
    return static_cast<double>(sorted[(sorted.size() - 1) * hundredths / 100]) / 1e3;
  };
  return {at(50), at(99), at(100)};
}

void print_kinds(const Storm& storm, const std::vector<KindTimes>& kinds) {
  std::vector<StormStep> each;
  for (const StormRun& run : storm.tenth.runs) each.insert(each.end(), run.steps.begin(), run.steps.end());
  std::map<StepKind, KindTimes> singles;
  for (KindTimes& kind : by_kind(each, {})) singles[kind.kind] = std::move(kind);
  fmt::print("  {:<46} {:>5} {:>8} | {:^46} | {:^17} | {:^17}\n", "", "", "while",
             "the middle one of the times of a step, us", "memory for all", "of all runs");
  fmt::print("  {:<46} {:>5} {:>8} | {:>8} {:>8} {:>8} {:>8} {:>10} | {:>8} {:>8} | {:>8} {:>8}\n", "steps", "",
             "evicting", "median", "99 %", "max", "evicting", "max/median", "median", "max", "99 %", "max");
  int64_t few = 0;
  for (const KindTimes& kind : kinds) {
    if (!kind.judged()) {
      few += kind.steps;
      continue;
    }
    const KindTimes& single = singles.at(kind.kind);
    fmt::print(
        "  {:<46} {:>5} {:>8} | {:>8.1f} {:>8.1f} {:>8.1f} {:>8.1f} {:>10.2f} | {:>8.1f} {:>8.1f} | {:>8.1f} "
        "{:>8.1f}{}\n",
        kind.kind.text(), kind.steps, kind.evicting, kind.median, kind.p99, kind.max(), kind.evicting_max,
        kind.max() / kind.typical(), kind.whole_median, kind.whole_max, single.p99, single.max(),
        kind.too_long() ? " TOO LONG" : "");
  }
  fmt::print("  {} steps of kinds with few of them are not judged\n", few);
}

void print_host(const char* what, const HostTimes& tenth, const HostTimes& whole) {
  fmt::print(
      "  {}, us of the thread: median {:.1f}, 99 % {:.1f}, max {:.1f}; with memory for all {:.1f}, {:.1f}, {:.1f}\n",
      what, tenth.median, tenth.p99, tenth.max, whole.median, whole.p99, whole.max);
}

// Whether evictions held nobody up.
bool print_storm(const StormConfig& config, const Storm& storm) {
  const StormRun& run = storm.tenth.runs.front();
  const StormRun& whole = storm.whole.runs.front();
  fmt::print("{}: {} prompts leave {} pages and {} states, {:.1f} times the memory; at most {} and {} were kept\n",
             config.one_memory ? "pages and states in one memory" : "pages and states apart", config.prompts,
             whole.pages_kept, whole.states_kept, storm.oversubscribed, run.pages_max, run.states_max);
  fmt::print(
      "  {} steps, {} times over; {} visits: {} reused something, {} found what they had left evicted, {} prompts had "
      "both\n",
      run.steps.size(), storm.tenth.runs.size(), run.visits, run.hits, run.lost, run.prompts_both);
  fmt::print("  {} blocks and {} states evicted, by one plan {} at most; {} preemptions\n", run.evicted_blocks,
             run.evicted_states, run.evicted_most, run.preemptions);
  const std::vector<StormStep> steps = storm.tenth.middle();
  const std::vector<StormStep> whole_steps = storm.whole.middle();
  const HostTimes plans = host_times(steps, &StormStep::plan_ns);
  const auto kinds = by_kind(steps, whole_steps);
  print_kinds(storm, kinds);
  print_host("plan()", plans, host_times(whole_steps, &StormStep::plan_ns));
  print_host("a turn", host_times(steps, &StormStep::turn_ns), host_times(whole_steps, &StormStep::turn_ns));
  bool right = true;
  const auto fail = [&](const std::string& text) {
    fmt::print("  {}\n", text);
    right = false;
  };
  double decoding = 0;
  for (const KindTimes& kind : kinds) {
    if (decoding == 0 && kind.kind.prompts.empty()) decoding = kind.median;
    if (!kind.too_long()) continue;
    fail(fmt::format("{}: a step takes {:.2f} times the median while blocks are evicted, others at most {:.2f}",
                     kind.kind.text(), kind.evicting_max / kind.typical(),
                     std::max(kind.others_max, kind.whole_max) / kind.typical()));
  }
  if (plans.max > decoding) fail(fmt::format("a plan takes {:.1f} us, a step {:.1f}", plans.max, decoding));
  if (run.evicted_beyond > 0) fail(fmt::format("a plan evicts {} blocks more than it takes", run.evicted_beyond));
  if (decoding == 0 || std::none_of(kinds.begin(), kinds.end(), [](const KindTimes& kind) { return kind.judged(); })) {
    fail("no kind of step came often enough to be judged: give more prompts");
  }
  if (run.prompts_both < config.prompts) fail("not every prompt was found and evicted: the schedule says little");
  return right;
}

int storms(Model* model, const Options& options, const Deadline& deadline) {
  StormConfig config;
  config.prompts = options.prompts;
  config.seed = options.seed;
  bool right = true;
  const bool has_states = cache_layout(model->config, model->cache_sizes(), false).state_slot_bytes > 0;
  for (const bool one_memory : {false, true}) {
    if (one_memory && (!has_states || deadline.passed())) continue;
    config.one_memory = one_memory;
    const auto storm = run_storm(model, config, deadline);
    if (!storm.ok()) {
      fmt::print(stderr, "{}\n", storm.error().text());
      return 2;
    }
    right &= print_storm(config, *storm);
  }
  fmt::print("{}; {:.1f} s\n", right ? "evictions hold nobody up" : "evictions hold somebody up", deadline.elapsed_s());
  return right ? 0 : 1;
}

int report(const Tally& tally, const Options& options, const Deadline& deadline) {
  int64_t least = INT64_MAX;
  for (size_t i = 0; i < tally.reach.size(); ++i) {
    const bool possible = tally.possible[i];
    fmt::print("{:>10}  {}{}\n", tally.reach[i], kReachedNames[i], possible ? "" : " (not here)");
    if (possible) least = std::min(least, tally.reach[i]);
  }
  const Work& work = tally.work;
  fmt::print("{} requests alone in {} steps of {} rows; schedules in {} steps of {} rows; {:.1f} s\n", work.alone,
             work.alone_steps, work.alone_rows, work.steps, work.rows, deadline.elapsed_s());
  if (tally.done() == 0) {
    fmt::print("no schedule was run\n");
    return 1;
  }
  fmt::print("{} of {} schedules from seed {} ({}): every request has the bits that it has alone\n", tally.done(),
             options.schedules, options.seed, of_each(tally.schedules));
  if (least >= options.reach_min) return 0;
  fmt::print("something was reached only {} times, less than {}\n", least, options.reach_min);
  return 1;
}

int schedules(const Options& options, const Deadline& deadline) {
  const Asked asked{
      .seed = options.seed, .schedules = options.schedules, .jobs = options.jobs, .turns = models_of(options, kModels)};
  const auto tally = run_schedules(asked, deadline);
  if (!tally.ok()) {
    fmt::print(stderr, "{}\n", tally.error().text());
    return 2;
  }
  if (!tally->failure) return report(*tally, options, deadline);
  const Failure& failure = *tally->failure;
  for (const auto& problem : failure.problems) fmt::print("{}\n", problem);
  fmt::print("seed {} fails: equality_sim --schedules 1 --seed {} --models {} (after {} schedules from seed {}{})\n",
             failure.seed, failure.seed, failure.model, tally->done() - 1, options.seed,
             options.jobs > 1 ? fmt::format(" by {} jobs", options.jobs) : "");
  return 1;
}

void print(const Compared& compared, const char* what) {
  fmt::print("{}: {} of {} turns differ, {} of {} tokens", what, compared.turns_differ, compared.turns,
             compared.tokens_differ, compared.tokens);
  if (compared.turns_differ > 0) {
    fmt::print("; one token in {:.0f} is the first of its turn that does",
               static_cast<double>(compared.tokens_until) / static_cast<double>(compared.turns_differ));
  }
  fmt::print("\n");
}

void print(const Talked& talked, const Options& options) {
  fmt::print(
      "{} of {} conversations of {} turns from seed {} ({}): {} turns, {} prompt tokens, {} of them new; {} tokens "
      "answered, {} of them followed by a turn, {} answers end on the grid\n",
      talked.done(), options.conversations, options.turns, options.seed, of_each(talked.conversations), talked.turns,
      talked.prompt_tokens, talked.new_tokens, talked.answer_tokens, talked.known_answers, talked.answers_on_grid);
  for (size_t i = 0; i < kPolicies; ++i) {
    const Spent& spent = talked.spent[i];
    fmt::print(
        "{}: of the prompts' tokens {} reused, {} computed again, {} of them answers; {} turns went on in "
        "generated rows; {} of {} drafts accepted; {} steps of {} rows, {:.2f} s\n",
        kPolicyNames[i], spent.reused, spent.answers + spent.prompts, spent.answers, spent.in_answers, spent.accepted,
        spent.drafted, spent.steps, spent.rows, spent.seconds);
  }
  fmt::print("--reuse-generated beside the default, behind the same prompt:\n");
  for (size_t i = 0; i < kChoices; ++i) print(talked.compared[i], kChoiceNames[i]);
  print(talked.behind, "behind a difference");
  fmt::print("largest difference of a log-probability: {:.3g}\n", talked.logprob_difference);
}

int conversations(const Options& options, const Deadline& deadline) {
  const auto talked = run_conversations({.seed = options.seed,
                                         .conversations = options.conversations,
                                         .turns = options.turns,
                                         .jobs = options.jobs,
                                         .models = models_of(options, kTalkers)},
                                        deadline);
  if (!talked.ok()) {
    fmt::print(stderr, "{}\n", talked.error().text());
    return 2;
  }
  print(*talked, options);
  if (!talked->problems.empty()) {
    for (const auto& problem : talked->problems) fmt::print("{}\n", problem);
    fmt::print("fails: {}\n", talked->failed);
    return 1;
  }
  const int64_t reached = talked->under(Policy::kReuseGenerated).in_answers;
  if (reached < std::max<int64_t>(1, options.reach_min)) {
    fmt::print("{} turns went on in generated rows: too few to say anything\n", reached);
    return 1;
  }
  fmt::print("the default has the bits of no cache; {:.1f} s\n", deadline.elapsed_s());
  return 0;
}

constexpr unsigned long long kNumberMax = 1'000'000'000'000;

bool parse(int argc, char** argv, Options* options) {
  if (argc % 2 == 0) return false;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view flag = argv[i];
    if (flag == "--models") {
      options->models = argv[i + 1];
      continue;
    }
    char* end = nullptr;
    const unsigned long long value = std::strtoull(argv[i + 1], &end, 10);
    if (*end != '\0') return false;
    const std::map<std::string_view, int64_t*> numbers = {{"--schedules", &options->schedules},
                                                          {"--reach-min", &options->reach_min},
                                                          {"--endurance", &options->steps},
                                                          {"--distribution", &options->samples},
                                                          {"--conversations", &options->conversations},
                                                          {"--turns", &options->turns},
                                                          {"--storm", &options->prompts},
                                                          {"--drafts", &options->drafts},
                                                          {"--seconds", &options->seconds},
                                                          {"--jobs", &options->jobs}};
    if (flag == "--seed") {
      options->seed = value;
    } else if (const auto number = numbers.find(flag); number != numbers.end()) {
      if (value > kNumberMax) {
        fmt::print(stderr, "{} is {}: give at most {}\n", flag, argv[i + 1], kNumberMax);
        return false;
      }
      if (value == 0 && flag != "--drafts" && flag != "--reach-min" && flag != "--seconds") {
        fmt::print(stderr, "{} is 0: give 1 or more\n", flag);
        return false;
      }
      *number->second = static_cast<int64_t>(value);
    } else {
      return false;
    }
  }
  if (options->turns < kConversationTurnsMin || options->turns > kConversationTurnsMax) {
    fmt::print(stderr, "--turns is {}: give {} to {}\n", options->turns, kConversationTurnsMin, kConversationTurnsMax);
    return false;
  }
  return options->jobs >= 1 && options->jobs <= kJobsMax;
}

int run(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, &options)) return usage();
  const Deadline deadline(options.seconds);
  if (options.conversations > 0) return conversations(options, deadline);
  if (options.steps == 0 && options.samples == 0 && options.prompts == 0) return schedules(options, deadline);
  const Loaded models = load(options, options.samples > 0 ? options.jobs : 1);
  if (!models.ok()) {
    fmt::print(stderr, "{}\n", models.error().text());
    return 2;
  }
  if (options.prompts > 0) return storms(models->front().get(), options, deadline);
  return options.steps > 0 ? endurance(models->front().get(), options, deadline) : distribution(*models, options);
}

}  // namespace
}  // namespace weir::equality

int main(int argc, char** argv) {
  return weir::equality::run(argc, argv);
}
