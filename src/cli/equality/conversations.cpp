#include "cli/equality/conversations.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <mutex>
#include <optional>
#include <utility>

#include "cli/equality/block_jobs.h"
#include "cli/equality/catalogue.h"
#include "cli/equality/served.h"

namespace weir::equality {
namespace {

constexpr int64_t kEngineTurnsMax = 5'000'000;  // a block of conversations ends within seconds; one that does not hangs
constexpr int32_t kRows = 8;
constexpr int32_t kDrafts = 3;
constexpr int32_t kPromptTokens = 512;  // of a step, beside the rows that decode
constexpr int32_t kStates = 8;          // kept for each conversation: those that were gone on from leave first
constexpr int64_t kFirstMax = 300;
constexpr int64_t kNewMax = 60;
constexpr int64_t kAnswerMax = 140;

// One turn as it was drawn; what was said before it is the conversation's.
struct Turn {
  std::vector<TokenId> fresh;
  SamplingParams sampling;
  int32_t suffix_count = 0;
  Choice choice = Choice::kGreedy;
};
using Script = std::vector<Turn>;

// What is seen of its turns.
using Answers = std::vector<Outcome>;

constexpr int64_t to_grid(int64_t tokens) {
  return (tokens + kGridTokens - 1) / kGridTokens * kGridTokens;
}

// Tokens to come behind so many: any number, or as many as end on the grid or a token beside it.
int64_t draw_count(Random* random, int64_t position, int64_t low, int64_t high) {
  const int64_t count = between(random, low, high);
  if (one_in(random, 2)) return count;
  return std::max<int64_t>(1, to_grid(position + count) + between(random, -1, 1) - position);
}
constexpr int64_t kRounded = kGridTokens;  // more than `high` at most

constexpr int64_t context_of(int64_t turns) {
  return kFirstMax + kRounded + turns * (kNewMax + kAnswerMax + 2 * kRounded);
}
static_assert(context_of(kConversationTurnsMax) <= kPositions);

SamplingParams draw_sampling(Random* random, int32_t vocabulary, Choice choice) {
  SamplingParams sampling;
  sampling.seed = (*random)();
  sampling.logprobs = static_cast<int32_t>(between(random, -1, 1));
  sampling.temperature = 0;
  if (choice == Choice::kSampled) {
    sampling.temperature = pick(random, {0.3F, 0.9F, 1.5F});
    sampling.top_p = pick(random, {1.0F, 1.0F, 0.9F});
    sampling.top_k = static_cast<int32_t>(pick(random, {0, 0, 3}));
  } else if (choice == Choice::kOfFew) {
    // The noise, which a draft head shares, decides more than the logits, of which a head of random weights knows
    // nothing.
    sampling.temperature = 6.0F;
    sampling.logit_bias_count = 3;
    for (size_t i = 0; i < 3; ++i) {
      sampling.logit_bias[i] = {static_cast<TokenId>(between(random, 0, vocabulary - 1)), 200.0F};
    }
  }
  return sampling;
}

Script draw_script(uint64_t seed, int64_t turns, int32_t vocabulary) {
  Random random(seed);
  Script script;
  int64_t position = 0;
  for (int64_t i = 0; i < turns; ++i) {
    Turn& turn = script.emplace_back();
    turn.choice = pick(&random, {Choice::kGreedy, Choice::kGreedy, Choice::kSampled, Choice::kSampled, Choice::kOfFew});
    turn.sampling = draw_sampling(&random, vocabulary, turn.choice);
    turn.fresh = draw_tokens(&random, draw_count(&random, position, 1, i == 0 ? kFirstMax : kNewMax), vocabulary);
    position += std::ssize(turn.fresh);
    turn.suffix_count = static_cast<int32_t>(std::min<int64_t>(between(&random, 0, 4), std::ssize(turn.fresh) - 1));
    turn.sampling.max_tokens = static_cast<int32_t>(draw_count(&random, position, 1, kAnswerMax));
    position += turn.sampling.max_tokens;
  }
  return script;
}

RunnerLimits widest(int64_t turns, int32_t vocabulary, int32_t drafts) {
  RunnerLimits limits;
  limits.rows_max = kRows;
  limits.step_tokens_max = kRows * (1 + drafts) + kPromptTokens;
  limits.steps_in_flight = 3;
  limits.sequence_tokens_max = static_cast<int32_t>(context_of(turns));
  limits.vocabulary = vocabulary;
  limits.drafts_max = drafts;
  const auto conversations = static_cast<int32_t>(kBlockConversations);
  // Enough for all of them, and as many once more.
  limits.pages = {static_cast<int32_t>(2 * conversations * pages_of(context_of(turns)))};
  limits.state_slots = kRows + kStates * conversations;
  return limits;
}

// But for how it reuses.
World draw_world(Random* random, int64_t turns, int32_t vocabulary, bool drafts) {
  World world;
  RunnerLimits& limits = world.limits;
  limits = widest(turns, vocabulary, drafts ? static_cast<int32_t>(between(random, 0, kDrafts)) : 0);
  limits.rows_max = static_cast<int32_t>(pick(random, {2, 4, kRows, kRows}));
  limits.step_tokens_max =
      limits.rows_max * (1 + limits.drafts_max) + static_cast<int32_t>(pick(random, {40, 130, kPromptTokens}));
  limits.steps_in_flight = static_cast<int32_t>(pick(random, {1, 2, 2, 3}));
  world.config.adaptive_drafts = one_in(random, 3);
  world.config.checkpoint_interval = pick(random, {64, 64, 128});
  world.config.prefill_chunk_max = static_cast<int32_t>(pick(random, {0, 0, 29, 64, 100}));
  world.config.cache_seed = (*random)();
  world.config.event_ring_bytes = 1 << 20;
  world.config.queue_requests_max = static_cast<int32_t>(kBlockConversations);
  world.config.queue_tokens_max = world.config.queue_requests_max * context_of(turns);
  return world;
}

// A block's conversations side by side, the turns of each one behind the other.
class Play {
 public:
  // Borrows all. `said`: the answers that prompts repeat; null: those that come.
  Play(Served* served, const std::vector<Script>& scripts, const std::vector<Answers>* said)
      : served_(served), client_(served->client()), scripts_(scripts), said_(said), answers_(scripts.size()) {}

