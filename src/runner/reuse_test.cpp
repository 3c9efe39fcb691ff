// A sequence that goes on from another's pages and saved state has the bits of one that computed everything itself: the
// log-probabilities of the prompt's rest and of all that follows, at boundaries of pages and inside them.
#include <gtest/gtest.h>

#include <thread>

#include "runner/cpu_caches.h"
#include "runner/model_runner.h"
#include "runner/test_model.h"

namespace weir {
namespace {

constexpr int32_t kPrompt = 150;
constexpr int32_t kGenerated = 70;  // across the end of a chunk of the recurrent state
constexpr int32_t kPagesOfRow = (kPrompt + kGenerated + kGridTokens - 1) / kGridTokens;
constexpr int32_t kCheckpoint = 2;  // a state slot that no row has

// What a sequence yielded: ids and log-probabilities, of the prompt from some token on, then of the generated tokens.
struct Yield {
  std::vector<std::pair<TokenId, float>> prompt;
  std::vector<std::pair<TokenId, float>> generated;
};

class Reuse : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto model = load_golden_model(GetParam(), 512);
    ASSERT_TRUE(model.ok()) << model.error().text();
    model_ = std::move(*model);
    for (int32_t i = 0; i < kPrompt; ++i) {
      prompt_.push_back(static_cast<TokenId>((i * 37 + i * i) % (model_->config.vocabulary - 1)));
    }
    RunnerLimits limits;
    limits.rows_max = 2;
    limits.step_tokens_max = 256;
    limits.state_slots = 3;
    limits.pages = {2 * kPagesOfRow};
    limits.sequence_tokens_max = kPagesOfRow * kGridTokens;
    limits.vocabulary = static_cast<int32_t>(model_->config.vocabulary);
    auto runner =
        ModelRunner::create(model_.get(), cache_layout(model_->config, model_->cache_sizes(), false), limits, [] {});
    ASSERT_TRUE(runner.ok()) << runner.error().text();
    runner_ = std::move(*runner);
  }

  // Runs the plan's step; what it yields is added to *yield.
  void step(StepPlan* plan, Yield* yield) {
    StepResult result;
    plan->id = ++steps_;
    runner_->submit(plan, &result);
    while (runner_->poll() == 0) std::this_thread::yield();
    ASSERT_EQ(result.fault, "");
    ASSERT_EQ(result.sequences.size(), 1U);
    const SequenceResult& sequence = result.sequences.front();
    ASSERT_NE(sequence.stop, StopReason::kNotFinite);
    const auto add = [&](int32_t first, int32_t count, std::vector<std::pair<TokenId, float>>* to) {
      for (int32_t i = 0; i < count; ++i) {
        const LogprobRow& row = result.rows.at(static_cast<size_t>(first + i));
        for (int32_t k = 0; k <= row.top_count; ++k) {
          const TokenLogprob& p = result.logprobs.at(static_cast<size_t>(row.first + k));
          to->emplace_back(p.token, p.logprob);
        }
      }
    };
    add(sequence.prompt_first_row, sequence.prompt_row_count, &yield->prompt);
    add(sequence.first_row, sequence.token_count, &yield->generated);
    plan->clear();
  }

