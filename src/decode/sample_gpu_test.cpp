// The device's tokens are the CPU sampler's, id for id, on equal logits.
#include "ops/sample/sample_gpu.h"

#include <cstdio>
#include <limits>
#include <random>
#include <sstream>
#include <string>

#include "decode/sampler.h"
#include "ops/gpu/gpu_test.h"
#include "ops/sample/noise.h"

namespace weir {
namespace {

// One row of a launch with the answer that is right.
struct Case {
  std::vector<float> logits;
  SamplingParams params;
  int64_t position = 0;
  int64_t output_count = 0;
  std::vector<uint32_t> mask;
  bool sampled = true;

  std::string text() const {
    std::ostringstream out;
    out << "temperature " << params.temperature << " top_k " << params.top_k << " top_p " << params.top_p << " min_p "
        << params.min_p << " biases " << params.logit_bias_count << " banned "
        << (output_count < params.min_tokens ? params.banned_until_min_count : 0) << " mask " << !mask.empty()
        << " position " << position << " seed " << params.seed;
    return out.str();
  }
};

TokenId expected(const Case& row, int32_t vocabulary) {
  for (const float x : row.logits) {
    if (!std::isfinite(x)) return -1;
  }
  Sampler sampler(static_cast<int32_t>(row.logits.size()));
  SampleArgs args;
  args.params = &row.params;
  args.position = row.position;
  args.output_count = row.output_count;
  args.vocabulary = vocabulary;
  args.mask = row.mask;
  return sampler.sample(row.logits, args);
}

// Logits of many kinds: flat, peaked, tied in many ways, zeros of both signs, far apart.
std::vector<float> draw_logits(std::mt19937_64* random, int32_t width) {
  std::normal_distribution<float> normal;
  const uint64_t kind = (*random)() % 8;
  const float deviation = kind == 0 ? 0.01F : kind == 1 ? 8.0F : kind == 2 ? 100.0F : 2.5F;
  std::vector<float> out(static_cast<size_t>(width));
  for (size_t i = 0; i < out.size(); ++i) {
    float x = normal(*random) * deviation;
    if (kind == 3) x = std::round(x * 4.0F) / 4.0F;
    if (kind == 4) x = 3.25F;
    if (kind == 5 && i % 3 != 0) x = i % 2 == 0 ? 0.0F : -0.0F;
    if (kind == 6) x *= 1e-3F;
    out[i] = x;
  }
  if (kind == 7) out[(*random)() % out.size()] = 40.0F;
  return out;
}

template <class T, size_t N>
T pick(std::mt19937_64* random, const T (&values)[N]) {
  return values[(*random)() % N];
}

Case draw_case(std::mt19937_64* random, int32_t width, int32_t vocabulary) {
  Case out;
  out.logits = draw_logits(random, width);
  const auto any = [&](uint64_t bound) { return (*random)() % bound; };
  const auto any_id = [&] { return static_cast<TokenId>(any(static_cast<uint64_t>(width) + 3)); };
  SamplingParams& p = out.params;
  p.temperature = pick(random, {0.0F, 1e-40F, 1e-35F, 1e-20F, 0.01F, 0.3F, 0.7F, 1.0F, 1.0F, 1.5F, 10.0F});
  p.top_p = pick(random, {1.0F, 1.0F, 0.99999F, 0.999F, 0.95F, 0.9F, 0.5F, 0.01F, 1e-6F});
  p.min_p = pick(random, {0.0F, 0.0F, 0.0F, 1e-4F, 0.05F, 0.5F, 1.0F});
  p.top_k = pick(random, {0, 0, 1, 5, 40, 200, 1000, 20'000, 380'000});
  p.seed = (*random)();
  out.position = static_cast<int64_t>(any(300'000));
  out.output_count = static_cast<int64_t>(any(5));
  if (any(4) == 0) {
    p.logit_bias_count = static_cast<int32_t>(1 + any(any(2) == 0 ? kLogitBiasMax : 8));
    for (int32_t i = 0; i < p.logit_bias_count; ++i) {
      p.logit_bias[static_cast<size_t>(i)] = {any_id(), pick(random, {-100.0F, -1.5F, 0.3F, 2.0F, 100.0F})};
    }
  }
  if (any(4) == 0) {
    p.min_tokens = 3;
    p.banned_until_min_count = static_cast<int32_t>(1 + any(kStopIdsMax));
    // Where few ids are left all of them may be banned.
    for (int32_t i = 0; i < p.banned_until_min_count; ++i) {
      p.banned_until_min[static_cast<size_t>(i)] = width < kStopIdsMax ? i % width : any_id();
    }
  }
  if (any(8) == 0) {
    out.mask.resize(static_cast<size_t>(vocabulary + 31) / 32);
    for (uint32_t& word : out.mask) word = static_cast<uint32_t>((*random)() & (*random)());
  }
  if (any(16) == 0) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    out.logits[any(out.logits.size())] = pick(random, {kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()});
  }
  out.sampled = any(16) != 0;
  return out;
}

class GpuSample : public GpuTest {
 protected:
  struct Answer {
    std::vector<int32_t> tokens;
    std::vector<int32_t> next_tokens;
  };

  GpuSampleRow row_of(const Case& c, int32_t row) {
    GpuSampleRow out;
    const float scale = c.params.temperature > 0.0F ? 1.0F / c.params.temperature : 0.0F;
    out.scale = scale > kSampleScaleMax ? 0.0F : scale;
    out.top_p = c.params.top_p;
    out.min_p = c.params.min_p;
    out.top_k = c.params.top_k;
    out.seed = c.params.seed;
    out.position = c.position;
    out.row = c.sampled ? row : -1;
    out.bias_count = c.params.logit_bias_count;
    out.banned_count = c.output_count < c.params.min_tokens ? c.params.banned_until_min_count : 0;
    std::vector<GpuLogitBias> bias(kGpuBiasMax);
    for (size_t i = 0; i < bias.size(); ++i) bias[i] = {c.params.logit_bias[i].token, c.params.logit_bias[i].bias};
    biases_.push_back(upload(bias));
    banned_.push_back(upload(std::vector<int32_t>(c.params.banned_until_min.begin(), c.params.banned_until_min.end())));
    out.bias = biases_.back().data();
    out.banned = banned_.back().data();
    if (!c.mask.empty()) {
      masks_.push_back(upload(c.mask));
      out.mask = masks_.back().data();
    }
    return out;
  }

  // Row i of the batch stands in row R - 1 - i of next_tokens. Runs the call twice: the second must find all scratch as
  // the first did.
  Answer run(const std::vector<Case>& cases, int32_t width, int32_t vocabulary, int64_t stride) {
    const auto rows = static_cast<int32_t>(cases.size());
    std::vector<float> logits(static_cast<size_t>(rows * stride), std::numeric_limits<float>::quiet_NaN());
    std::vector<GpuSampleRow> table;
    for (int32_t i = 0; i < rows; ++i) {
      std::copy(cases[static_cast<size_t>(i)].logits.begin(), cases[static_cast<size_t>(i)].logits.end(),
                logits.begin() + i * stride);
      table.push_back(row_of(cases[static_cast<size_t>(i)], rows - 1 - i));
    }
    auto on_device = upload(logits);
    auto device_table = upload(table);
    auto scratch = zeros<GpuSampleScratch>(cases.size());
    OnDevice<int32_t> tokens(gpu(), cases.size(), -7);
    OnDevice<int32_t> next(gpu(), cases.size(), -7);
    GpuSampleArgs args;
    args.logits = on_device.data();
    args.logits_stride = stride;
    args.rows = device_table.data();
    args.scratch = scratch.data();
    args.tokens = tokens.data();
    args.next_tokens = next.data();
    args.width = width;
    args.vocabulary = vocabulary;
    sample(gpu(), args, rows);
    Answer first{tokens.read(), next.read()};
    sample(gpu(), args, rows);
    EXPECT_EQ(tokens.read(), first.tokens) << "the second of two equal calls differs";
    EXPECT_EQ(next.read(), first.next_tokens);
    biases_.clear();
    banned_.clear();
    masks_.clear();
    return first;
  }

  // Returns whether all was right.
  bool check(const std::vector<Case>& cases, int32_t width, int32_t vocabulary, int64_t stride) {
    const Answer answer = run(cases, width, vocabulary, stride);
    bool right = true;
    for (size_t i = 0; i < cases.size(); ++i) {
      const int32_t got = answer.tokens[i];
      const int32_t next = answer.next_tokens[cases.size() - 1 - i];
      const TokenId want = cases[i].sampled ? expected(cases[i], vocabulary) : -7;
      right &= got == want && (next == (want == -1 ? 0 : want));
      EXPECT_EQ(got, want) << "row " << i << " of " << cases.size() << ", " << vocabulary << " ids of " << width
                           << " logits, " << cases[i].text();
      EXPECT_TRUE(next == (want == -1 ? 0 : want)) << "next token " << next << " of row " << i;
    }
    return right;
  }

  std::vector<OnDevice<GpuLogitBias>> biases_;
  std::vector<OnDevice<int32_t>> banned_;
  std::vector<OnDevice<uint32_t>> masks_;
};

Case plain_case(int32_t width, float temperature) {
  std::mt19937_64 random(static_cast<uint64_t>(width));
  Case out;
  std::normal_distribution<float> normal(0.0F, 2.5F);
  for (int32_t i = 0; i < width; ++i) out.logits.push_back(normal(random));
  out.params.temperature = temperature;
  out.params.seed = 42;
  out.position = 17;
  return out;
}

// One parameter after the other, from a handful of ids to more than a cluster's threads: what fails first says where.
TEST_F(GpuSample, EachParameterAloneGivesTheCpusToken) {
  for (const int32_t width : {1, 3, 4, 7, 32, 33, 1000, 4096, 9999}) {
    const auto alone = [&](const char* what, auto change) {
      SCOPED_TRACE(testing::Message() << what << ", " << width << " logits");
      Case row = plain_case(width, 1.0F);
      change(&row);
      return check({row}, width, width, width);
    };
    ASSERT_TRUE(alone("greedy", [](Case* c) { c->params.temperature = 0.0F; }));
    ASSERT_TRUE(alone("noise", [](Case*) {}));
    ASSERT_TRUE(alone("bias", [](Case* c) {
      c->params.temperature = 0.0F;
      c->params.logit_bias_count = 2;
      c->params.logit_bias[0] = {static_cast<TokenId>(c->logits.size()) - 1, 90.0F};
      c->params.logit_bias[1] = {0, -90.0F};
    }));
    ASSERT_TRUE(alone("min_p", [](Case* c) { c->params.min_p = 0.1F; }));
    ASSERT_TRUE(alone("top_k", [](Case* c) { c->params.top_k = 3; }));
    ASSERT_TRUE(alone("top_p", [](Case* c) { c->params.top_p = 0.8F; }));
    ASSERT_TRUE(alone("top_k of equals", [](Case* c) {
      std::fill(c->logits.begin(), c->logits.end(), 1.5F);
      c->params.top_k = static_cast<int32_t>(c->logits.size() + 1) / 2;
    }));
    ASSERT_TRUE(alone("top_p of equals", [](Case* c) {
      std::fill(c->logits.begin(), c->logits.end(), -2.5F);
      c->params.top_p = 0.37F;
    }));
    ASSERT_TRUE(alone("not finite", [](Case* c) { c->logits.back() = std::numeric_limits<float>::infinity(); }));
  }
}

TEST_F(GpuSample, AnyParametersGiveTheCpusTokens) {
  std::mt19937_64 random(20261121);
  int64_t rows = 0;
  for (int round = 0; round < 120; ++round) {
    const auto width = static_cast<int32_t>(1 + random() % (round % 3 == 0 ? 60 : 20'000));
    const int32_t vocabulary = std::max<int32_t>(1, width - static_cast<int32_t>(random() % 9));
    const int64_t stride = width + static_cast<int64_t>(random() % 8);
    std::vector<Case> cases;
    const size_t count = 1 + random() % 64;
    for (size_t i = 0; i < count; ++i) cases.push_back(draw_case(&random, width, vocabulary));
    ASSERT_TRUE(check(cases, width, vocabulary, stride)) << "round " << round;
    rows += static_cast<int64_t>(count);
  }
  EXPECT_GT(rows, 2'000);
}

constexpr int32_t kWide = 248'320;  // logits of the 35B

TEST_F(GpuSample, AFullVocabularyGivesTheCpusTokens) {
  std::mt19937_64 random(35);
  for (const size_t count : {size_t{1}, size_t{5}, size_t{40}}) {
    std::vector<Case> cases;
    for (size_t i = 0; i < count; ++i) cases.push_back(draw_case(&random, kWide, kWide - 251));
    ASSERT_TRUE(check(cases, kWide, kWide - 251, kWide)) << count << " rows";
  }
}

TEST_F(GpuSample, ARecordedCallServesOtherRowsOfOtherParameters) {
  constexpr int32_t kWidth = 5'003;
  constexpr size_t kRows = 9;
  std::mt19937_64 random(9);
  auto logits = zeros<float>(kRows * kWidth);
  auto table = zeros<GpuSampleRow>(kRows);
  auto scratch = zeros<GpuSampleScratch>(kRows);
  OnDevice<int32_t> tokens(gpu(), kRows, -7);
  OnDevice<int32_t> next(gpu(), kRows, -7);
  GpuSampleArgs args;
  args.logits = logits.data();
  args.logits_stride = kWidth;
  args.rows = table.data();
  args.scratch = scratch.data();
  args.tokens = tokens.data();
  args.next_tokens = next.data();
  args.width = kWidth;
  args.vocabulary = kWidth;
  stream_.begin_graph();
  sample(gpu(), args, kRows);
  auto graph = stream_.end_graph();
  ASSERT_TRUE(graph.ok());
  for (int step = 0; step < 12; ++step) {
    std::vector<Case> cases;
    std::vector<float> values;
    std::vector<GpuSampleRow> rows;
    for (size_t i = 0; i < kRows; ++i) {
      Case c = draw_case(&random, kWidth, kWidth);
      c.sampled = true;
      values.insert(values.end(), c.logits.begin(), c.logits.end());
      rows.push_back(row_of(c, static_cast<int32_t>(i)));
      cases.push_back(std::move(c));
    }
    stream_.copy_in(reinterpret_cast<std::byte*>(logits.data()), values.data(),
                    static_cast<int64_t>(values.size() * sizeof(float)));
    stream_.copy_in(reinterpret_cast<std::byte*>(table.data()), rows.data(),
                    static_cast<int64_t>(rows.size() * sizeof(GpuSampleRow)));
    stream_.replay(*graph);
    const std::vector<int32_t> got = tokens.read();
    for (size_t i = 0; i < kRows; ++i) {
      ASSERT_EQ(got[i], expected(cases[i], kWidth)) << "step " << step << " row " << i << ", " << cases[i].text();
    }
  }
}

// Flat rows: normal logits. Peaked rows: a few ids hold nearly all of the probability, as in text.
TEST_F(GpuSample, Timing) {
  struct Setting {
    const char* name;
    float temperature;
    int32_t top_k;
    float top_p;
  };
  const Setting settings[] = {{"greedy", 0.0F, 0, 1.0F},
                              {"temperature", 1.0F, 0, 1.0F},
                              {"top_p", 0.7F, 0, 0.95F},
                              {"top_k", 0.7F, 40, 1.0F},
                              {"top_k and top_p", 0.7F, 20, 0.95F}};
  for (const int64_t rows : {1, 4, 8, 16, 64}) {
    for (const bool peaked : {false, true}) {
      Case one = plain_case(kWide, 1.0F);
      for (size_t i = 0; peaked && i < 20; ++i) one.logits[i * 7'919] = 18.0F - static_cast<float>(i) / 2.0F;
      std::vector<float> logits;
      for (int64_t i = 0; i < rows; ++i) logits.insert(logits.end(), one.logits.begin(), one.logits.end());
      auto on_device = upload(logits);
      auto scratch = zeros<GpuSampleScratch>(static_cast<size_t>(rows));
      auto tokens = zeros<int32_t>(static_cast<size_t>(rows));
      for (const Setting& setting : settings) {
        one.params.temperature = setting.temperature;
        one.params.top_k = setting.top_k;
        one.params.top_p = setting.top_p;
        std::vector<GpuSampleRow> table;
        for (int64_t i = 0; i < rows; ++i) table.push_back(row_of(one, static_cast<int32_t>(i)));
        auto device_table = upload(table);
        GpuSampleArgs args;
        args.logits = on_device.data();
        args.logits_stride = kWide;
        args.rows = device_table.data();
        args.scratch = scratch.data();
        args.tokens = tokens.data();
        args.next_tokens = tokens.data();
        args.width = kWide;
        args.vocabulary = kWide;
        const double us = micros(20, [&] { sample(gpu(), args, rows); });
        std::printf("sample %-16s %-6s %2d rows of %d logits: %.1f us\n", setting.name, peaked ? "peaked" : "flat",
                    static_cast<int>(rows), kWide, us);
      }
    }
  }
}

}  // namespace
}  // namespace weir
