#include "api/request.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "api/fields.h"

namespace weir::api {
namespace {

ApiError error_of(const Parsed<CompletionRequest>& parsed) {
  const auto* error = std::get_if<ApiError>(&parsed);
  return error == nullptr ? ApiError{200, {}, {}, {}, 0} : *error;
}

TEST(FieldTable, NamesAreUniquePerEndpointAndRangesAreRanges) {
  std::set<std::pair<std::string_view, uint32_t>> seen;
  for (const FieldSpec& spec : field_table()) {
    for (uint32_t endpoint : {kChat, kCompletions, kTokenize, kDetokenize}) {
      if ((spec.endpoints & endpoint) != 0) {
        EXPECT_TRUE(seen.insert({spec.name, endpoint}).second) << spec.name;
      }
    }
    EXPECT_LE(spec.min, spec.max) << spec.name;
    EXPECT_FALSE(spec.meaning.empty()) << spec.name;
    EXPECT_EQ(spec.effect == FieldEffect::kUnsupported, !spec.neutral.empty()) << spec.name;
  }
  EXPECT_TRUE(nlohmann::json::parse(field_table_json()).is_array());
}

TEST(Request, ReadsEveryFormOfAPrompt) {
  const auto prompts = [](std::string_view prompt) {
    return std::get<CompletionRequest>(parse_completion("{\"prompt\":" + std::string(prompt) + "}")).prompts;
  };
  EXPECT_EQ(prompts(R"("a")"), (std::vector<Prompt>{PromptText("a")}));
  EXPECT_EQ(prompts(R"(["a","b"])"), (std::vector<Prompt>{PromptText("a"), PromptText("b")}));
  EXPECT_EQ(prompts("[1,2]"), (std::vector<Prompt>{PromptIds{1, 2}}));
  EXPECT_EQ(prompts("[[1],[2,3]]"), (std::vector<Prompt>{PromptIds{1}, PromptIds{2, 3}}));
}

TEST(Request, DefaultsAreThoseOfTheTable) {
  const auto request = std::get<CompletionRequest>(parse_completion(R"({"prompt":"a","n":null})"));
  EXPECT_EQ(request.options.n, 1);
  EXPECT_EQ(request.options.logprobs, -1);
  EXPECT_FALSE(request.options.temperature.has_value());
  EXPECT_TRUE(request.options.skip_special_tokens);
}

TEST(Request, SeedsAreAllOfInt64) {
  for (const char* seed : {"-9223372036854775808", "9223372036854775807", "0"}) {
    EXPECT_EQ(error_of(parse_completion(std::string(R"({"prompt":"a","seed":)") + seed + "}")).status, 200) << seed;
  }
  for (const char* seed : {"9223372036854775808", "1e19", "-9223372036854775809", "0.5", "true"}) {
    EXPECT_EQ(error_of(parse_completion(std::string(R"({"prompt":"a","seed":)") + seed + "}")).param, "seed") << seed;
  }
}

TEST(Request, LengthsMustAgree) {
  EXPECT_EQ(error_of(parse_completion(R"({"prompt":"a","max_tokens":3,"min_tokens":4})")).param, "min_tokens");
  EXPECT_EQ(error_of(parse_completion(R"({"prompt":"a","stream_options":{}})")).param, "stream_options");
}

TEST(Request, UnknownFieldsAreNamed) {
  const auto request =
      std::get<CompletionRequest>(parse_completion(R"({"prompt":"a","zz":1,"stream":true,"stream_options":{"yy":1}})"));
  EXPECT_EQ(request.options.unknown_fields, (std::vector<std::string>{"zz", "stream_options.yy"}));
}

class Sampling : public testing::Test {
 protected:
  std::optional<ApiError> make(int64_t prompt_tokens, int64_t fallback) {
    return make_sampling(options_, {100, 1000, &defaults_}, prompt_tokens, fallback, &sampling_);
  }
  GenerationOptions options_;
  GenerationDefaults defaults_;
  SamplingParams sampling_;
};

TEST_F(Sampling, RequestsWinOverTheModelsDefaultsAndThoseOverNeutralOnes) {
  defaults_.temperature = 0.5F;
  defaults_.top_k = 20;
  defaults_.eos_ids = {3};
  options_.top_p = 0.9F;
  options_.top_k = -1;
  ASSERT_FALSE(make(10, -1).has_value());
  EXPECT_EQ(sampling_.temperature, 0.5F);
  EXPECT_EQ(sampling_.top_k, 0);
  EXPECT_EQ(sampling_.top_p, 0.9F);
  EXPECT_EQ(sampling_.min_p, 0.0F);
  EXPECT_EQ(sampling_.max_tokens, 90);
  ASSERT_EQ(sampling_.stop_id_count, 1);
  EXPECT_EQ(sampling_.stop_ids[0], 3);
}

TEST_F(Sampling, IgnoringTheEndKeepsRequestedStopIds) {
  defaults_.eos_ids = {3};
  options_.ignore_eos = true;
  options_.stop_token_ids = {5, 5};
  ASSERT_FALSE(make(10, -1).has_value());
  ASSERT_EQ(sampling_.stop_id_count, 1);
  EXPECT_EQ(sampling_.stop_ids[0], 5);
  EXPECT_EQ(sampling_.banned_until_min_count, 2);
}

TEST_F(Sampling, TheContextBoundsLengths) {
  EXPECT_FALSE(make(99, 16).has_value());
  EXPECT_EQ(sampling_.max_tokens, 1);
  EXPECT_EQ(make(100, 16)->code, "context_length_exceeded");
  options_.max_tokens = 0;
  EXPECT_FALSE(make(100, 16).has_value());
  options_.max_tokens = 41;
  EXPECT_FALSE(make(59, 16).has_value());
  EXPECT_EQ(make(60, 16)->code, "context_length_exceeded");
  options_.max_tokens.reset();
  options_.min_tokens = 50;
  EXPECT_EQ(make(60, 16)->param, "min_tokens");
}

TEST_F(Sampling, IdsMustBeInTheVocabulary) {
  options_.stop_token_ids = {1000};
  EXPECT_EQ(make(1, 16)->param, "stop_token_ids");
  options_.stop_token_ids = {};
  options_.logit_bias = {{1000, 1.0F}};
  EXPECT_EQ(make(1, 16)->param, "logit_bias");
}

TEST_F(Sampling, ProbabilitiesThatVanishAsFloatsStayPositive) {
  const auto request =
      std::get<CompletionRequest>(parse_completion(R"({"prompt":"a","top_p":1e-300,"repetition_penalty":1e-300})"));
  options_ = request.options;
  ASSERT_FALSE(make(1, 16).has_value());
  EXPECT_GT(sampling_.top_p, 0.0F);
  EXPECT_GT(sampling_.repetition_penalty, 0.0F);
}

TEST(ChoiceSeed, TheFirstIsTheRequestsAndAllDiffer) {
  std::set<uint64_t> seeds;
  for (uint64_t seed : {0ULL, 1ULL, 2ULL, 0x9E3779B97F4A7C15ULL}) {
    EXPECT_EQ(choice_seed(seed, 0), seed);
    for (int32_t i = 0; i < 16; ++i) {
      EXPECT_TRUE(seeds.insert(choice_seed(seed, i)).second);
    }
  }
}

}  // namespace
}  // namespace weir::api
