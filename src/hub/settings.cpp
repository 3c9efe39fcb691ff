#include <algorithm>
#include <fstream>
#include <utility>

#include "hub/pull.h"
#include "hub/url.h"

namespace weir {
namespace {

// The first line of a file, without spaces around it; empty when there is none.
std::string read_token(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  const size_t first = line.find_first_not_of(" \t\r");
  const size_t last = line.find_last_not_of(" \t\r");
  return first == std::string::npos ? std::string() : line.substr(first, last - first + 1);
}

}  // namespace

Result<HubSettings> hub_settings(const std::function<const char*(const char*)>& get) {
  const auto read = [&](const char* name) {
    const char* found = get(name);
    return found == nullptr ? std::string() : std::string(found);
  };
  HubSettings settings;
  if (const std::string endpoint = read("HF_ENDPOINT"); !endpoint.empty()) settings.endpoint = endpoint;
  if (Result<Url> url = parse_url(settings.endpoint); !url.ok()) return in_context(url.error(), "HF_ENDPOINT");
  std::string home = read("HF_HOME");
  if (home.empty()) {
    std::string base = read("XDG_CACHE_HOME");
    if (base.empty() && !read("HOME").empty()) base = read("HOME") + "/.cache";
    if (!base.empty()) home = base + "/huggingface";
  }
  settings.cache = read("HF_HUB_CACHE");
  if (settings.cache.empty() && !home.empty()) settings.cache = home + "/hub";
  if (settings.cache.empty()) {
    return with_remedy(Error{ErrorCode::kInvalidArgument, "no folder for the model cache", {}}, "set HF_HOME");
  }
  settings.token = read("HF_TOKEN");
  if (settings.token.empty() && !home.empty()) settings.token = read_token(home + "/token");
  const bool plain =
      std::all_of(settings.token.begin(), settings.token.end(), [](char c) { return c > 0x20 && c < 0x7f; });
  if (!plain) {
    // The token itself is not shown.
    return with_remedy(Error{ErrorCode::kInvalidArgument, "HF_TOKEN holds characters that no token has", {}},
                       "copy it again, without spaces");
  }
  return settings;
}

std::string progress_line(const PullProgress& progress) {
  std::string left = "";
  if (progress.seconds_left >= 0 && progress.bytes_done < progress.bytes_total) {
    const auto seconds = static_cast<int64_t>(progress.seconds_left + 0.5);
    left =
        seconds < 60 ? fmt::format("  {}s left", seconds) : fmt::format("  {}m{:02}s left", seconds / 60, seconds % 60);
  }
  const bool large = progress.bytes_total >= 1'000'000'000;
  const double unit = large ? 1e9 : 1e6;
  return fmt::format("{}  {}/{}  {:.2f} of {:.2f} {}  {:.1f} MB/s{}", progress.file, progress.file_index + 1,
                     progress.file_count, static_cast<double>(progress.bytes_done) / unit,
                     static_cast<double>(progress.bytes_total) / unit, large ? "GB" : "MB",
                     progress.bytes_per_second / 1e6, left);
}

}  // namespace weir
