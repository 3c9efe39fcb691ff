#include "cli/flags.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace weir {
namespace {

Result<Options> parse(std::vector<std::string> arguments) {
  return parse_options(arguments);
}

TEST(Flags, DefaultsComeFromTheTable) {
  const auto options = parse({"serve", "some/model"});
  ASSERT_TRUE(options.ok()) << options.error().text();
  EXPECT_EQ(options->model, "some/model");
  EXPECT_EQ(options->port, 8000);
  EXPECT_EQ(options->max_num_queued_tokens, 4 << 20);
  EXPECT_FALSE(options->strict_params);
}

TEST(Flags, SuffixesUnderscoresAliasesAndListsAreRead) {
  const auto options = parse({"serve", "m", "--max_model_len=32k", "--server-port", "9", "--strict-params", "--api-key",
                              "a", "--api-key=b", "--no-enable-force-include-usage"});
  ASSERT_TRUE(options.ok()) << options.error().text();
  EXPECT_EQ(options->max_model_len, 32768);
  EXPECT_EQ(options->port, 9);
  EXPECT_TRUE(options->strict_params);
  EXPECT_EQ(options->api_keys, (std::vector<std::string>{"a", "b"}));
}

TEST(Flags, MistypedFlagsAndCommandsAreGuessed) {
  EXPECT_NE(parse({"serve", "m", "--max-model-length", "1"}).error().remedy.find("--max-model-len"), std::string::npos);
  EXPECT_NE(parse({"server", "m"}).error().remedy.find("weir serve"), std::string::npos);
}

TEST(Flags, EveryNumberRefusesWhatIsOutsideItsRange) {
  for (const Flag& flag : flag_table()) {
    if (flag.kind != FlagKind::kCount && flag.kind != FlagKind::kBytes && flag.kind != FlagKind::kNumber) continue;
    for (const CommandInfo& info : command_table()) {
      if ((flag.commands & static_cast<uint32_t>(info.command)) == 0) continue;
      const auto try_value = [&](const std::string& value) {
        return parse({std::string(info.name), "m", "t.txt", "--" + std::string(flag.name) + "=" + value});
      };
      if (info.arguments.find(' ') == std::string_view::npos) continue;
      EXPECT_FALSE(try_value(std::to_string(static_cast<int64_t>(flag.high) + 1)).ok()) << flag.name;
      EXPECT_FALSE(try_value(std::to_string(static_cast<int64_t>(flag.low) - 2)).ok()) << flag.name;
      EXPECT_FALSE(try_value("nan").ok()) << flag.name;
      EXPECT_FALSE(try_value("").ok()) << flag.name;
      EXPECT_TRUE(try_value(std::to_string(static_cast<int64_t>(flag.high))).ok()) << flag.name;
    }
  }
}

TEST(Flags, ValuesThatMustSaySomethingAreNotEmpty) {
  for (const std::string_view flag : {"api-key", "served-model-name", "host", "device", "revision"}) {
    for (const std::string_view value : {"", " ", "\t "}) {
      const auto options = parse({"serve", "m", "--" + std::string(flag) + "=" + std::string(value)});
      ASSERT_FALSE(options.ok()) << flag << " '" << value << "'";
      EXPECT_NE(options.error().message.find(flag), std::string::npos);
      EXPECT_FALSE(options.error().remedy.empty());
    }
  }
  EXPECT_FALSE(parse({"serve", "m", "--api-key", "a", "--api-key", ""}).ok());
  EXPECT_TRUE(parse({"run", "m", "text", "--system", ""}).ok()) << "no system message is a choice";
}

TEST(Flags, SamplingTakesTheRangesOfTheApiOrTheModelsDefault) {
  for (const std::string command : {"run", "chat"}) {
    for (const std::string flag :
         {"temperature=-0.5", "temperature=-0.0001", "top-p=0", "top-p=-0.5", "min-p=-0.5", "temperature=2.1"}) {
      const auto options = parse({command, "m", "--" + flag});
      ASSERT_FALSE(options.ok()) << flag;
      EXPECT_NE(options.error().message.find(flag.substr(0, flag.find('='))), std::string::npos);
      EXPECT_FALSE(options.error().remedy.empty());
    }
    for (const std::string flag : {"temperature=-1", "temperature=0", "temperature=2", "top-p=-1", "top-p=0.001",
                                   "top-p=1", "min-p=-1", "min-p=0", "min-p=1"}) {
      EXPECT_TRUE(parse({command, "m", "--" + flag}).ok()) << flag;
    }
  }
}

TEST(Flags, AMissingArgumentIsNamedAsTheUsageNamesIt) {
  EXPECT_NE(parse({"logits", "m"}).error().message.find("TOKENS"), std::string::npos);
  EXPECT_NE(parse({"run"}).error().message.find("MODEL"), std::string::npos);
}

TEST(Flags, MissingAndSurplusArgumentsAreErrors) {
  EXPECT_FALSE(parse({}).ok());
  EXPECT_FALSE(parse({"serve"}).ok());
  EXPECT_FALSE(parse({"serve", "a", "b"}).ok());
  EXPECT_FALSE(parse({"logits", "a"}).ok());
  EXPECT_FALSE(parse({"serve", "m", "--port"}).ok());
  EXPECT_FALSE(parse({"serve", "m", "--isa", "sse"}).ok());
}

TEST(Flags, TheDocumentIsWhatTheTableSays) {
  std::ifstream file("docs/flags.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), flags_markdown()) << "run: weir help --markdown > docs/flags.md";
}

}  // namespace
}  // namespace weir
