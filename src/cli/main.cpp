// The program: one binary, a verb for each job.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include "base/say.h"
#include "cli/commands.h"

namespace weir {
namespace {

// Descriptors 0 to 2 that are closed would go to the first socket or file opened, and notes be written into it. What
// takes their place can be read or written no more than they could.
void occupy_standard_streams() {
  for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; ++descriptor) {
    if (::fcntl(descriptor, F_GETFD) != -1) continue;
    // The lowest free descriptor is this one: those below it are taken.
    if (::open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
  }
}

int exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kNotFound:
    case ErrorCode::kUnsupported:
      return 2;
    case ErrorCode::kTooLarge:
    case ErrorCode::kExhausted:
    case ErrorCode::kUnavailable:
    case ErrorCode::kUnauthorized:
      return 3;
    case ErrorCode::kCorrupt:
    case ErrorCode::kIo:
      return 4;
    case ErrorCode::kInternal:
      return 70;
  }
  return 70;
}

Status dispatch(const Options& options) {
  switch (options.command) {
    case Command::kServe:
      return command_serve(options);
    case Command::kChat:
      return command_chat(options);
    case Command::kRun:
      return command_run(options);
    case Command::kPull:
      return command_pull(options);
    case Command::kInspect:
      return command_inspect(options);
    case Command::kPlan:
      return command_plan(options);
    case Command::kBench:
      return command_bench(options);
    case Command::kLogits:
      return command_logits(options);
  }
  return make_error(ErrorCode::kInternal, "a command without code");
}

// What to do where an error itself does not say.
std::string_view default_remedy(ErrorCode code) {
  switch (code) {
    case ErrorCode::kCorrupt:
      return "the file is damaged or belongs to another model: fetch it again";
    case ErrorCode::kNotFound:
      return "check the path";
    case ErrorCode::kIo:
      return "check the path, its permissions and the disk";
    case ErrorCode::kTooLarge:
    case ErrorCode::kExhausted:
      return "give less, or raise the limit that is named";
    case ErrorCode::kUnavailable:
      return "try again later";
    case ErrorCode::kUnauthorized:
      return "set a token: HF_TOKEN";
    case ErrorCode::kUnsupported:
      return "weir inspect MODEL says what a checkpoint is";
    case ErrorCode::kInvalidArgument:
      return "weir COMMAND --help lists the flags; weir inspect MODEL checks a checkpoint";
    case ErrorCode::kInternal:
      return "please report this with the command that led to it";
  }
  return "";
}

int execute(const std::vector<std::string>& arguments) {
  const auto asks = [&](std::string_view word) {
    for (const std::string& argument : arguments) {
      if (argument == "--") return false;
      if (argument == word) return true;
    }
    return false;
  };
  if (asks("--version") || (!arguments.empty() && arguments[0] == "version")) {
    fmt::print("{}\n", version_text());
    return 0;
  }
  if (arguments.empty() || arguments[0] == "help" || arguments[0] == "--help" || arguments[0] == "-h") {
    fmt::print("{}", asks("--markdown") ? flags_markdown() : overall_help());
    return arguments.empty() ? 2 : 0;
  }
  if (asks("--help") || asks("-h")) {
    for (const CommandInfo& info : command_table()) {
      if (info.name != arguments[0]) continue;
      fmt::print("{}", command_help(info.command));
      return 0;
    }
  }
  const Result<Options> options = parse_options(arguments);
  Status status = options.ok() ? dispatch(*options) : Status(options.error());
  if (status.ok()) return 0;
  std::fflush(stdout);
  const Error& error = status.error();
  say(stderr, "weir: {}\n  {}\n", error.message,
      error.remedy.empty() ? default_remedy(error.code) : std::string_view(error.remedy));
  return exit_code(error.code);
}

// Whether whoever read standard output went away (`weir plan MODEL | head -1`): there is nobody left to tell.
bool reader_left() {
  pollfd output{STDOUT_FILENO, POLLOUT, 0};
  return ::poll(&output, 1, 0) > 0 && (output.revents & POLLERR) != 0;
}

constexpr int kReaderLeft = 1;

int output_lost(std::string_view why) {
  if (reader_left()) return kReaderLeft;
  say(stderr, "weir: standard output could not be written: {}\n  check the disk, and where the output goes\n", why);
  return exit_code(ErrorCode::kIo);
}

int run(const std::vector<std::string>& arguments) {
  const int code = execute(arguments);
  // What serve prints are notes; of the other commands it is the result, and half of one is a failure.
  if (code != 0 || (!arguments.empty() && arguments[0] == "serve")) return code;
  const bool failed_before = std::ferror(stdout) != 0;
  if (std::fflush(stdout) != 0) return output_lost(std::strerror(errno));
  return failed_before ? output_lost("a part of it was refused") : code;
}

// Errors of the system that are thrown: by printing, and by what has no other way.
int system_failure(const std::system_error& error) {
  if (error.code() == std::errc::broken_pipe) return kReaderLeft;
  if (std::ferror(stdout) != 0) return output_lost(error.code().message());
  if (error.code() == std::errc::resource_unavailable_try_again) {
    say(stderr,
        "weir: a thread could not be started: {}\n  raise the limits on processes and memory (ulimit -u, ulimit "
        "-v), or lower --threads\n",
        error.code().message());
    return exit_code(ErrorCode::kExhausted);
  }
  say(stderr, "weir: {}\n  {}\n", error.what(), default_remedy(ErrorCode::kIo));
  return exit_code(ErrorCode::kIo);
}

// No formatting: there is no memory for it.
int out_of_memory() {
  std::fputs(
      "weir: the system gives no more memory\n  lower --max-num-batched-tokens, --max-num-seqs or --max-model-len, or "
      "raise the limit on memory (ulimit -v)\n",
      stderr);
  return exit_code(ErrorCode::kExhausted);
}

}  // namespace

std::string version_text() {
  return "weir " WEIR_VERSION;
}

}  // namespace weir

int main(int argc, char** argv) {
  weir::occupy_standard_streams();
  // A reader that goes away must not end the program: writes report it.
  std::signal(SIGPIPE, SIG_IGN);
  std::setlocale(LC_CTYPE, "C.UTF-8");
  try {
    return weir::run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const std::system_error& error) {
    return weir::system_failure(error);
  } catch (const std::bad_alloc&) {
    return weir::out_of_memory();
  }
}
