// An engine over a model, turned by the test that owns it.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "base/thread_time.h"
#include "base/wake.h"
#include "engine/engine.h"
#include "runner/cpu_caches.h"
#include "runner/model_runner.h"

namespace weir::equality {

struct World {
  bool tight = false;    // few pages, many long answers at once
  bool starved = false;  // a few tokens of a prompt a step, a long one behind long answers, which need its pages
  bool crowd = false;    // 64 requests at once, with room for all
  EngineConfig config;
  RunnerLimits limits;  // pages: of each class
  // Above 0: pages and slots share their memory (CacheLayout::pages_a_slot). limits.pages then says how many pages one
  // sequence can have at least, and limits.state_slots, of which there are as many as that takes, nothing.
  int32_t pages_a_slot = 0;
};

// A runner with its caches. Worlds use it one after the other, and each finds in pages and slots what those before it
// left there: to reserve memory and to record graphs takes a GPU longer than to run a schedule.
class Machine {
 public:
  // Borrows the model.
  Machine(Model* model, RunnerLimits limits, int32_t pages_a_slot = 0)
      : layout_(cache_layout(model->config, model->cache_sizes(), limits.drafts_max > 0)) {
    if (layout_.state_slot_bytes > 0) layout_.pages_a_slot = pages_a_slot;
    fit(&limits);
    auto runner = ModelRunner::create(model, layout_, limits, [this] { wake_.notify(); });
    WEIR_CHECK(runner.ok(), "{}", runner.error().text());
    runner_ = std::move(*runner);
  }
  // What the layout says about limits: page counts of every class, no slots where there are no states, and as many
  // units as it takes where pages and slots share them.
  void fit(RunnerLimits* limits) const {
    const int32_t pages = limits->pages.front();
    limits->pages.resize(layout_.classes.size(), pages);
    if (layout_.state_slot_bytes == 0) limits->state_slots = 0;
    if (layout_.pages_a_slot == 0) return;
    limits->state_slots = 0;
    while (pages_alone_max(layout_, *limits, 0) < pages) ++limits->state_slots;
    limits->pages.assign(layout_.classes.size(), limits->state_slots * layout_.pages_a_slot);
  }
  const CacheLayout& layout() const { return layout_; }
  StepRunner* runner() { return runner_.get(); }
  Wake* wake() { return &wake_; }

 private:
  CacheLayout layout_;
  Wake wake_;
  std::unique_ptr<ModelRunner> runner_;
};

// What passed between an engine and its runner.
struct Passed {
  int64_t steps = 0;
  int64_t rows = 0;                            // of these steps, as planned
  std::array<int64_t, kDraftsMax> rejected{};  // the n-th draft did not hold, those before it did
  int64_t left_in_prompt = 0;                  // rows that left with a part of their prompt computed
};

// Narrower limits of a runner that is there already, and an eye on what passes.
class Lane final : public StepRunner {
 public:
  // Limits within those of the runner, which no other lane uses meanwhile.
  Lane(StepRunner* runner, RunnerLimits limits)
      : runner_(runner), limits_(std::move(limits)), rows_(static_cast<size_t>(limits_.rows_max)) {}
  ~Lane() override { vacate(); }
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  const RunnerLimits& limits() const override { return limits_; }
  const Passed& passed() const { return passed_; }
  // Is told of every item that yielded tokens.
  using Watch = std::function<void(const SequenceWork&, const SequenceResult&)>;
  void watch(Watch watch) { watch_ = std::move(watch); }
  // Is told of every plan before it is run, with the thread's time since the engine looked for results last: with two
  // steps in flight, what it took to make the plan.
  using PlanWatch = std::function<void(const StepPlan&, int64_t plan_ns)>;
  // From now on a turn finds one result at most, whatever has come back: the plans of one schedule are the same every
  // time then. `on_result` is told of every step that is back.
  void time_steps(PlanWatch on_plan, std::function<void()> on_result) {
    on_plan_ = std::move(on_plan);
    on_result_ = std::move(on_result);
  }
  void begin_turn() { found_ = false; }

  void submit(const StepPlan* plan, StepResult* result) override {
    if (on_plan_) on_plan_(*plan, thread_ns() - looked_ns_);
    ++passed_.steps;
    passed_.rows += plan->token_total();
    for (const Edit& edit : plan->edits) {
      if (edit.kind == EditKind::kLeave) leave(edit.row);
      if (edit.kind == EditKind::kJoin) rows_[edit.row.index()] = {true, false, edit.prompt_length};
    }
    for (const SequenceWork& work : plan->work) {
      Row& row = rows_[work.row.index()];
      row.in_prompt = work.position + work.token_count < row.prompt_length;
    }
    flights_.push_back({plan, result});
    runner_->submit(plan, result);
  }

