// Drafts change how many tokens a step yields and nothing else: ids and log-probabilities have the bits of steps of one
// token. And the draft head sees the same whatever way a sequence came where it is: its logits behind the same tokens
// have the same bits, cold or from a checkpoint, alone or in a batch, in chunks or whole, after drafts accepted,
// rejected or never asked for.
#include "runner/draft_test.h"

#include <numeric>

#include "ops/sample/pinned_acceptance.h"

namespace weir {
namespace {

constexpr int32_t kOutput = 150;
constexpr StateSlotId kCheckpoint{kTestSlots - 1};

// kWide: sampled from the whole vocabulary; the others from few ids. kHot and what stands behind it: mostly noise,
// which target and draft share, so that many drafts are right though the weights are random.
enum class Kind { kGreedy, kWide, kSampled, kHot, kPenalties, kStopIds };

// The spy reads the logits of every step where the host has them.
constexpr const char* kHostOnly =
    "a GPU keeps its logits: tests/program/test_drafts.py and equality_sim test drafts there";

class Draft : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (tests_use_gpu()) GTEST_SKIP() << kHostOnly;
    auto model = load(GetParam());
    ASSERT_TRUE(model.ok()) << model.error().text();
    model_ = std::make_unique<SpyModel>(std::move(*model));
    plain_ = std::make_unique<Driver>(model_.get(), 0);
    drafting_ = std::make_unique<Driver>(model_.get(), kDraftsMax);
  }

  Request request(Kind kind, int32_t prompt, int32_t drafts) const {
    Request out;
    out.prompt_length = prompt;
    out.drafts = drafts;
    const auto vocabulary = static_cast<int32_t>(model_->config.vocabulary);
    for (int32_t i = 0; i < prompt; ++i) out.known.push_back((i * 37 + i * i + prompt) % (vocabulary - 1));
    SamplingParams& sampling = out.sampling;
    sampling.temperature = kind == Kind::kGreedy ? 0.0F : kind >= Kind::kHot ? 4.0F : 0.8F;
    sampling.seed = static_cast<uint64_t>(1000 + prompt);
    sampling.max_tokens = kOutput;
    sampling.logprobs = 2;
    if (kind != Kind::kGreedy) sampling.top_p = 0.9F;
    if (kind == Kind::kPenalties) {
      sampling.repetition_penalty = 1.05F;
      sampling.presence_penalty = 0.1F;
      sampling.frequency_penalty = 0.01F;
    }
    if (kind == Kind::kWide) return out;
    for (const TokenId id : {3, 17, 40, 41, 77, 130}) {
      sampling.logit_bias[static_cast<size_t>(sampling.logit_bias_count++)] = {id, 30.0F};
    }
    if (kind == Kind::kStopIds) {
      sampling.stop_ids = {5, 6, 130};
      sampling.stop_id_count = 3;
      sampling.logit_bias[5].bias = 28.0F;
      sampling.banned_until_min = {130};
      sampling.banned_until_min_count = 1;
      sampling.min_tokens = 20;
    }
    return out;
  }

  static Result<std::unique_ptr<Model>> load(const std::string& name) {
    if (name != "attention-only") return load_golden_model(name, 512);
    // Slots with nothing in them but hidden rows.
    WEIR_ASSIGN_OR_RETURN(ModelConfig config, read_model_config("tests/data/goldens/moe-odd"));
    config.layers.assign(2, LayerKind::kFull);
    WEIR_ASSIGN_OR_RETURN(const auto weights, dummy_weights(config, WeightFormat::kBf16, 7));
    return make_test_model(config, weights, 512);
  }

  static Yielded alone(Driver* driver, const Request& request, const DriveOptions& options) {
    driver->join(RowId(0), request);
    driver->drive(options);
    return driver->leave(RowId(0));
  }
  static void expect_same_text(const Yielded& a, const Yielded& b) {
    EXPECT_EQ(a.tokens, b.tokens);
    EXPECT_EQ(a.logprobs, b.logprobs);
    EXPECT_EQ(a.stop, b.stop);
  }
  // Rows of the draft head that both ran: how many.
  static int64_t expect_same_drafts(const DraftLog& a, const DraftLog& b) {
    int64_t common = 0;
    for (const auto& [place, bits] : a) {
      const auto other = b.find(place);
      if (other == b.end()) continue;
      ++common;
      EXPECT_EQ(bits, other->second) << "behind " << place.first << " tokens, draft " << place.second + 1;
      if (bits != other->second) break;
    }
    return common;
  }

