#include "text/chat.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace weir {
namespace {

using Json = nlohmann::ordered_json;

std::unique_ptr<ChatTemplate> parse(const std::string& source) {
  auto parsed = ChatTemplate::parse(source);
  EXPECT_TRUE(parsed.ok()) << parsed.error().text();
  return std::move(parsed).value();
}

// A directory of its own for one test.
class ModelDirectory {
 public:
  ModelDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "weir_chat_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~ModelDirectory() { std::filesystem::remove_all(path_); }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(std::filesystem::path(path_) / name) << text;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::string shown(const ChatTemplate& chat_template) {
  auto text = chat_template.render(Json::object());
  return text.ok() ? *text : text.error().text();
}

TEST(ChatTemplates, TheFileBesideTheModelComesBeforeTheConfiguration) {
  const ModelDirectory model;
  model.write("tokenizer_config.json", R"({"chat_template": "config"})");
  auto templates = load_chat_templates(model.path());
  ASSERT_TRUE(templates.ok()) << templates.error().text();
  EXPECT_EQ(shown(templates->choose(true)), "config");
  model.write("chat_template.jinja", "file");
  templates = load_chat_templates(model.path());
  ASSERT_TRUE(templates.ok()) << templates.error().text();
  EXPECT_EQ(shown(templates->choose(true)), "file");
}

TEST(ChatTemplates, AListHasOneForToolsToo) {
  const auto templates = chat_templates_from_config(
      R"({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"},
          {"name": "rag", "template": "{% broken"}]})");
  ASSERT_TRUE(templates.ok()) << templates.error().text();
  EXPECT_EQ(shown(templates->choose(false)), "d");
  EXPECT_EQ(shown(templates->choose(true)), "t");
}

TEST(ChatTemplates, WhatIsMissingOrBrokenIsAClearError) {
  const ModelDirectory model;
  auto missing = load_chat_templates(model.path());
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::kNotFound);
  EXPECT_NE(missing.error().message.find("no chat template"), std::string::npos);
  EXPECT_FALSE(missing.error().remedy.empty());
  model.write("chat_template.jinja", "a\n{% if %}");
  auto broken = load_chat_templates(model.path());
  ASSERT_FALSE(broken.ok());
  EXPECT_EQ(broken.error().code, ErrorCode::kCorrupt);
  EXPECT_NE(broken.error().message.find("chat_template.jinja: chat template line 2"), std::string::npos)
      << broken.error().message;
  for (const char* config : {"", "[]", "{", R"({"chat_template": 5})", R"({"chat_template": [1]})"}) {
    auto result = chat_templates_from_config(config);
    ASSERT_FALSE(result.ok()) << config;
    EXPECT_EQ(result.error().code, ErrorCode::kCorrupt) << config;
  }
  EXPECT_EQ(chat_templates_from_config("{}").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(chat_templates_from_config(R"({"chat_template": []})").error().code, ErrorCode::kNotFound);
}

const char* const kEcho =
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}:{{ m.content|trim }}]{% endfor %}"
    "{{ tools }}{{ x }}{{ '>' if add_generation_prompt }}";

TEST(RenderChat, ArgumentsAndSpecialTokensAreVariables) {
  const auto echo = parse(kEcho);
  const Json messages = Json::array({{{"role", "user"}, {"content", "hi"}}});
  const Json tokens = {{"bos_token", {{"content", "<s>"}, {"special", true}}}, {"eos_token", nullptr}};
  auto text =
      render_chat(*echo, messages, nullptr, {{"x", 5}, {"messages", "no"}, {"add_generation_prompt", false}}, tokens);
  ASSERT_TRUE(text.ok()) << text.error().text();
  EXPECT_EQ(*text, "<s>[user:hi]None5>");
}

TEST(RenderChat, ContinueFinalMessageEndsWithItsText) {
  const auto echo = parse(kEcho);
  const Json messages =
      Json::array({{{"role", "user"}, {"content", "So"}}, {{"role", "assistant"}, {"content", " So far "}}});
  ChatRenderOptions options;
  options.continue_final_message = true;
  EXPECT_FALSE(render_chat(*echo, messages, nullptr, nullptr, nullptr, options).ok());
  options.add_generation_prompt = false;
  auto text = render_chat(*echo, messages, nullptr, nullptr, nullptr, options);
  ASSERT_TRUE(text.ok()) << text.error().text();
  EXPECT_EQ(*text, "[user:So][assistant:So far");
  const auto untrimmed = parse("{% for m in messages %}[{{ m.content }}]{% endfor %}");
  text = render_chat(*untrimmed, messages, nullptr, nullptr, nullptr, options);
  ASSERT_TRUE(text.ok()) << text.error().text();
  EXPECT_EQ(*text, "[So][ So far ");
  const auto hidden = parse("nothing");
  EXPECT_EQ(render_chat(*hidden, messages, nullptr, nullptr, nullptr, options).error().code,
            ErrorCode::kInvalidArgument);
}

TEST(RenderChat, ArgumentsOfAWrongTypeAreRefused) {
  const auto echo = parse(kEcho);
  const Json messages = Json::array();
  for (const auto& result :
       {render_chat(*echo, "x", nullptr, nullptr, nullptr), render_chat(*echo, messages, 5, nullptr, nullptr),
        render_chat(*echo, messages, nullptr, Json::array(), nullptr),
        render_chat(*echo, messages, nullptr, nullptr, "x")}) {
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace weir