  // Fewer answers than turns: it hangs.
  std::vector<Answers> run() {
    prompts_.resize(scripts_.size());
    for (size_t which = 0; which < scripts_.size(); ++which) ask(which);
    for (int64_t turn = 0; !open_.empty() && turn < kEngineTurnsMax; ++turn) {
      served_->turn();
      while (client_.poll(&event_)) on_event();
    }
    return std::move(answers_);
  }

 private:
  void ask(size_t which) {
    const Turn& turn = scripts_[which][answers_[which].size()];
    auto& prompt = prompts_[which];
    prompt.insert(prompt.end(), turn.fresh.begin(), turn.fresh.end());
    open_[served_->submit(prompt, turn.sampling, {}, turn.suffix_count)] = which;
    answers_[which].emplace_back();
  }

  void on_event() {
    const size_t which = open_.at(event_.header.id);
    auto& answers = answers_[which];
    take(event_, &answers.back());
    if (answers.back().finish == FinishReason::kNone) return;
    open_.erase(event_.header.id);
    if (answers.size() == scripts_[which].size()) return;
    const auto& said = said_ == nullptr ? answers.back().tokens : (*said_)[which][answers.size() - 1].tokens;
    prompts_[which].insert(prompts_[which].end(), said.begin(), said.end());
    ask(which);
  }

