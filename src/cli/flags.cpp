#include "cli/flags.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

namespace weir {
namespace {

// A prompt of ten thousand tokens is one step of a GPU, in which others wait about 150 ms for their next token.
constexpr int64_t kStepTokensCpu = 1024;
constexpr int64_t kStepTokensGpu = 10 * 1024;

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const size_t end = std::min(text.find(separator), text.size());
    if (end > 0) parts.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return parts;
}

const CommandInfo* find_command(std::string_view name) {
  const auto commands = command_table();
  const auto found = std::find_if(commands.begin(), commands.end(), [&](const auto& c) { return c.name == name; });
  return found == commands.end() ? nullptr : &*found;
}

const CommandInfo& command_info(Command command) {
  const auto commands = command_table();
  return *std::find_if(commands.begin(), commands.end(), [&](const auto& c) { return c.command == command; });
}

bool has(const Flag& flag, Command command) {
  return (flag.commands & static_cast<uint32_t>(command)) != 0;
}

// Levenshtein distance: how many letters were mistyped.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0U : 1U)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

template <class Range, class Name>
std::string_view nearest(const Range& range, std::string_view typed, Name name_of) {
  std::string_view best;
  size_t best_distance = 1000;
  for (const auto& entry : range) {
    const std::string_view name = name_of(entry);
    if (name.empty()) continue;
    const size_t distance = edit_distance(typed, name);
    if (distance < best_distance) {
      best_distance = distance;
      best = name;
    }
  }
  return best;
}

Error usage_error(std::string message, std::string remedy) {
  return Error{ErrorCode::kInvalidArgument, std::move(message), std::move(remedy)};
}

std::string range_text(const Flag& flag) {
  return fmt::format("a number from {} to {}", flag.low, flag.high);
}

// A number with an optional binary suffix.
bool parse_number(std::string_view text, bool suffixes, double* value) {
  double scale = 1;
  if (suffixes && !text.empty()) {
    constexpr std::string_view kSuffixes = "kmg";
    const size_t index = kSuffixes.find(static_cast<char>(text.back() | 0x20));
    if (index != std::string_view::npos) {
      scale = std::ldexp(1.0, 10 * (static_cast<int>(index) + 1));
      text.remove_suffix(1);
    }
  }
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  *value *= scale;
  return error == std::errc() && end == text.data() + text.size() && std::isfinite(*value);
}

// A flag that has a default, and one that may be repeated, is left out rather than emptied: an empty key would let
// everybody in, an empty host listen everywhere.
bool is_blank(const Flag& flag, std::string_view text) {
  const bool needs_text = flag.kind == FlagKind::kList || (flag.kind == FlagKind::kText && !flag.value.empty());
  return needs_text && text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

Status assign(const Flag& flag, std::string_view text, Options* options) {
  const auto bad = [&](std::string wanted) {
    return usage_error(fmt::format("--{} is '{}'", flag.name, text), "give " + std::move(wanted));
  };
  if (is_blank(flag, text)) return bad("a value that is not empty, or leave the flag out");
  switch (flag.kind) {
    case FlagKind::kSwitch:
      if (text != "true" && text != "false") return bad("true, false or no value");
      // As text where a default that is neither stands for "as the device has it".
      if (const auto* member = std::get_if<std::string Options::*>(&flag.member)) {
        options->** member = text;
      } else {
        options->*std::get<bool Options::*>(flag.member) = text == "true";
      }
      return Ok{};
    case FlagKind::kText:
      options->*std::get<std::string Options::*>(flag.member) = text;
      return Ok{};
    case FlagKind::kList:
      (options->*std::get<std::vector<std::string> Options::*>(flag.member)).emplace_back(text);
      return Ok{};
    case FlagKind::kChoice: {
      const auto choices = split(flag.choices, '|');
      if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
        return bad("one of " + std::string(flag.choices));
      }
      options->*std::get<std::string Options::*>(flag.member) = text;
      return Ok{};
    }
    case FlagKind::kCount:
    case FlagKind::kBytes: {
      double value = 0;
      if (!parse_number(text, true, &value) || value != std::floor(value) || value < flag.low || value > flag.high) {
        return bad("a whole number: " + range_text(flag));
      }
      options->*std::get<int64_t Options::*>(flag.member) = static_cast<int64_t>(value);
      return Ok{};
    }
    case FlagKind::kNumber: {
      double value = 0;
      if (!parse_number(text, false, &value) || value < flag.low || value > flag.high) return bad(range_text(flag));
      options->*std::get<double Options::*>(flag.member) = value;
      return Ok{};
    }
  }
  return Ok{};
}

Status assign_defaults(Command command, Options* options) {
  for (const Flag& flag : flag_table()) {
    if (has(flag, command) && !flag.value.empty()) WEIR_RETURN_IF_ERROR(assign(flag, flag.value, options));
  }
  return Ok{};
}

Error unknown_command(std::string_view typed) {
  // Two letters cover a pair that was swapped; a name further away is no typing mistake.
  constexpr size_t kDistanceMax = 2;
  const auto name_of = [](const CommandInfo& command) { return command.name; };
  const std::string_view guess = nearest(command_table(), typed, name_of);
  std::string remedy;
  if (edit_distance(typed, guess) <= kDistanceMax) remedy = fmt::format("did you mean 'weir {}'? ", guess);
  remedy += "the commands are";
  std::string_view separator = " ";
  for (const CommandInfo& command : command_table()) {
    remedy += fmt::format("{}{}", separator, command.name);
    separator = ", ";
  }
  return usage_error(fmt::format("there is no command '{}'", typed), remedy + "; weir --help says what each does");
}

Error unknown_flag(std::string_view name, Command command) {
  const std::string_view guess =
      nearest(flag_table(), name, [&](const Flag& f) { return has(f, command) ? f.name : std::string_view(); });
  return usage_error(
      fmt::format("weir {} has no flag --{}", command_info(command).name, name),
      fmt::format("did you mean --{}? weir {} --help lists them all", guess, command_info(command).name));
}

// The ranges of the API, and -1 for the model's own default: a number between is neither.
Status check_sampling(const Options& options) {
  if (options.command != Command::kRun && options.command != Command::kChat) return Ok{};
  constexpr double kModelDefault = -1;
  const auto check = [](std::string_view name, double value, bool in_range, std::string_view wanted) -> Status {
    if (in_range || value == kModelDefault) return Ok{};
    return usage_error(fmt::format("--{} is '{}'", name, value),
                       fmt::format("give {}, or -1 for the model's default", wanted));
  };
  WEIR_RETURN_IF_ERROR(
      check("temperature", options.temperature, options.temperature >= 0, "a number from 0 (greedy) to 2"));
  WEIR_RETURN_IF_ERROR(check("top-p", options.top_p, options.top_p > 0, "a number above 0, at most 1"));
  return check("min-p", options.min_p, options.min_p >= 0, "a number from 0 (off) to 1");
}

// "--max_model_len=32k" -> "--max-model-len=32k": both spellings are in use.
std::string normalised(const std::string& argument) {
  if (!argument.starts_with("--")) return argument;
  std::string out = argument;
  std::replace(out.begin(), out.begin() + static_cast<int64_t>(std::min(out.find('='), out.size())), '_', '-');
  return out;
}

// Declares the command's flags on `app`; values land in `options`, the first bad one in `problem`.
void declare_flags(CLI::App& app, Options* options, std::optional<Error>* problem) {
  for (const Flag& flag : flag_table()) {
    if (!has(flag, options->command)) continue;
    std::string names = fmt::format("--{}", flag.name);
    for (const std::string_view alias : split(flag.aliases, ' ')) names += fmt::format(",--{}", alias);
    const auto take = [&flag, options, problem](const std::string& value) {
      if (const Status status = assign(flag, value, options); !status.ok() && !*problem) *problem = status.error();
    };
    if (flag.kind == FlagKind::kSwitch) {
      app.add_flag_function(fmt::format("{},!--no-{}", names, flag.name),
                            [take](int64_t count) { take(count > 0 ? "true" : "false"); });
    } else if (flag.kind == FlagKind::kList) {
      app.add_option_function<std::vector<std::string>>(names,
                                                        [take](const std::vector<std::string>& values) {
                                                          for (const std::string& value : values) take(value);
                                                        })
          ->allow_extra_args(false);
    } else {
      app.add_option_function<std::string>(names, take)->take_last();
    }
  }
}

std::string flag_line(const Flag& flag) {
  std::string value;
  if (flag.kind != FlagKind::kSwitch) value = flag.kind == FlagKind::kChoice ? std::string(flag.choices) : "VALUE";
  std::string line = fmt::format("  --{}{}{}", flag.name, value.empty() ? "" : " ", value);
  std::string detail(flag.help);
  if (!flag.value.empty()) detail += fmt::format(" [{}{}{}]", flag.value, flag.unit.empty() ? "" : " ", flag.unit);
  return line.size() < 34 ? fmt::format("{:<34}{}\n", line, detail) : fmt::format("{}\n{:34}{}\n", line, "", detail);
}

}  // namespace