  std::unique_ptr<SpyModel> model_;
  std::unique_ptr<Driver> plain_;
  std::unique_ptr<Driver> drafting_;
};

constexpr int32_t kPrompts[] = {1, 63, 64, 65, 150};
constexpr int32_t kDepths[] = {0, 1, 2, 3, 7};

TEST_P(Draft, TextAndLogProbabilitiesAreThoseOfStepsWithoutDrafts) {
  for (const Kind kind : {Kind::kGreedy, Kind::kSampled, Kind::kHot, Kind::kPenalties, Kind::kStopIds}) {
    std::vector<Yielded> plain;
    for (const int32_t prompt : kPrompts) {
      plain.push_back(alone(plain_.get(), request(kind, prompt, 0), {}));
      ASSERT_EQ(plain.back().logprobs.size(), 3 * plain.back().tokens.size());
      if (kind != Kind::kStopIds) {
        ASSERT_EQ(plain.back().tokens.size(), static_cast<size_t>(kOutput));
      }
    }
    // Every length with every number of drafts, several numbers in a step.
    for (size_t turn = 0; turn < 5; ++turn) {
      DriveOptions options;
      options.chunk = turn % 3 == 0 ? 29 : turn % 3 == 1 ? 64 : 512;
      options.in_flight = turn % 2 == 0 ? 2 : 1;
      options.tight_pages = turn == 3;
      options.tight_draft_pages = turn == 4;
      for (size_t i = 0; i < 5; ++i) {
        drafting_->join(RowId(static_cast<int32_t>(i)), request(kind, kPrompts[i], kDepths[(i + turn) % 5]));
      }
      drafting_->drive(options);
      for (size_t i = 0; i < 5; ++i) {
        SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(kind) << ", turn " << turn << ", prompt "
                                        << kPrompts[i] << ", drafts " << kDepths[(i + turn) % 5]);
        expect_same_text(drafting_->leave(RowId(static_cast<int32_t>(i))), plain[i]);
      }
    }
  }
  const DraftCounts& counts = drafting_->counts;
  for (size_t i = 0; i < kDraftsMax; ++i) {
    std::printf("  draft %zu: %ld accepted, %ld rejected\n", i + 1, static_cast<long>(counts.accepted[i]),
                static_cast<long>(counts.rejected[i]));
    EXPECT_GT(counts.accepted[i], 0) << "draft " << i + 1;
    EXPECT_GT(counts.rejected[i], 0) << "draft " << i + 1;
  }
  std::printf("  %ld steps, %ld tokens, %ld cut at the grid\n", static_cast<long>(counts.steps),
              static_cast<long>(counts.tokens), static_cast<long>(counts.cut_at_grid));
  EXPECT_GT(counts.cut_at_grid, 0);
}

TEST_P(Draft, DraftsDoNotDependOnChunksBatchesDepthsOrPages) {
  for (const Kind kind : {Kind::kHot, Kind::kWide}) {
    for (const int32_t prompt : {1, 63, 150}) {
      SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(kind) << ", prompt " << prompt);
      const Yielded cold = alone(drafting_.get(), request(kind, prompt, 3), {});
      ASSERT_GT(cold.drafts.size(), 50U);
      for (const int32_t chunk : {1, 29, 64}) {
        DriveOptions options;
        options.chunk = chunk;
        options.in_flight = 1 + chunk % 2;
        const Yielded chunked = alone(drafting_.get(), request(kind, prompt, 3), options);
        EXPECT_EQ(chunked.drafts, cold.drafts) << chunk;
      }
      // Other depths, fewer pages, steps without drafts: the steps stand elsewhere, what they have in common is equal.
      DriveOptions plenty;
      DriveOptions tight;
      tight.tight_pages = true;
      DriveOptions few_draft_pages;
      few_draft_pages.tight_draft_pages = true;
      DriveOptions pauses;
      pauses.pauses = true;
      const std::pair<DriveOptions, int32_t> others[] = {{plenty, 7}, {tight, 7}, {few_draft_pages, 7}, {pauses, 3}};
      for (const auto& [options, depth] : others) {
        const Yielded other = alone(drafting_.get(), request(kind, prompt, depth), options);
        EXPECT_GT(expect_same_drafts(other.drafts, cold.drafts), 10);
      }
      for (int32_t i = 0; i < kTestRows; ++i) {
        drafting_->join(RowId(i), request(kind, i == 2 ? prompt : kPrompts[i], i == 2 ? 3 : kDepths[i]));
      }
      drafting_->drive({});
      for (int32_t i = 0; i < kTestRows; ++i) {
        const Yielded row = drafting_->leave(RowId(i));
        if (i == 2) {
          EXPECT_EQ(row.drafts, cold.drafts);
        }
      }
    }
  }
}

