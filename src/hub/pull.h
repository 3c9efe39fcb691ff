// Fetching a model from a hub into the cache that other tools share.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace weir {

// Where from, where to and as whom. `hub_settings` makes one from the environment.
struct HubSettings {
  std::string endpoint = "https://huggingface.co";
  std::string token;    // sent to the endpoint alone; empty: none
  std::string cache;    // folder with models--ORG--NAME
  std::string ca_file;  // authorities besides the system's (PEM)
  int64_t idle_ms_max = 30'000;
  // Waits between attempts; replaced by tests.
  std::function<void(int64_t ms)> pause;
};

// Reads HF_ENDPOINT, HF_TOKEN, HF_HOME, HF_HUB_CACHE, XDG_CACHE_HOME and HOME through `get` (nullptr when unset), and
// the token file of HF_HOME. An error (kInvalidArgument) when no cache folder follows from them or the endpoint is not
// a URL.
Result<HubSettings> hub_settings(const std::function<const char*(const char*)>& get);

struct PullProgress {
  std::string_view file;
  int64_t file_index = 0;  // from 0
  int64_t file_count = 0;
  int64_t bytes_done = 0;  // of all files, what was there already included
  int64_t bytes_total = 0;
  double bytes_per_second = 0;  // since the start of this run
  double seconds_left = 0;      // -1 while unknown
};

// "model-00003-of-00026.safetensors  3/26  12.30 of 71.90 GB  104.2 MB/s  9m32s left".
std::string progress_line(const PullProgress& progress);

struct PullResult {
  std::string directory;  // the snapshot: what `weir serve` takes
  std::string commit;
  int64_t files = 0;
  int64_t bytes_total = 0;
  int64_t bytes_fetched = 0;  // in this run
};

// Fetches the files that a text model needs (safetensors, config.json, tokenizer and template; never code) of
// `repository` ("ORG/NAME") at `revision` (branch, tag or commit), pinned to the commit that it names now. Files that
// the cache has are not fetched again; partial ones are resumed; each is checked against the hub's digest before it
// gets its name. `progress` is called at least once per chunk; false stops the pull (kUnavailable), and a later one
// resumes it. Network faults, 429 and 5xx are retried with growing pauses; after five attempts without a new byte the
// pull gives up. Errors: kUnauthorized (private or gated), kNotFound (repository, revision or weights),
// kInvalidArgument (names), kCorrupt (digest, or a listing that would leave the folder), kExhausted (disk),
// kUnavailable (network).
Result<PullResult> pull(std::string_view repository, std::string_view revision, const HubSettings& settings,
                        const std::function<bool(const PullProgress&)>& progress = {});

}  // namespace weir
