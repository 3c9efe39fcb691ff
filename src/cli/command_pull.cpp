// weir pull: a model from the hub into the cache that other tools share.
#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "base/clock.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "hub/pull.h"

namespace weir {
namespace {

// A line that rewrites itself on a terminal; elsewhere a line for every tenth.
class ProgressPrinter {
 public:
  ~ProgressPrinter() {
    if (terminal_ && printed_) std::fputs("\n", stderr);
  }
  bool operator()(const PullProgress& progress) {
    if (terminal_) {
      const int64_t now = clock_.now_us();
      const bool last = progress.bytes_done == progress.bytes_total;
      // Ten times a second is as often as anybody reads.
      if (now - last_us_ >= 100'000 || last) {
        fmt::print(stderr, "\r\033[K{}", progress_line(progress));
        std::fflush(stderr);
        last_us_ = now;
        printed_ = true;
      }
    } else if (progress.bytes_total > 0) {
      const int tenth = static_cast<int>(10 * progress.bytes_done / progress.bytes_total);
      if (tenth > last_tenth_) {
        fmt::print(stderr, "{}\n", progress_line(progress));
        last_tenth_ = tenth;
      }
    }
    return !interrupted();
  }

 private:
  SteadyClock clock_;
  bool terminal_ = isatty(STDERR_FILENO) != 0;
  bool printed_ = false;
  int64_t last_us_ = 0;
  int last_tenth_ = -1;
};

}  // namespace

Status command_pull(const Options& options) {
  WEIR_ASSIGN_OR_RETURN(const HubSettings settings, hub_settings([](const char* name) { return std::getenv(name); }));
  catch_interrupts(false);
  ProgressPrinter progress;
  WEIR_ASSIGN_OR_RETURN(const PullResult result, pull(options.model, options.revision, settings,
                                                      [&](const PullProgress& p) { return progress(p); }));
  fmt::print("{} files, {:.2f} MB ({:.2f} MB fetched), commit {}\n{}\n", result.files,
             static_cast<double>(result.bytes_total) / 1e6, static_cast<double>(result.bytes_fetched) / 1e6,
             result.commit, result.directory);
  return Ok{};
}

}  // namespace weir