Result<Options> parse_options(std::span<const std::string> arguments) {
  if (arguments.empty()) return usage_error("no command", "weir --help lists them");
  const CommandInfo* info = find_command(arguments[0]);
  if (info == nullptr) {
    return unknown_command(arguments[0]);
  }
  Options options;
  options.command = info->command;
  WEIR_RETURN_IF_ERROR(assign_defaults(info->command, &options));

  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  std::optional<Error> problem;
  declare_flags(app, &options, &problem);
  // A mistake names them as the usage does.
  app.add_option("MODEL", options.model)->required();
  const bool second = info->arguments.find(' ') != std::string_view::npos;
  const bool logits = info->command == Command::kLogits;
  if (second) app.add_option(logits ? "TOKENS" : "PROMPT", options.prompt)->required(logits);
  const std::string usage =
      fmt::format("usage: weir {} {}; weir {} --help lists the flags", info->name, info->arguments, info->name);
  std::vector<std::string> reversed;  // CLI11 takes its arguments from the back
  for (size_t i = arguments.size(); i > 1; --i) reversed.push_back(normalised(arguments[i - 1]));
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& error) {
    return usage_error(error.what(), usage);
  }
  if (problem) return *problem;
  for (const std::string& extra : app.remaining()) {
    if (extra == "--") continue;
    if (extra.starts_with("--") && extra.size() > 2) {
      return unknown_flag(std::string_view(extra).substr(2, extra.find('=') - 2), info->command);
    }
    return usage_error(fmt::format("'{}' is one argument too many", extra), usage + "; quote text that has spaces");
  }
  WEIR_RETURN_IF_ERROR(check_sampling(options));
  if (options.max_num_batched_tokens == 0) {
    options.max_num_batched_tokens = options.device == "cpu" ? kStepTokensCpu : kStepTokensGpu;
  }
  return options;
}