TEST_P(Draft, DraftsBehindACheckpointAreThoseOfAColdSequence) {
  for (const Kind kind : {Kind::kHot, Kind::kWide}) {
    const Request cold_request = request(kind, 150, 3);
    const Yielded cold = alone(drafting_.get(), cold_request, {});
    for (const int32_t boundary : {1, 63, 64, 65, 100, 128, 129}) {
      SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(kind) << ", boundary " << boundary);
      drafting_->join(RowId(0), cold_request);
      drafting_->save(RowId(0), boundary, kCheckpoint);
      drafting_->drive({});
      // Whatever was in the taker's pages and slot before.
      drafting_->join(RowId(1), request(Kind::kWide, 65, 7));
      drafting_->drive({});
      drafting_->leave(RowId(1));
      Request taker = cold_request;
      taker.giver = RowId(0);
      taker.checkpoint = kCheckpoint;
      taker.reused = boundary;
      for (const int32_t chunk : {512, 29}) {
        DriveOptions options;
        options.chunk = chunk;
        drafting_->join(RowId(1), taker);
        drafting_->drive(options);
        const Yielded yielded = drafting_->leave(RowId(1));
        expect_same_text(yielded, cold);
        EXPECT_EQ(yielded.drafts, cold.drafts);
      }
      drafting_->leave(RowId(0));
    }
  }
}

// States inside generated text, saved when drafts have brought the cursor there or beyond.
TEST_P(Draft, AStateSavedBehindTheCursorIsThatOfItsPosition) {
  for (int32_t prompt = 118; prompt < 126; ++prompt) {
    const Yielded plain = alone(plain_.get(), request(Kind::kHot, prompt, 0), {});
    const Yielded cold = alone(drafting_.get(), request(Kind::kHot, prompt, 3), {});
    for (const int32_t position : {128, 131, 192, 201}) {
      SCOPED_TRACE(testing::Message() << "prompt " << prompt << ", saved at " << position);
      drafting_->join(RowId(0), request(Kind::kHot, prompt, 3));
      drafting_->save(RowId(0), position, kCheckpoint);
      drafting_->drive({});
      const Yielded giver = drafting_->yielded(RowId(0));
      expect_same_text(giver, plain);
      Request taker = request(Kind::kHot, prompt, 3);
      const int32_t again = position + 5;  // generated tokens known to the taker, beyond the checkpoint
      taker.known.insert(taker.known.end(), giver.tokens.begin(), giver.tokens.begin() + again - prompt);
      taker.giver = RowId(0);
      taker.checkpoint = kCheckpoint;
      taker.reused = position;
      drafting_->join(RowId(1), taker);
      drafting_->drive({});
      const Yielded yielded = drafting_->leave(RowId(1));
      drafting_->leave(RowId(0));
      EXPECT_EQ(yielded.tokens, std::vector<TokenId>(plain.tokens.begin() + again - prompt, plain.tokens.end()));
      EXPECT_EQ(yielded.logprobs, (std::vector<std::pair<TokenId, uint32_t>>(
                                      plain.logprobs.begin() + 3 * (again - prompt), plain.logprobs.end())));
      EXPECT_GT(expect_same_drafts(yielded.drafts, cold.drafts), 10);
    }
  }
  std::printf("  %ld states saved with the cursor beyond\n", static_cast<long>(drafting_->counts.saved_behind));
  EXPECT_GT(drafting_->counts.saved_behind, 0);
}

