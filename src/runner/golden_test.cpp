// The model against log-probabilities made by transformers (tools/goldens/make.py).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "decode/sampler.h"
#include "ops/logits/logits.h"
#include "runner/offline.h"
#include "runner/test_model.h"
#include "weights/checkpoint.h"

namespace weir {
namespace {

// How far apart two implementations may be: in float32, and where activations are rounded for the tensor cores or keys
// and values to FP8 (then 1e-3 to 5e-3 in the mean, 0.04 at most).
struct Bounds {
  double mean = 1e-4;
  double worst = 3e-3;
  float gap = 0.01F;
};
constexpr Bounds kRounded{1e-2, 0.3, 0.2F};
// Where a prompt's activations are FP8 codes.
constexpr Bounds kQuantised{5e-2, 1, 0.2F};

template <class T>
std::vector<T> read(const Checkpoint& golden, const std::string& name) {
  const TensorInfo* tensor = golden.find(name);
  std::vector<T> out(tensor == nullptr ? 0 : static_cast<size_t>(tensor->shape.elements()));
  if (tensor != nullptr) std::memcpy(out.data(), tensor->bytes.data(), tensor->bytes.size());
  return out;
}

struct Difference {
  double sum = 0;
  double worst = 0;
  int64_t count = 0;
  void add(double a, double b) {
    const double difference = std::abs(a - b);
    sum += difference;
    worst = std::max(worst, difference);
    ++count;
  }
  void check(const char* what, const Bounds& bounds) const {
    ASSERT_GT(count, 0) << what;
    std::printf("  %-16s %6ld values: mean %.2e, max %.2e\n", what, static_cast<long>(count),
                sum / static_cast<double>(count), worst);
    EXPECT_LE(sum / static_cast<double>(count), bounds.mean) << what;
    EXPECT_LE(worst, bounds.worst) << what;
  }
};

class Golden : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto [name, fp8, w8a8] = golden_name(GetParam());
    if (w8a8 && !tests_use_gpu()) GTEST_SKIP() << "the CPU has no kernels for it";
    auto model = load_golden_model(GetParam(), 2048);
    ASSERT_TRUE(model.ok()) << model.error().text();
    model_ = std::move(*model);
    const auto* gpu = dynamic_cast<const GpuModel*>(model_.get());
    if (fp8 || (gpu != nullptr && gpu->packed)) bounds_ = kRounded;
    if (w8a8) bounds_ = kQuantised;
    auto golden = Checkpoint::open_file("tests/data/goldens/" + name + "/golden.safetensors");
    ASSERT_TRUE(golden.ok()) << golden.error().text();
    golden_ = std::move(*golden);
  }

  std::unique_ptr<OfflineModel> offline(int64_t tokens) {
    auto made = OfflineModel::create(model_.get(), tokens, 256);
    EXPECT_TRUE(made.ok());
    return std::move(*made);
  }
  std::vector<TokenId> prompt(int length) { return read<TokenId>(*golden_, "prompt." + std::to_string(length)); }

  // Adds the difference of two whole rows of log-probabilities.
  void compare_row(std::span<const float> logits, std::span<const float> expected, Difference* difference) {
    const double total = logit_row(*model_->cpu, logits).log_sum_exp;
    for (size_t id = 0; id < expected.size(); ++id) {
      difference->add(static_cast<double>(logits[id]) - total, static_cast<double>(expected[id]));
    }
  }

  std::unique_ptr<Model> model_;
  Bounds bounds_;
  std::unique_ptr<Checkpoint> golden_;
};

TEST_P(Golden, LogProbabilitiesAreThoseOfTransformers) {
  Difference tokens;
  Difference rows;
  for (const int length : {1, 63, 64, 65, 700, 1500}) {
    const auto ids = prompt(length);
    ASSERT_EQ(ids.size(), static_cast<size_t>(length));
    const auto expected = read<float>(*golden_, "logprobs." + std::to_string(length));
    const auto last = read<float>(*golden_, "last." + std::to_string(length));
    offline(length)->score(ids, 0, [&](int64_t i, std::span<const float> logits) {
      if (i + 1 < length) {
        const auto next = static_cast<size_t>(ids[static_cast<size_t>(i + 1)]);
        tokens.add(static_cast<double>(logits[next]) - logit_row(*model_->cpu, logits).log_sum_exp,
                   static_cast<double>(expected[static_cast<size_t>(i)]));
      } else {
        compare_row(logits, last, &rows);
      }
    });
  }
  tokens.check("prompt tokens", bounds_);
  rows.check("last rows", bounds_);
}

TEST_P(Golden, GreedyContinuationsAreThoseOfTransformers) {
  int compared = 0;
  for (const int length : {63, 64, 65}) {
    auto ids = prompt(length);
    const auto greedy = read<TokenId>(*golden_, "greedy." + std::to_string(length));
    const auto gaps = read<float>(*golden_, "greedy_gap." + std::to_string(length));
    ASSERT_EQ(greedy.size(), gaps.size());
    ASSERT_FALSE(greedy.empty());
    const auto model = offline(length + static_cast<int64_t>(greedy.size()));
    ids.insert(ids.end(), greedy.begin(), greedy.end());
    model->score(ids, length - 1, [&](int64_t i, std::span<const float> logits) {
      const auto step = static_cast<size_t>(i - length + 1);
      if (step >= greedy.size() || gaps[step] <= bounds_.gap) return;
      EXPECT_EQ(argmax(logits), greedy[step]) << "step " << step << " behind " << length;
      ++compared;
    });
  }
  EXPECT_GT(compared, 60);
}

TEST_P(Golden, DraftChainsAreThoseOfTheComposition) {
  if (!model_->has_draft_head()) GTEST_SKIP() << "no draft head in this checkpoint";
  Difference rows;
  for (const int length : {1, 64, 700}) {
    const auto ids = prompt(length);
    for (const int depth : {1, 2, 3}) {
      const std::string suffix = std::to_string(depth) + "." + std::to_string(length);
      const auto expected = read<float>(*golden_, "mtp." + suffix);
      const auto tokens = read<TokenId>(*golden_, "mtp_tokens." + suffix);
      const auto chain = offline(length + depth)->draft(ids, depth);
      ASSERT_TRUE(chain.ok()) << chain.error().text();
      ASSERT_EQ(chain->logits.size(), static_cast<size_t>(depth));
      EXPECT_EQ(chain->tokens, tokens);
      const auto width = static_cast<size_t>(model_->config.vocabulary);
      for (size_t i = 0; i < chain->logits.size(); ++i) {
        compare_row(chain->logits[i], std::span(expected).subspan(i * width, width), &rows);
      }
    }
  }
  rows.check("draft rows", bounds_);
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         testing::Values("moe-odd", "moe-real", "dense-tied", "dense-untied", "next", "moe-fp8",
                                         "moe-mxfp4", "moe-fit", "moe-fit fp8", "moe-fit w8a8"),
                         ModelTestName());

}  // namespace
}  // namespace weir
