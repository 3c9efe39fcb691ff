// What jinja2 made of ten published chat templates and of snippets of the language, rendered again here. The files and
// the scripts that wrote them: tests/data/templates, tools/oracles/template_goldens.py and template_language.py.
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "text/template.h"

namespace weir {
namespace {

using Json = nlohmann::ordered_json;

const std::string kData = "tests/data/templates/";

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TemplateRenderOptions oracle_options() {
  TemplateRenderOptions options;
  options.local_time_s = 1'767'323'045;  // 2026-01-02 03:04:05, as in template_env.py
  return options;
}

// FNV-1a of 64 bits, in hexadecimal.
std::string fnv1a(const std::string& text) {
  uint64_t value = 0xCBF29CE484222325U;
  for (const char c : text) {
    value = (value ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
  }
  return fmt::format("{:016x}", value);
}

// Empty if `actual` is what jinja2 gave, else what differs.
std::string difference(const Json& expected, const Result<std::string>& actual) {
  if (expected.contains("text") || expected.contains("fnv1a")) {
    if (!actual.ok()) {
      return "error: " + actual.error().message;
    }
    const bool same = expected.contains("text") ? *actual == expected["text"].get<std::string>()
                                                : actual->size() == expected["bytes"].get<size_t>() &&
                                                      fnv1a(*actual) == expected["fnv1a"].get<std::string>();
    return same ? "" : "rendered: " + *actual;
  }
  if (actual.ok()) {
    return "rendered without an error: " + *actual;
  }
  if (expected.contains("raises")) {
    const bool same = actual.error().code == ErrorCode::kInvalidArgument &&
                      actual.error().message == expected["raises"].get<std::string>();
    return same ? "" : "raised: " + actual.error().message;
  }
  const std::string suffix = expected.value("undefined", "");
  return actual.error().message.ends_with(suffix) ? "" : "failed with: " + actual.error().message;
}

TEST(TemplateGoldens, EveryPublishedTemplateRendersAsJinja2DoesByteForByte) {
  const Json goldens = Json::parse(read_file(kData + "goldens.json"));
  std::map<std::string, int> kinds;
  for (const auto& [name, conversations] : goldens["results"].items()) {
    auto parsed = ChatTemplate::parse(read_file(kData + name + ".jinja"));
    ASSERT_TRUE(parsed.ok()) << name << ": " << parsed.error().text();
    for (const auto& [conversation, results] : conversations.items()) {
      for (const auto& [arguments, expected] : results.items()) {
        Json context = goldens["base"];
        context["messages"] = goldens["conversations"][conversation];
        context.update(goldens["arguments"][arguments]);
        const auto actual = (*parsed)->render(context, oracle_options());
        EXPECT_EQ(difference(expected, actual), "") << name << " " << conversation << " " << arguments;
        ++kinds[expected.begin().key()];
      }
    }
  }
  // The file holds every kind of result; a file that lost one would test less than it says.
  EXPECT_GE(kinds["text"] + kinds["bytes"], 3000);
  EXPECT_GE(kinds["raises"], 150);
  EXPECT_GE(kinds["undefined"] + kinds["fails"], 500);
}

TEST(TemplateGoldens, EverySnippetOfTheLanguageGivesWhatJinja2Gives) {
  const Json language = Json::parse(read_file(kData + "language.json"));
  for (const Json& entry : language["cases"]) {
    const std::string source = entry[0];
    const Json expected = {{entry[1].get<std::string>(), entry[2]}};
    auto parsed = ChatTemplate::parse(source);
    const Result<std::string> actual =
        parsed.ok() ? (*parsed)->render(language["context"], oracle_options()) : Result<std::string>(parsed.error());
    EXPECT_EQ(difference(expected, actual), "") << source << "\nexpected " << expected;
  }
  EXPECT_GE(language["cases"].size(), 600U);
}

// The engine's own model ships a template too; it must at least parse and answer.
TEST(TemplateGoldens, TheShippedTemplateRenders) {
  auto parsed = ChatTemplate::parse(read_file("share/weir-xs/chat_template.jinja"));
  ASSERT_TRUE(parsed.ok()) << parsed.error().text();
  const Json context = {{"messages", Json::array({{{"role", "user"}, {"content", " hi "}}})},
                        {"add_generation_prompt", true}};
  const auto text = (*parsed)->render(context);
  ASSERT_TRUE(text.ok()) << text.error().text();
  EXPECT_EQ(*text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
}

}  // namespace
}  // namespace weir