  Served* served_;
  EngineClient client_;
  const std::vector<Script>& scripts_;
  const std::vector<Answers>* said_;
  std::vector<Answers> answers_;
  std::vector<std::vector<TokenId>> prompts_;
  std::map<SequenceId, size_t> open_;
  Event event_;
};

// Tokens at the beginning that are the same.
int64_t same_tokens(const Outcome& one, const Outcome& other) {
  const auto& a = one.tokens;
  const auto& b = other.tokens;
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

// The largest difference of the log-probabilities of the same ids behind the same tokens.
double logprob_difference(const Outcome& one, const Outcome& other) {
  const size_t tokens = std::min(one.tokens.size(), other.tokens.size());
  if (tokens == 0 || one.logprobs.empty() || other.logprobs.empty()) return 0;
  const size_t of_a_token = one.logprobs.size() / one.tokens.size();
  const size_t end = std::min(tokens, static_cast<size_t>(same_tokens(one, other)) + 1) * of_a_token;
  double largest = 0;
  for (size_t i = 0; i < end; i += 2) {
    if (one.logprobs[i + 1] != other.logprobs[i + 1]) continue;
    const auto value = [i](const Outcome& of) { return static_cast<double>(std::bit_cast<float>(of.logprobs[i])); };
    largest = std::max(largest, std::abs(value(one) - value(other)));
  }
  return largest;
}

void add(const Compared& more, Compared* out) {
  out->turns += more.turns;
  out->turns_differ += more.turns_differ;
  out->tokens += more.tokens;
  out->tokens_differ += more.tokens_differ;
  out->tokens_until += more.tokens_until;
}

void add(const Spent& more, Spent* out) {
  out->reused += more.reused;
  out->answers += more.answers;
  out->prompts += more.prompts;
  out->in_answers += more.in_answers;
  out->steps += more.steps;
  out->rows += more.rows;
  out->drafted += more.drafted;
  out->accepted += more.accepted;
  out->seconds += more.seconds;
}

void add(const Talked& more, Talked* out) {
  for (const auto& [model, count] : more.conversations) out->conversations[model] += count;
  out->turns += more.turns;
  out->prompt_tokens += more.prompt_tokens;
  out->answer_tokens += more.answer_tokens;
  out->new_tokens += more.new_tokens;
  out->known_answers += more.known_answers;
  out->answers_on_grid += more.answers_on_grid;
  for (size_t i = 0; i < kPolicies; ++i) add(more.spent[i], &out->spent[i]);
  for (size_t i = 0; i < kChoices; ++i) add(more.compared[i], &out->compared[i]);
  add(more.behind, &out->behind);
  out->logprob_difference = std::max(out->logprob_difference, more.logprob_difference);
}

// One block that has run under all policies.
class Review {
 public:
  using Runs = std::array<std::vector<Answers>, kPolicies>;
  Review(uint64_t first, const std::vector<Script>& scripts, const Runs& runs, bool one_family, Talked* out)
      : first_(first), scripts_(scripts), runs_(runs), one_family_(one_family), out_(out) {}

  void all() {
    for (size_t which = 0; which < scripts_.size(); ++which) conversation(which);
  }

 private:
  const Outcome& of(Policy policy, size_t which, size_t turn) const {
    return runs_[static_cast<size_t>(policy)][which][turn];
  }

  void conversation(size_t which) {
    std::vector<std::pair<int64_t, int64_t>> answers;  // their places in the prompt
    int64_t prompt = 0;                                // tokens, of this turn
    bool as_default = true;
    for (size_t turn = 0; turn < scripts_[which].size(); ++turn) {
      const int64_t before = prompt;
      if (turn > 0) {
        const auto answer = std::ssize(of(Policy::kDefault, which, turn - 1).tokens);
        answers.emplace_back(prompt, prompt + answer);
        prompt += answer;
        out_->known_answers += answer;
      }
      prompt += std::ssize(scripts_[which][turn].fresh);
      const auto answer = std::ssize(of(Policy::kDefault, which, turn).tokens);
      ++out_->turns;
      out_->prompt_tokens += prompt;
      out_->answer_tokens += answer;
      out_->new_tokens += std::ssize(scripts_[which][turn].fresh);
      if ((prompt + answer) % kGridTokens == 0) ++out_->answers_on_grid;
      for (size_t policy = 0; policy < kPolicies; ++policy) {
        spend(runs_[policy][which][turn].cached, before, answers, std::ssize(scripts_[which][turn].fresh), prompt,
              &out_->spent[policy]);
      }
      check(which, turn, before, prompt);
      compare(which, turn, &as_default);
    }
  }

  static void spend(int64_t cached, int64_t before, const std::vector<std::pair<int64_t, int64_t>>& answers,
                    int64_t fresh, int64_t prompt, Spent* spent) {
    int64_t of_answers = 0;
    for (const auto& [begin, end] : answers) of_answers += std::max<int64_t>(0, end - std::max(begin, cached));
    spent->reused += cached;
    spent->answers += of_answers;
    spent->prompts += prompt - cached - of_answers - fresh;
    if (cached > before) ++spent->in_answers;
  }

  std::string who(const char* policy, size_t which, size_t turn, int64_t prompt, int64_t cached) const {
    return fmt::format("conversation {}, turn {}, {} (prompt of {}, {} reused)", first_ + which, turn + 1, policy,
                       prompt, cached);
  }

  // What each policy promises.
  void check(size_t which, size_t turn, int64_t before, int64_t prompt) {
    const Outcome& by_default = of(Policy::kDefault, which, turn);
    const Outcome& without = of(Policy::kNoCache, which, turn);
    const auto complain = [&](const std::vector<std::string>& lines) {
      out_->problems.insert(out_->problems.end(), lines.begin(), lines.end());
    };
    const auto by_default_who = who("default", which, turn, prompt, by_default.cached);
    complain(differences(by_default_who, by_default, without, "without a cache"));
    if (by_default.cached > before) {
      complain({fmt::format("{}: behind the {} of the prompt before are generated rows", by_default_who, before)});
    }
    if (without.cached > 0) complain({who("no cache", which, turn, prompt, without.cached) + " reuses"});
    if (!one_family_) return;
    const Outcome& reusing = of(Policy::kReuseGenerated, which, turn);
    complain(differences(who("--reuse-generated", which, turn, prompt, reusing.cached), reusing, without,
                         "without a cache"));
  }

  void compare(size_t which, size_t turn, bool* as_default) {
    const Outcome& by_default = of(Policy::kDefault, which, turn);
    const Outcome& reusing = of(Policy::kReuseGenerated, which, turn);
    const auto& a = by_default.tokens;
    const auto& b = reusing.tokens;
    Compared one;
    one.turns = 1;
    one.turns_differ = a == b ? 0 : 1;
    one.tokens = std::ssize(a);
    one.tokens_until = std::min(std::ssize(a), same_tokens(by_default, reusing) + 1);
    for (size_t i = 0; i < a.size(); ++i) {
      if (i >= b.size() || a[i] != b[i]) ++one.tokens_differ;
    }
    add(one, *as_default ? &out_->compared[static_cast<size_t>(scripts_[which][turn].choice)] : &out_->behind);
    out_->logprob_difference = std::max(out_->logprob_difference, logprob_difference(by_default, reusing));
    *as_default &= a == b;
  }

  uint64_t first_;
  const std::vector<Script>& scripts_;
  const Runs& runs_;
  bool one_family_;
  Talked* out_;
};

}  // namespace

int64_t Talked::done() const {
  int64_t done = 0;
  for (const auto& [model, count] : conversations) done += count;
  return done;
}

struct Talker::Impl {
  explicit Impl(Model* model_given) : model(model_given), vocabulary(static_cast<int32_t>(model->config.vocabulary)) {}