// A later turn goes on where the answer ended, with drafts accepted in the step that ended it.
TEST_P(Draft, ATurnBehindAnAnswerDraftsAsAColdSequence) {
  for (int32_t prompt = 60; prompt < 66; ++prompt) {
    SCOPED_TRACE(prompt);
    Request giver = request(Kind::kHot, prompt, 7);
    giver.sampling.max_tokens = 40;
    drafting_->join(RowId(0), giver);
    drafting_->save(RowId(0), prompt + 39, kCheckpoint);
    drafting_->drive({});
    const std::vector<TokenId> answer = drafting_->yielded(RowId(0)).tokens;
    Request turn = request(Kind::kWide, prompt, 3);
    turn.known.insert(turn.known.end(), answer.begin(), answer.end());
    for (int32_t i = 0; i < 20; ++i) turn.known.push_back(i * 9);
    turn.prompt_length = static_cast<int32_t>(turn.known.size());
    Request reusing = turn;
    reusing.giver = RowId(0);
    reusing.checkpoint = kCheckpoint;
    reusing.reused = prompt + 39;
    drafting_->join(RowId(1), reusing);
    drafting_->drive({});
    const Yielded hit = drafting_->leave(RowId(1));
    drafting_->leave(RowId(0));
    const Yielded cold = alone(drafting_.get(), turn, {});
    expect_same_text(hit, cold);
    EXPECT_EQ(hit.drafts, cold.drafts);
  }
}

TEST_P(Draft, APreemptedSequenceDraftsAsBefore) {
  for (const int32_t steps : {2, 9, 25}) {
    for (const int32_t chunk : {512, 29}) {
      SCOPED_TRACE(testing::Message() << steps << " steps, chunks of " << chunk);
      const Request first = request(Kind::kHot, 65, 3);
      const Yielded cold = alone(drafting_.get(), first, {});
      drafting_->join(RowId(0), first);
      DriveOptions some;
      some.max_steps = steps;
      drafting_->drive(some);
      const Yielded before = drafting_->leave(RowId(0));
      Request again = first;
      again.known.insert(again.known.end(), before.tokens.begin(), before.tokens.end());
      DriveOptions options;
      options.chunk = chunk;
      const Yielded after = alone(drafting_.get(), again, options);
      std::vector<TokenId> tokens = before.tokens;
      tokens.insert(tokens.end(), after.tokens.begin(), after.tokens.end());
      EXPECT_EQ(tokens, cold.tokens);
      EXPECT_GT(expect_same_drafts(after.drafts, cold.drafts), 10);
    }
  }
}

TEST_P(Draft, RowsThatAreNotFiniteEndASequenceWhereTheyDoWithoutDrafts) {
  for (const int64_t from : {70, 71, 72, 73, 100}) {
    model_->spy.broken_from = from;
    const Yielded plain = alone(plain_.get(), request(Kind::kHot, 65, 0), {});
    ASSERT_EQ(plain.stop, StopReason::kNotFinite);
    ASSERT_EQ(static_cast<int64_t>(plain.tokens.size()), from - 64);
    for (const int32_t drafts : {1, 3, 7}) {
      expect_same_text(alone(drafting_.get(), request(Kind::kHot, 65, drafts), {}), plain);
    }
  }
  model_->spy.broken_from = std::numeric_limits<int64_t>::max();
  model_->spy.broken_drafts = true;
  const DraftCounts before = drafting_->counts;
  const Yielded plain = alone(plain_.get(), request(Kind::kHot, 65, 0), {});
  expect_same_text(alone(drafting_.get(), request(Kind::kHot, 65, 3), {}), plain);
  EXPECT_EQ(drafting_->counts.tokens - before.tokens, drafting_->counts.steps - before.steps);
}

TEST_P(Draft, PinnedAcceptanceTakesNoDraftThatItShallNotThoughItIsRight) {
  Driver none(model_.get(), 3, 0);
  for (const int32_t prompt : {1, 65}) {
    expect_same_text(alone(&none, request(Kind::kHot, prompt, 3), {}),
                     alone(plain_.get(), request(Kind::kHot, prompt, 0), {}));
  }
  EXPECT_GT(none.counts.rejected[0], 0);
  EXPECT_EQ(none.counts.accepted[0], 0);
  EXPECT_EQ(none.counts.tokens, none.counts.steps);
}

TEST_P(Draft, PinnedAcceptanceTakesEveryDraftThatItShallThoughItIsWrong) {
  Driver all(model_.get(), 2, int64_t{1} << 32);
  alone(&all, request(Kind::kGreedy, 10, 2), {});
  EXPECT_EQ(all.counts.rejected[0] + all.counts.rejected[1], 0);
  EXPECT_GE(all.counts.tokens, 3 * all.counts.steps - 2 * all.counts.cut_at_grid - 2);  // the last is cut by its end
}

