#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "api/json_reader.h"
#include "api/json_writer.h"
#include "api/response.h"

namespace weir::api {
namespace {

using Json = nlohmann::ordered_json;

std::string problem_of(std::string_view body) {
  Json out;
  const auto problem = read_json(body, &out);
  return problem.has_value() ? problem->message : "";
}

TEST(JsonReader, ReadsWhatIsWritten) {
  Json out;
  ASSERT_FALSE(read_json(R"({"a":[1,{"b":null},-2.5,"x\u00e9"],"c":true,"d":{}})", &out).has_value());
  EXPECT_EQ(out, Json::parse(R"({"a":[1,{"b":null},-2.5,"x\u00e9"],"c":true,"d":{}})"));
}

TEST(JsonReader, NamesWhatIsNotAllowed) {
  EXPECT_NE(problem_of(R"({"a":1,"a":2})").find("'a' is given twice"), std::string::npos);
  EXPECT_NE(problem_of(R"({"x":{"a":1,"a":2}})").find("given twice"), std::string::npos);
  EXPECT_EQ(problem_of(R"({"x":{"a":1},"y":{"a":1}})"), "");
  EXPECT_NE(problem_of(R"({"a":1e999})").find("too large"), std::string::npos);
  EXPECT_NE(problem_of("{\"a\":\"\xff\"}").find("malformed"), std::string::npos);
  EXPECT_NE(problem_of("[]").find("must be a JSON object"), std::string::npos);
}

TEST(JsonReader, DepthAndCountsAreBounded) {
  const auto nested = [](int depth) {
    return "{\"a\":" + std::string(static_cast<size_t>(depth), '[') + std::string(static_cast<size_t>(depth), ']') +
           "}";
  };
  EXPECT_EQ(problem_of(nested(kJsonDepthMax - 1)), "");
  EXPECT_NE(problem_of(nested(kJsonDepthMax)).find("nested deeper"), std::string::npos);
  std::string many = "{\"a\":[";
  for (int64_t i = 0; i < kJsonContainersMax; ++i) {
    many += "[],";
  }
  EXPECT_NE(problem_of(many + "1]}").find("objects and lists"), std::string::npos);
}

TEST(JsonWriter, StringsSurviveAParser) {
  std::string text;
  for (int c = 0; c < 128; ++c) {
    text += static_cast<char>(c);
  }
  text += "\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x8C\x8D";
  std::string out;
  append_json_string(text, &out);
  EXPECT_EQ(Json::parse(out).get<std::string>(), text);
}

TEST(JsonWriter, BytesThatAreNoUtf8BecomeReplacementCharacters) {
  for (const std::string bad :
       {"\xff", "\xC3", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\x80"}) {
    std::string out;
    append_json_string("a" + bad + "b", &out);
    const std::string back = Json::parse(out).get<std::string>();
    EXPECT_TRUE(back.starts_with("a\xEF\xBF\xBD") && back.ends_with("b")) << out;
  }
}

TEST(JsonWriter, FloatsReadBackAndAreNeverNan) {
  for (float value : {0.0F, -0.1F, -1e-30F, -3.0F, 1.17549435e-38F, -123456.789F}) {
    std::string out;
    append_json_float(value, &out);
    EXPECT_EQ(Json::parse(out).get<float>(), value) << out;
  }
  for (float value : {NAN, INFINITY, -INFINITY}) {
    std::string out;
    append_json_float(value, &out);
    EXPECT_EQ(out, "-9999.0");
  }
}

TokenEntry entry(std::string text, float logprob) {
  TokenEntry out;
  out.id = 7;
  out.text = out.own_text = out.bytes = std::move(text);
  out.has_logprob = true;
  out.logprob = logprob;
  out.top = {{7, out.text, out.text, logprob}, {8, out.text, out.text, logprob - 1}};
  return out;
}

TEST(ResponseWriter, EveryDocumentIsJson) {
  const std::vector<TokenEntry> entries = {entry("\"a\\", -0.5F), entry("\n", -INFINITY)};
  const std::vector<TokenId> ids = {7, 8};
  for (ResponseKind kind : {ResponseKind::kChat, ResponseKind::kCompletion}) {
    const ResponseWriter writer(kind, "id\"", 5, "m\\");
    ChoicePart part;
    part.text = "x\"\n";
    part.with_logprobs = true;
    part.entries = entries;
    part.finish_reason = "stop";
    part.stop_string = "\"";
    part.with_token_ids = true;
    part.token_ids = ids;
    part.prompt_token_ids = &ids;
    std::string stream;
    writer.append_role(0, &ids, Usage{1, 2, 0}, &stream);
    writer.append_part(part, std::nullopt, &stream);
    writer.append_usage({3, 4, 1}, &stream);
    size_t frames = 0;
    for (size_t at = 0; at < stream.size(); ++frames) {
      const size_t end = stream.find("\n\n", at);
      ASSERT_TRUE(stream.substr(at).starts_with("data: "));
      EXPECT_TRUE(Json::accept(stream.substr(at + 6, end - at - 6)));
      at = end + 2;
    }
    EXPECT_EQ(frames, 3U);
    const Json whole = Json::parse(writer.whole(std::vector<ChoicePart>{part}, {3, 4, 1}));
    EXPECT_EQ(whole["usage"]["total_tokens"], 7);
    EXPECT_EQ(whole["choices"][0]["token_ids"], Json::parse("[7,8]"));
    EXPECT_EQ(whole["id"], "id\"");
  }
}

TEST(ResponseWriter, TwoTokensWithOneTextKeepTheLikelierValue) {
  const ResponseWriter writer(ResponseKind::kCompletion, "i", 5, "m");
  ChoicePart part;
  const std::vector<TokenEntry> entries = {entry("a", -0.5F)};
  part.with_logprobs = true;
  part.entries = entries;
  const Json whole = Json::parse(writer.whole(std::vector<ChoicePart>{part}, {}));
  EXPECT_EQ(whole["choices"][0]["logprobs"]["top_logprobs"][0], Json::parse(R"({"a":-0.5})"));
}

TEST(ApiError, HasItsFourMembersAndKeepsTheOverflowPhrase) {
  const Json error = Json::parse(error_json(context_overflow(100, 90, 20, "max_tokens")))["error"];
  EXPECT_EQ(error["code"], "context_length_exceeded");
  EXPECT_EQ(error["param"], "max_tokens");
  EXPECT_EQ(error["type"], "invalid_request_error");
  EXPECT_NE(error["message"].get<std::string>().find("This model's maximum context length is 100 tokens"),
            std::string::npos);
  EXPECT_EQ(from_error({ErrorCode::kExhausted, "full", {}}).status, 429);
  EXPECT_GT(from_error({ErrorCode::kExhausted, "full", {}}).retry_after_s, 0);
  EXPECT_EQ(from_error({ErrorCode::kUnavailable, "gone", {}}).status, 503);
}

}  // namespace
}  // namespace weir::api
