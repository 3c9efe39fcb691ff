// weir chat: a conversation in the terminal.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "cli/commands.h"
#include "cli/generation.h"
#include "cli/interrupt.h"
#include "cli/line_editor.h"

namespace weir {
namespace {

constexpr std::string_view kHelp =
    "  /clear          start over\n"
    "  /system TEXT    set the system message and start over\n"
    "  /thinking       switch thinking on or off\n"
    "  /retry          another answer to the last message\n"
    "  /help           this\n"
    "  /quit           leave (or Ctrl-D)\n"
    "End a line with \\ to go on in the next. Ctrl-C stops an answer.\n";

// Writes an answer, the part between <think> and </think> dimmed on a terminal.
class Printer {
 public:
  explicit Printer(bool thinking) : colour_(isatty(STDOUT_FILENO) != 0) {
    if (thinking) dim(true);
  }
  ~Printer() { dim(false); }
  Printer(const Printer&) = delete;
  Printer& operator=(const Printer&) = delete;

  void write(std::string_view piece) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    tail_.append(piece);
    if (dimmed_ && tail_.find("</think>") != std::string::npos) dim(false);
    if (tail_.size() > 64) tail_.erase(0, tail_.size() - 16);
    std::fflush(stdout);
  }

 private:
  void dim(bool on) {
    if (on == dimmed_) return;
    dimmed_ = on;
    if (colour_) std::fputs(on ? "\033[2m" : "\033[0m", stdout);
  }
  bool colour_;
  bool dimmed_ = false;
  std::string tail_;
};

class Chat {
 public:
  Chat(const Options& options, const TextAssets& text, const LoadedModel& model, EngineHost& host)
      : options_(options), text_(text), model_(model), host_(host), thinking_(options.thinking) {
    reset(options.system);
  }

  // False: leave.
  bool take(const std::string& line) {
    if (line.empty()) return true;
    if (line[0] == '/') return command(line);
    turns_.push_back({"user", line});
    answer();
    return true;
  }

 private:
  void reset(const std::string& system) {
    turns_.clear();
    if (!system.empty()) turns_.push_back({"system", system});
  }

  bool command(const std::string& line) {
    const size_t space = line.find(' ');
    const std::string name = line.substr(0, space);
    const std::string argument = space == std::string::npos ? "" : line.substr(space + 1);
    if (name == "/quit" || name == "/exit") return false;
    if (name == "/clear") {
      reset(!turns_.empty() && turns_[0].role == "system" ? turns_[0].content : "");
    } else if (name == "/system") {
      reset(argument);
    } else if (name == "/thinking") {
      thinking_ = !thinking_;
      fmt::print("thinking is {}\n", thinking_ ? "on" : "off");
    } else if (name == "/retry" && !turns_.empty() && turns_.back().role == "assistant") {
      turns_.pop_back();
      ++seed_offset_;
      answer();
    } else {
      fmt::print("{}", kHelp);
    }
    return true;
  }

  void answer() {
    const Status status = try_answer();
    if (!status) {
      fmt::print("{}\n", status.error().text());
      if (!turns_.empty() && turns_.back().role == "user") turns_.pop_back();
    }
  }

  Status try_answer() {
    WEIR_ASSIGN_OR_RETURN(const ChatPrompt prompt, conversation_prompt(text_, turns_, thinking_));
    const int64_t left = model_.memory.limits.sequence_tokens_max - static_cast<int64_t>(prompt.ids.size());
    if (left < 1) return Error{ErrorCode::kTooLarge, "the conversation fills the context", "/clear starts over"};
    SamplingParams sampling = terminal_sampling(options_, text_, left);
    sampling.seed += seed_offset_;
    clear_interrupt();
    Answer answer;
    {
      Printer printer(thinking_);
      WEIR_ASSIGN_OR_RETURN(
          answer, generate(host_, text_, prompt, sampling, [&](std::string_view p) { printer.write(p); }, interrupted));
    }
    if (answer.finish == FinishReason::kError) return Error{answer.code, answer.error, {}};
    fmt::print("{}\n", answer.finish == FinishReason::kLength ? " [out of tokens]" : "");
    if (options_.stats) fmt::print("[{}]\n", reuse_text(answer.reuse, static_cast<int64_t>(prompt.ids.size())));
    turns_.push_back({"assistant", answer.text});
    return Ok{};
  }

  const Options& options_;
  const TextAssets& text_;
  const LoadedModel& model_;
  EngineHost& host_;
  bool thinking_;
  uint64_t seed_offset_ = 0;
  std::vector<ChatTurn> turns_;
};

}  // namespace

Status command_chat(const Options& options) {
  Phases phases;
  WEIR_ASSIGN_OR_RETURN(const std::filesystem::path folder, find_model(options));
  WEIR_ASSIGN_OR_RETURN(const TextAssets text, load_text(options, folder));
  if (text.templates.standard == nullptr) {
    return Error{ErrorCode::kInvalidArgument, text.template_problem, "give --chat-template FILE"};
  }
  phases.done("text");
  WEIR_ASSIGN_OR_RETURN(LoadedModel model, load_model(options, &text, &phases));
  WEIR_ASSIGN_OR_RETURN(const auto host, EngineHost::start(options, &model));
  phases.done("engine");
  fmt::print("{}: {} tokens of context; {}. /help lists the commands.\n", model.name,
             model.memory.limits.sequence_tokens_max, phases.text());

  catch_interrupts(true);
  Chat chat(options, text, model, *host);
  LineEditor editor;
  std::string pending;
  while (true) {
    std::fflush(stdout);
    const std::optional<std::string> line = editor.read(pending.empty() ? "> " : ". ");
    if (!line) break;
    if (!line->empty() && line->back() == '\\') {
      pending += line->substr(0, line->size() - 1) + "\n";
      continue;
    }
    if (!chat.take(pending + *line)) break;
    pending.clear();
  }
  fmt::print("\n");
  return Ok{};
}

}  // namespace weir