  void join(RowId row, StepPlan* plan) const {
    SamplingParams sampling;
    sampling.temperature = 0.0F;
    sampling.max_tokens = kGenerated;
    sampling.logprobs = 3;
    sampling.prompt_logprobs = 1;
    plan->sampling.push_back(sampling);
    Edit edit;
    edit.kind = EditKind::kJoin;
    edit.row = row;
    edit.state = StateSlotId(row.value());
    edit.prompt_length = kPrompt;
    plan->edits.push_back(edit);
  }
  static void append(RowId row, int32_t first, int32_t count, StepPlan* plan) {
    Edit edit;
    edit.kind = EditKind::kAppendPages;
    edit.row = row;
    edit.page_class = PageClassId(0);
    edit.first = static_cast<int32_t>(plan->pages.size());
    edit.count = count;
    for (int32_t i = 0; i < count; ++i) plan->pages.push_back(PageId(first + i));
    plan->edits.push_back(edit);
  }
  static void state(EditKind kind, RowId row, int64_t position, StepPlan* plan) {
    Edit edit;
    edit.kind = kind;
    edit.row = row;
    edit.state = StateSlotId(kCheckpoint);
    edit.position = position;
    plan->edits.push_back(edit);
  }
  static void leave(RowId row, StepPlan* plan) {
    Edit edit;
    edit.row = row;
    plan->edits.push_back(edit);
  }
  // Tokens [begin, end) of the prompt; the last of all samples.
  void prefill(RowId row, int32_t begin, int32_t end, StepPlan* plan) const {
    SequenceWork work;
    work.row = row;
    work.position = begin;
    work.token_count = end - begin;
    work.first_token = 0;
    work.sample = end == kPrompt;
    plan->tokens.assign(prompt_.begin() + begin, prompt_.begin() + std::min(end + 1, kPrompt));
    plan->work.push_back(work);
  }
  void generate(RowId row, StepPlan* plan, Yield* yield) {
    for (int32_t i = 1; i < kGenerated; ++i) {
      SequenceWork work;
      work.row = row;
      work.role = RowRole::kGenerated;
      work.sample = true;
      work.token_count = 1;
      work.position = kPrompt + i - 1;
      plan->work.push_back(work);
      step(plan, yield);
    }
  }

  std::unique_ptr<Model> model_;
  std::unique_ptr<ModelRunner> runner_;
  std::vector<TokenId> prompt_;
  StepId steps_ = 0;
};

TEST_P(Reuse, ASequenceGoesOnFromPagesAndStateOfAnother) {
  const RowId first(0);
  const RowId second(1);
  Yield cold;
  StepPlan plan;
  join(first, &plan);
  append(first, 0, kPagesOfRow, &plan);
  prefill(first, 0, kPrompt, &plan);
  step(&plan, &cold);
  generate(first, &plan, &cold);
  leave(first, &plan);
  ASSERT_EQ(cold.prompt.size(), 2U * (kPrompt - 1));
  ASSERT_EQ(cold.generated.size(), 4U * kGenerated);
  for (const int32_t boundary : {1, 63, 64, 65, 100, 127, 128, 129, kPrompt - 1}) {
    SCOPED_TRACE(boundary);
    // The giver stops at the boundary, leaves its state and goes on to the end: what it writes behind the boundary into
    // a page that both have is nobody else's.
    Yield giver;
    join(first, &plan);
    append(first, 0, kPagesOfRow, &plan);
    state(EditKind::kSaveState, first, boundary, &plan);
    prefill(first, 0, boundary, &plan);
    step(&plan, &giver);
    prefill(first, boundary, kPrompt, &plan);
    step(&plan, &giver);
    generate(first, &plan, &giver);
    EXPECT_EQ(giver.prompt, cold.prompt);
    EXPECT_EQ(giver.generated, cold.generated);

    Yield taker;
    const int32_t whole = boundary / kGridTokens;
    const int32_t own = kPagesOfRow;  // the first page that the giver does not have
    join(second, &plan);
    append(second, 0, whole, &plan);
    append(second, own, kPagesOfRow - whole, &plan);
    if (boundary % kGridTokens != 0) {
      Edit edit;
      edit.kind = EditKind::kCopyPage;
      edit.row = second;
      edit.page_class = PageClassId(0);
      edit.first = static_cast<int32_t>(plan.pages.size());
      plan.pages.push_back(PageId(whole));
      plan.pages.push_back(PageId(own));
      plan.edits.push_back(edit);
    }
    state(EditKind::kRestoreState, second, boundary, &plan);
    prefill(second, boundary, kPrompt, &plan);
    step(&plan, &taker);
    generate(second, &plan, &taker);
    const std::vector<std::pair<TokenId, float>> rest(cold.prompt.begin() + 2 * boundary, cold.prompt.end());
    EXPECT_EQ(taker.prompt, rest);
    EXPECT_EQ(taker.generated, cold.generated);
    leave(first, &plan);
    leave(second, &plan);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Reuse,
                         testing::Values("dense-tied", "dense-untied", "next", "moe-odd", "moe-fp8", "moe-mxfp4",
                                         "moe-fit fp8"),
                         ModelTestName());

}  // namespace
}  // namespace weir