  StepId poll() override {
    const StepId id = on_plan_ && found_ ? 0 : runner_->poll();
    if (id != 0) take();
    if (on_plan_) looked_ns_ = thread_ns();
    return id;
  }

 private:
  struct Row {
    bool live = false;
    bool in_prompt = false;
    int64_t prompt_length = 0;
  };

  void take() {
    found_ = true;
    if (on_result_) on_result_();
    const auto [plan, result] = flights_.front();
    flights_.pop_front();
    for (size_t i = 0; i < plan->work.size(); ++i) {
      const SequenceResult& yielded = result->sequences[i];
      if (watch_ && yielded.token_count > 0) watch_(plan->work[i], yielded);
      // Behind the end of a sequence nothing is verified.
      const bool rejects =
          yielded.stop == StopReason::kNone && yielded.token_count > 0 && yielded.token_count <= yielded.drafted_count;
      if (rejects) ++passed_.rejected[static_cast<size_t>(yielded.token_count - 1)];
    }
  }

  void leave(RowId id) {
    Row& row = rows_[id.index()];
    if (row.in_prompt) ++passed_.left_in_prompt;
    row = {};
  }

  // The rows that are still live leave: the next lane begins with none.
  void vacate() {
    WEIR_CHECK(flights_.empty(), "{} steps in flight", flights_.size());
    StepPlan plan;
    plan.id = 1;
    for (size_t i = 0; i < rows_.size(); ++i) {
      if (rows_[i].live) plan.edits.push_back(Edit{.row = RowId::from(i), .state = {}, .page_class = {}});
    }
    if (plan.edits.empty()) return;
    StepResult result;
    runner_->submit(&plan, &result);
    while (runner_->poll() == 0) std::this_thread::yield();
  }

  StepRunner* runner_;
  const RunnerLimits limits_;
  std::vector<Row> rows_;
  std::deque<std::pair<const StepPlan*, StepResult*>> flights_;
  Passed passed_;
  Watch watch_;
  PlanWatch on_plan_;
  std::function<void()> on_result_;
  bool found_ = false;  // a result, in this turn
  int64_t looked_ns_ = 0;
};

class Served {
 public:
  // On a machine of its own. Borrows the model.
  Served(Model* model, const World& world)
      : Served(std::make_unique<Machine>(model, world.limits, world.pages_a_slot), world) {}
  // Borrows the machine, whose limits hold those of the world.
  Served(Machine* machine, World world) : machine_(machine) {
    machine->fit(&world.limits);
    WEIR_CHECK(world.limits.state_slots <= machine->runner()->limits().state_slots, "{} state slots of {}",
               world.limits.state_slots, machine->runner()->limits().state_slots);
    lane_ = std::make_unique<Lane>(machine->runner(), world.limits);
    auto engine = Engine::create(world.config, machine->layout(), lane_.get(), &clock_, machine->wake());
    WEIR_CHECK(engine.ok(), "{}", engine.error().text());
    engine_ = std::make_unique<Engine>(std::move(*engine));
  }
  // Plans live in the engine: none may be in flight when it goes.
  ~Served() { settle(); }
  Served(const Served&) = delete;
  Served& operator=(const Served&) = delete;

  EngineClient client() { return engine_->client(); }
  const CacheLayout& layout() const { return machine_->layout(); }
  const Passed& passed() const { return lane_->passed(); }
  void watch(Lane::Watch watch) { lane_->watch(std::move(watch)); }
  void time_steps(Lane::PlanWatch on_plan, std::function<void()> on_result) {
    lane_->time_steps(std::move(on_plan), std::move(on_result));
  }
  // Whether anything happened.
  bool step() {
    lane_->begin_turn();
    return engine_->step();
  }
  void wait() { machine_->wake()->wait(200); }
  void turn() {
    if (!step()) wait();
  }
  // No step is in flight then: another runner may use the model.
  void settle() {
    while (client().stats().steps_in_flight > 0) turn();
  }
  SequenceId submit(std::span<const TokenId> prompt, const SamplingParams& sampling, const CacheSalt& salt,
                    int32_t suffix_count) {
    auto ticket = client().try_reserve(1);
    WEIR_CHECK(ticket.ok(), "{}", ticket.error().text());
    GenerateHeader header;
    header.id = client().next_id();
    header.arrival_us = clock_.now_us();
    header.sampling = sampling;
    header.salt = salt;
    header.suffix_count = suffix_count;
    const Status status = client().submit(&*ticket, header, prompt);
    WEIR_CHECK(status.ok(), "{}", status.error().text());
    return header.id;
  }

 private:
  Served(std::unique_ptr<Machine> own, const World& world) : Served(own.get(), world) { own_ = std::move(own); }

  std::unique_ptr<Machine> own_;
  Machine* machine_;
  SteadyClock clock_;
  std::unique_ptr<Lane> lane_;
  std::unique_ptr<Engine> engine_;
};

}  // namespace weir::equality