  // One with a draft head and one without: it changes how steps follow each other.
  Machine* machine_of(int64_t turns, bool drafts) {
    auto& machine = machines[drafts ? 1 : 0];
    if (!machine) machine = std::make_unique<Machine>(model, widest(turns, vocabulary, drafts ? kDrafts : 0));
    return machine.get();
  }

  std::vector<Answers> play(Policy policy, World world, const std::vector<Script>& scripts,
                            const std::vector<Answers>* said, Spent* spent) {
    world.config.prefix_caching = policy != Policy::kNoCache;
    world.config.reuse_generated = policy == Policy::kReuseGenerated;
    Served served(machine_of(static_cast<int64_t>(scripts.front().size()), world.limits.drafts_max > 0), world);
    const Deadline time;
    auto answers = Play(&served, scripts, said).run();
    spent->seconds += time.elapsed_s();
    spent->steps += served.passed().steps;
    spent->rows += served.passed().rows;
    spent->drafted += served.client().stats().draft_tokens;
    spent->accepted += served.client().stats().accepted_tokens;
    return answers;
  }

  Model* model;
  bool on_cpu = model->device_text().starts_with("CPU");
  int32_t vocabulary;
  std::array<std::unique_ptr<Machine>, 2> machines;
};

Talker::Talker(Model* model) : impl_(std::make_unique<Impl>(model)) {}
Talker::~Talker() = default;

Talked Talker::run(uint64_t first, uint64_t last, int64_t turns) {
  WEIR_CHECK(last > first && last - first <= kBlockConversations, "conversations {} to {}", first, last);
  WEIR_CHECK(turns >= kConversationTurnsMin && turns <= kConversationTurnsMax, "{} turns", turns);
  Random random(first / kBlockConversations);
  const World world = draw_world(&random, turns, impl_->vocabulary, impl_->model->can_draft());
  std::vector<Script> scripts;
  for (uint64_t seed = first; seed < last; ++seed) scripts.push_back(draw_script(seed, turns, impl_->vocabulary));
  Talked out;
  Review::Runs runs;
  // The default comes first: what it answers is what all say in later turns.
  for (size_t i = 0; i < kPolicies; ++i) {
    runs[i] = impl_->play(static_cast<Policy>(i), world, scripts, i == 0 ? nullptr : runs.data(), &out.spent[i]);
    const auto ended = [&](const Answers& answers) {
      return std::ssize(answers) == turns && answers.back().finish != FinishReason::kNone;
    };
    if (std::all_of(runs[i].begin(), runs[i].end(), ended)) continue;
    out.problems = {fmt::format("conversations {} to {}, {}: no end", first, last - 1, kPolicyNames[i])};
    return out;
  }
  Review(first, scripts, runs, impl_->on_cpu, &out).all();
  return out;
}

Result<Talked> run_conversations(const TalksAsked& asked, const Deadline& deadline) {
  using Jobs = BlockJobs<Talker, kBlockConversations>;
  Jobs jobs(asked.models, asked.jobs, deadline);
  WEIR_RETURN_IF_ERROR(jobs.load());
  Talked all;
  std::mutex mutex;  // for it
  const auto run_block = [&](uint64_t first, uint64_t last, Jobs::Court* court) {
    Talked one = court->judge->run(first, last, asked.turns);
    one.conversations[court->name] = static_cast<int64_t>(last - first);
    const std::lock_guard lock(mutex);
    add(one, &all);
    if (one.problems.empty() || !all.problems.empty()) return;
    all.problems = std::move(one.problems);
    all.failed = fmt::format("equality_sim --conversations {} --turns {} --seed {} --models '{}'", last - first,
                             asked.turns, first, court->name);
    jobs.stop();
  };
  WEIR_RETURN_IF_ERROR(jobs.run({asked.seed, asked.conversations}, run_block));
  return all;
}

}  // namespace weir::equality