// The length that was set comes out, and what the rows have in their caches is what they yielded: a token that is no
// draft is the model's own behind all tokens before it.
TEST_P(Draft, PinnedAcceptanceYieldsItsLengthAndTheModelGoesOnFromWhatWasYielded) {
  const uint64_t threshold = pinned_threshold(2.73, 2);
  Driver pinned(model_.get(), 2, static_cast<int64_t>(threshold));
  for (int32_t i = 0; i < kTestRows; ++i) pinned.join(RowId(i), request(Kind::kGreedy, 60 + i, 2));
  pinned.drive({});
  const double mean = static_cast<double>(pinned.counts.tokens) / static_cast<double>(pinned.counts.steps);
  std::printf("  %.3f tokens a step\n", mean);
  EXPECT_NEAR(mean, 2.73, 0.15);  // under 300 steps, which deviate by 0.6, and a few cut at the grid
  int32_t own = 0;
  Request start = request(Kind::kGreedy, 62, 0);
  const Yielded yielded = pinned.yielded(RowId(2));
  ASSERT_EQ(yielded.tokens.size(), static_cast<size_t>(kOutput));
  start.sampling.max_tokens = 1;
  for (const TokenId token : yielded.tokens) {
    const auto position = static_cast<int64_t>(start.known.size());
    if (!pinned_accepts(start.sampling.seed, position, threshold)) {
      ++own;
      EXPECT_EQ(alone(plain_.get(), start, {}).tokens, std::vector{token}) << "at " << position;
    }
    start.known.push_back(token);
    ++start.prompt_length;
  }
  EXPECT_GT(own, 5);
}

INSTANTIATE_TEST_SUITE_P(Models, Draft,
                         testing::Values("moe-odd", "moe-real", "moe-fp8", "moe-fit", "moe-fit fp8", "attention-only"),
                         ModelTestName());

// Drafts among a part of the vocabulary, from rows in eight bits.
class DraftVocabulary : public Draft {
 protected:
  // All biased ids and a few others; hardly one is its own index.
  void SetUp() override {
    Draft::SetUp();
    if (HasFatalFailure() || IsSkipped()) return;
    const auto vocabulary = static_cast<TokenId>(model_->config.vocabulary);
    auto model = load_golden_model(GetParam(), 512,
                                   draft_ids(2, std::vector<TokenId>{3, 17, 40, 41, 60, 77, 90, 130}, vocabulary));
    ASSERT_TRUE(model.ok()) << model.error().text();
    some_ = std::make_unique<SpyModel>(std::move(*model));
    among_some_ = std::make_unique<Driver>(some_.get(), kDraftsMax);
  }
  std::unique_ptr<SpyModel> some_;
  std::unique_ptr<Driver> among_some_;
};

int64_t sum(std::span<const int64_t> values) {
  return std::accumulate(values.begin(), values.end(), int64_t{0});
}

TEST_P(DraftVocabulary, ChangesNoTokenAndNoProbability) {
  for (const Kind kind : {Kind::kGreedy, Kind::kWide, Kind::kHot, Kind::kPenalties, Kind::kStopIds}) {
    for (const int32_t prompt : {1, 64, 150}) {
      SCOPED_TRACE(testing::Message() << "kind " << static_cast<int>(kind) << ", prompt " << prompt);
      const Yielded plain = alone(plain_.get(), request(kind, prompt, 0), {});
      expect_same_text(alone(among_some_.get(), request(kind, prompt, 3), {}), plain);
    }
  }
  EXPECT_EQ(some_->spy.draft_logits, 10);
  EXPECT_EQ(some_->draft_ids.size(), 10U);
}

// Hot rows take the noise's best of a few ids, which all are among the drafts': theirs is the same noise, by token id.
TEST_P(DraftVocabulary, HasTheNoiseOfItsTokens) {
  for (const int32_t prompt : {1, 64, 150}) {
    alone(drafting_.get(), request(Kind::kHot, prompt, 3), {});
    alone(among_some_.get(), request(Kind::kHot, prompt, 3), {});
  }
  const int64_t of_all = sum(drafting_->counts.accepted);
  const int64_t of_some = sum(among_some_->counts.accepted);
  std::printf("  accepted: %ld of all ids, %ld of some\n", static_cast<long>(of_all), static_cast<long>(of_some));
  EXPECT_GT(of_all, 100);
  EXPECT_GT(10 * of_some, 8 * of_all);
}

INSTANTIATE_TEST_SUITE_P(Models, DraftVocabulary, testing::Values("moe-odd", "moe-real", "moe-fp8", "moe-fit"),
                         ModelTestName());