std::string command_help(Command command) {
  const CommandInfo& info = command_info(command);
  std::string out = fmt::format("usage: weir {} {} [flags]\n\n{}\n\n", info.name, info.arguments, info.help);
  for (const Flag& flag : flag_table()) {
    if (has(flag, command)) out += flag_line(flag);
  }
  return out;
}

std::string overall_help() {
  std::string out = "weir serves large hybrid mixture-of-experts language models.\n\n";
  for (const CommandInfo& info : command_table()) {
    out += fmt::format("  weir {:<24}{}\n", fmt::format("{} {}", info.name, info.arguments), info.help);
  }
  return out + "\nweir COMMAND --help lists a command's flags. MODEL is a directory, or ORG/NAME after weir pull.\n";
}

std::string flags_markdown() {
  std::string out =
      "# Flags\n\nWritten by `weir help --markdown`. Counts and bytes take the suffixes k, m, g (1024 each); "
      "dashes and underscores are the same.\n";
  for (const CommandInfo& info : command_table()) {
    out +=
        fmt::format("\n## weir {} {}\n\n{}\n\n| flag | default | range | what it does |\n| --- | --- | --- | --- |\n",
                    info.name, info.arguments, info.help);
    for (const Flag& flag : flag_table()) {
      if (!has(flag, info.command)) continue;
      std::string range;
      if (flag.kind == FlagKind::kChoice) {
        range = flag.choices;
        for (size_t at = range.find('|'); at != std::string::npos; at = range.find('|', at + 5))
          range.replace(at, 1, ", ");
      } else if (flag.high > 0) {
        range = fmt::format("{} to {}{}{}", flag.low, flag.high, flag.unit.empty() ? "" : " ", flag.unit);
      }
      out += fmt::format("| `--{}` | {} | {} | {} |\n", flag.name, flag.value, range, flag.help);
    }
  }
  return out;
}

}  // namespace weir