// The head of the shipped model was trained.
class DraftShipped : public testing::Test {
 protected:
  void SetUp() override {
    if (tests_use_gpu()) GTEST_SKIP() << kHostOnly;
  }
  // Greedy, 120 tokens behind prompts of 20, 40 and 60; drafts among `ids`, all if there are none.
  static std::vector<Yielded> run(int32_t drafts, const std::vector<TokenId>& ids, DraftCounts* counts) {
    const std::string folder = "share/weir-xs";
    const auto config = read_model_config(folder);
    EXPECT_TRUE(config.ok()) << config.error().text();
    const auto checkpoint = Checkpoint::open(folder);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().text();
    auto weights = load_weights(*config, **checkpoint);
    EXPECT_TRUE(weights.ok()) << weights.error().text();
    ThreadPool pool({.threads = 2});
    if (!ids.empty()) add_draft_head(&*weights, ids, &pool);
    auto made = make_test_model(*config, *weights, 512);
    EXPECT_TRUE(made.ok()) << made.error().text();
    SpyModel model(std::move(*made));
    Driver driver(&model, drafts);
    std::vector<Yielded> yielded;
    for (const int32_t prompt : {20, 40, 60}) {
      Request request;
      for (int32_t i = 0; i < prompt; ++i) request.known.push_back(300 + i * i * 7 % 5000);
      request.prompt_length = prompt;
      request.sampling.temperature = 0.0F;
      request.sampling.max_tokens = 120;
      request.sampling.logprobs = 1;
      request.drafts = drafts;
      driver.join(RowId(0), request);
      driver.drive({});
      yielded.push_back(driver.leave(RowId(0)));
    }
    *counts = driver.counts;
    return yielded;
  }
  static void expect_same_texts(const std::vector<Yielded>& a, const std::vector<Yielded>& b) {
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].tokens, b[i].tokens);
      EXPECT_EQ(a[i].logprobs, b[i].logprobs);
    }
  }
};

TEST_F(DraftShipped, DraftsAreMostlyRight) {
  DraftCounts counts;
  const auto plain = run(0, {}, &counts);
  expect_same_texts(run(3, {}, &counts), plain);
  std::printf("  %ld tokens in %ld steps\n", static_cast<long>(counts.tokens), static_cast<long>(counts.steps));
  EXPECT_GT(counts.tokens, 2 * counts.steps);
}

// Its 8,176 merges, then the nine ids beside them.
TEST_F(DraftShipped, AmongFewerIdsFewerDraftsAreRightAndTheTextIsTheSame) {
  const std::vector<TokenId> also = {8176, 8177, 8178, 8179, 8180, 8181, 8182, 8183, 8184};
  DraftCounts counts;
  const auto plain = run(0, {}, &counts);
  int64_t of_all = 0;
  for (const int64_t first : {0, 8192, 4096, 2048, 512}) {
    expect_same_texts(run(2, first == 0 ? std::vector<TokenId>() : draft_ids(first, also, 8185), &counts), plain);
    std::printf("  %ld first ids: %ld tokens in %ld steps\n", static_cast<long>(first),
                static_cast<long>(counts.tokens), static_cast<long>(counts.steps));
    if (first == 0) of_all = counts.steps;
    // Eight bits alone cost next to nothing.
    if (first == 8192) {
      EXPECT_LE(counts.steps, of_all + of_all / 20);
    }
  }
}

TEST(DraftLimits, AModelWithoutADraftHeadIsRefused) {
  auto model = load_golden_model("next", 512);
  ASSERT_TRUE(model.ok()) << model.error().text();
  ASSERT_FALSE((*model)->has_draft_head());
  RunnerLimits limits;
  limits.rows_max = 1;
  limits.step_tokens_max = 8;
  limits.state_slots = 1;
  limits.pages = {1, 1};
  limits.sequence_tokens_max = 64;
  limits.vocabulary = 8;
  limits.drafts_max = 1;
  const auto layout = cache_layout((*model)->config, (*model)->cache_sizes(), true);
  const auto runner = ModelRunner::create(model->get(), layout, limits, [] {});
  ASSERT_FALSE(runner.ok());
  EXPECT_EQ(runner.error().code, ErrorCode::kUnsupported);
  EXPECT_FALSE(runner.error().remedy.empty());
}

}  // namespace
}  // namespace weir
