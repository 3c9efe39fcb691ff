#include "hub/pull.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "hub/cache.h"
#include "hub/http_client.h"
#include "hub/listing.h"
#include "hub/url.h"

namespace weir {
namespace {

constexpr int kAttemptsMax = 5;  // in a row without a new byte
constexpr int64_t kPauseFirstMs = 1'000;
constexpr int64_t kPauseMaxMs = 60'000;  // also of a Retry-After: a longer one is better waited for by a person
constexpr int kRedirectsMax = 8;         // hub to CDN is one or two
constexpr int kPagesMax = 1'000;
constexpr int64_t kDiskSpare = int64_t{64} << 20;  // left free beside the model

int64_t parse_size(std::string_view text) {
  int64_t number = 0;
  if (text.empty() || text.size() > 18) return -1;
  for (const char c : text) {
    if (c < '0' || c > '9') return -1;
    number = number * 10 + (c - '0');
  }
  return number;
}

// `W/"abc"` and `"abc"` are abc.
std::string plain_etag(std::string etag) {
  if (etag.starts_with("W/")) etag.erase(0, 2);
  std::erase(etag, '"');
  return etag;
}

// The first byte that a 206 brings, and the size of the whole; from "bytes 5-9/10".
struct ContentRange {
  int64_t first = -1;
  int64_t total = -1;
};

ContentRange parse_content_range(std::string_view text) {
  constexpr std::string_view kUnit = "bytes ";
  if (!text.starts_with(kUnit)) return {};
  text.remove_prefix(kUnit.size());
  const size_t dash = text.find('-');
  const size_t slash = text.find('/');
  if (dash == std::string_view::npos || slash == std::string_view::npos) return {};
  return {parse_size(text.substr(0, dash)), parse_size(text.substr(slash + 1))};
}

bool is_redirect(unsigned status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

class Puller {
 public:
  Puller(std::string_view repository, std::string_view revision, const HubSettings& settings,
         const std::function<bool(const PullProgress&)>& progress)
      : repository_(repository), revision_(revision), settings_(settings), progress_(progress) {}

  Result<PullResult> run() {
    WEIR_RETURN_IF_ERROR(check_repository(repository_));
    WEIR_RETURN_IF_ERROR(check_revision(revision_));
    WEIR_ASSIGN_OR_RETURN(endpoint_, parse_url(settings_.endpoint));
    while (endpoint_.target.ends_with('/')) endpoint_.target.pop_back();
    http_ = {settings_.idle_ms_max, settings_.ca_file};

    const std::string api = "/api/models/" + repository_;
    WEIR_ASSIGN_OR_RETURN(const HttpReply about, ask(at(api + "/revision/" + encode_path(revision_, true))));
    WEIR_ASSIGN_OR_RETURN(result_.commit, parse_commit(about.body));
    WEIR_RETURN_IF_ERROR(list_files(api));
    WEIR_ASSIGN_OR_RETURN(const RepositoryCache cache, RepositoryCache::open(settings_.cache, repository_));
    WEIR_RETURN_IF_ERROR(check_disk(cache));

    started_ = std::chrono::steady_clock::now();
    for (size_t i = 0; i < files_.size(); ++i) {
      current_ = i;
      WEIR_RETURN_IF_ERROR(fetch(cache, files_[i]));
      WEIR_RETURN_IF_ERROR(cache.link(result_.commit, files_[i]));
    }
    WEIR_RETURN_IF_ERROR(cache.write_ref(revision_, result_.commit));
    result_.directory = cache.snapshot(result_.commit);
    result_.files = static_cast<int64_t>(files_.size());
    return result_;
  }

 private:
  Url at(const std::string& path) const {
    Url url = endpoint_;
    url.target += path;
    return url;
  }

  // One GET that follows redirects. The token goes to the endpoint's origin only.
  Result<HttpReply> get(Url url, std::vector<HttpHeader> headers, const ChooseSink& sink, Url* last = nullptr) {
    for (int hop = 0; hop <= kRedirectsMax; ++hop) {
      std::vector<HttpHeader> all = headers;
      if (!settings_.token.empty() && url.same_origin(endpoint_)) {
        all.push_back({"Authorization", "Bearer " + settings_.token});
      }
      WEIR_ASSIGN_OR_RETURN(HttpReply reply, http_get(url, all, http_, sink));
      if (last != nullptr) *last = url;
      if (!is_redirect(reply.status)) return reply;
      WEIR_RETURN_IF_ERROR(check_linked(reply));
      WEIR_ASSIGN_OR_RETURN(url, resolve_location(url, reply.header("location")));
    }
    return make_error(ErrorCode::kUnavailable, "more than {} redirects", kRedirectsMax);
  }

  // What the hub says of a file as it redirects must be what it said in the listing.
  Status check_linked(const HttpReply& reply) const {
    if (current_ >= files_.size() || !fetching_) return Ok{};
    const std::string etag = plain_etag(reply.header("x-linked-etag"));
    const std::string commit = reply.header("x-repo-commit");
    if ((!etag.empty() && etag != files_[current_].digest) || (!commit.empty() && commit != result_.commit)) {
      return make_error(ErrorCode::kCorrupt, "{}: the hub's answer is about other content than its listing",
                        files_[current_].path);
    }
    return Ok{};
  }

  void pause(int64_t ms) const {
    if (settings_.pause) {
      settings_.pause(ms);
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(ms));
    }
  }

  // How long to wait before attempt number `attempt`: what the server asks for, or doubling.
  static int64_t pause_ms(int attempt, const std::string& retry_after) {
    const int64_t asked = parse_size(retry_after);
    const int64_t doubled = kPauseFirstMs << std::min(attempt, 6);
    return std::min(asked >= 0 && asked < kPauseMaxMs ? asked * 1000 : doubled, kPauseMaxMs);
  }

  static bool worth_retrying(unsigned status) { return status == 408 || status == 429 || status >= 500; }

  Error refusal(unsigned status, const Url& url) const {
    const std::string page = at("/" + repository_).text();
    if (status == 401 || status == 403) {
      return with_remedy(make_error(ErrorCode::kUnauthorized, "{}: {} answers {}: private, gated or not there",
                                    repository_, url.authority(), status),
                         settings_.token.empty()
                             ? fmt::format("accept the licence at {} and set HF_TOKEN", page)
                             : fmt::format("accept the licence at {} with the account of this token", page));
    }
    if (status == 404) {
      return with_remedy(make_error(ErrorCode::kNotFound, "{} at revision {} is not on {}", repository_, revision_,
                                    endpoint_.authority()),
                         "check the spelling, upper and lower case too");
    }
    return make_error(ErrorCode::kUnavailable, "{} answers {}", url.authority(), status);
  }

  // A small JSON answer, with retries.
  Result<HttpReply> ask(const Url& url) {
    for (int attempt = 0;; ++attempt) {
      Url last = url;
      Result<HttpReply> reply = get(url, {}, {}, &last);
      if (reply.ok() && reply->status == 200) return reply;
      if (reply.ok() && !worth_retrying(reply->status)) return refusal(reply->status, last);
      if (!reply.ok() && reply.error().code != ErrorCode::kUnavailable) return reply;
      if (attempt + 1 == kAttemptsMax) return reply.ok() ? refusal(reply->status, last) : std::move(reply).error();
      pause(pause_ms(attempt, reply.ok() ? reply->header("retry-after") : std::string()));
    }
  }

  Status list_files(const std::string& api) {
    Url page = at(api + "/tree/" + result_.commit + "?recursive=true");
    for (int pages = 0;; ++pages) {
      if (pages == kPagesMax) return make_error(ErrorCode::kCorrupt, "the hub's list of files does not end");
      WEIR_ASSIGN_OR_RETURN(const HttpReply reply, ask(page));
      WEIR_RETURN_IF_ERROR(parse_tree_page(reply.body, &files_));
      const std::string next = next_link(reply.header("link"));
      if (next.empty()) break;
      WEIR_ASSIGN_OR_RETURN(page, resolve_location(page, next));
      if (!page.same_origin(endpoint_)) {
        return make_error(ErrorCode::kCorrupt, "the hub's list of files continues on {}", page.authority());
      }
    }
    const bool weights = std::any_of(files_.begin(), files_.end(),
                                     [](const HubFile& file) { return file.path.ends_with(".safetensors"); });
    if (!weights) {
      return with_remedy(make_error(ErrorCode::kNotFound, "{} has no safetensors weights", repository_),
                         "choose a repository in safetensors format; pickled weights are never fetched");
    }
    // Small files first: a bad config shows before the gigabytes.
    std::sort(files_.begin(), files_.end(), [](const HubFile& a, const HubFile& b) {
      return std::pair(a.path.ends_with(".safetensors"), std::string_view(a.path)) <
             std::pair(b.path.ends_with(".safetensors"), std::string_view(b.path));
    });
    for (const HubFile& file : files_) result_.bytes_total += file.size;
    return Ok{};
  }

  Status check_disk(const RepositoryCache& cache) const {
    int64_t needed = kDiskSpare;
    std::error_code ignored;
    for (const HubFile& file : files_) {
      if (cache.has(file)) continue;
      const auto there = std::filesystem::file_size(cache.partial(file), ignored);
      needed += ignored ? file.size : std::max<int64_t>(0, file.size - static_cast<int64_t>(there));
    }
    const int64_t available = cache.free_bytes();
    if (available < 0 || available >= needed) return Ok{};
    return with_remedy(
        make_error(ErrorCode::kExhausted, "{:.1f} GB to fetch and {:.1f} GB free in {}",
                   static_cast<double>(needed) / 1e9, static_cast<double>(available) / 1e9, settings_.cache),
        "free some space, or set HF_HOME to a larger disk");
  }

  Status report() {
    if (!progress_) return Ok{};
    PullProgress now;
    now.file = files_[current_].path;
    now.file_index = static_cast<int64_t>(current_);
    now.file_count = static_cast<int64_t>(files_.size());
    now.bytes_done = finished_bytes_ + current_bytes_;
    now.bytes_total = result_.bytes_total;
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - started_;
    now.bytes_per_second = spent.count() > 0 ? static_cast<double>(result_.bytes_fetched) / spent.count() : 0;
    now.seconds_left =
        now.bytes_per_second > 0 ? static_cast<double>(now.bytes_total - now.bytes_done) / now.bytes_per_second : -1;
    if (progress_(now)) return Ok{};
    return with_remedy(Error{ErrorCode::kUnavailable, "stopped", {}}, "the same command resumes it");
  }

  Status fetch(const RepositoryCache& cache, const HubFile& file) {
    current_bytes_ = 0;
    if (!cache.has(file)) {
      WEIR_ASSIGN_OR_RETURN(PartialFile partial, PartialFile::open(cache.partial(file)));
      fetching_ = true;
      Status status = fetch_whole(cache, file, &partial);
      fetching_ = false;
      WEIR_RETURN_IF_ERROR(std::move(status));
    }
    finished_bytes_ += file.size;
    current_bytes_ = 0;
    return report();
  }

  // Attempts until the file is whole, then checks and names it.
  Status fetch_whole(const RepositoryCache& cache, const HubFile& file, PartialFile* partial) {
    if (partial->size() > file.size) WEIR_RETURN_IF_ERROR(partial->clear());
    std::optional<Digest> digest(std::in_place, file.kind, file.size);
    WEIR_RETURN_IF_ERROR(partial->read_into(&*digest));
    int64_t reached = partial->size();
    const bool resumed = reached > 0;
    for (int attempt = 0; partial->size() < file.size;) {
      current_bytes_ = partial->size();
      stop_.reset();
      std::string retry_after;
      const Status status = fetch_rest(file, partial, &digest, &retry_after);
      if (stop_) return *stop_;
      if (status.ok()) continue;
      if (status.error().code != ErrorCode::kUnavailable) return status;
      attempt = partial->size() > reached ? 0 : attempt + 1;
      reached = std::max(reached, partial->size());
      if (attempt >= kAttemptsMax) return in_context(status.error(), file.path);
      pause(pause_ms(std::max(0, attempt - 1), retry_after));
    }
    const std::string found = digest->finish();
    if (found != file.digest && resumed) {
      // What an earlier run left may be the damaged part: once more from the start.
      WEIR_RETURN_IF_ERROR(partial->clear());
      return fetch_whole(cache, file, partial);
    }
    if (found != file.digest) {
      partial->discard();
      return with_remedy(make_error(ErrorCode::kCorrupt, "{}: digest {} instead of {}", file.path, found, file.digest),
                         "what was fetched has been removed: try again");
    }
    return partial->publish(cache.blob(file));
  }

  // One request for the bytes behind those that are there.
  Status fetch_rest(const HubFile& file, PartialFile* partial, std::optional<Digest>* digest,
                    std::string* retry_after) {
    std::vector<HttpHeader> headers;
    if (partial->size() > 0) headers.push_back({"Range", fmt::format("bytes={}-", partial->size())});
    const auto take = [&](std::span<const char> bytes) -> Status {
      if (partial->size() + static_cast<int64_t>(bytes.size()) > file.size) {
        return stop(make_error(ErrorCode::kCorrupt, "{}: more bytes than the {} listed", file.path, file.size));
      }
      if (Status status = partial->append(bytes); !status.ok()) return stop(std::move(status).error());
      (*digest)->update(bytes);
      current_bytes_ = partial->size();
      result_.bytes_fetched += static_cast<int64_t>(bytes.size());
      if (Status status = report(); !status.ok()) return stop(std::move(status).error());
      return Ok{};
    };
    const auto choose = [&](const HttpReply& reply) -> Result<BodySink> {
      if (reply.status == 200) {
        // The whole file, whether asked for or not.
        WEIR_RETURN_IF_ERROR(partial->clear());
        digest->emplace(file.kind, file.size);
        return BodySink(take);
      }
      if (reply.status != 206) return BodySink();
      const ContentRange range = parse_content_range(reply.header("content-range"));
      if (range.first != partial->size() || range.total != file.size) {
        return stop(make_error(ErrorCode::kCorrupt, "{}: asked for bytes from {} of {}, was sent \"{}\"", file.path,
                               partial->size(), file.size, reply.header("content-range").substr(0, 80)));
      }
      return BodySink(take);
    };
    Url last = endpoint_;
    const std::string path = fmt::format("/{}/resolve/{}/{}", repository_, result_.commit, encode_path(file.path));
    WEIR_ASSIGN_OR_RETURN(const HttpReply reply, get(at(path), headers, choose, &last));
    if (reply.status == 200 || reply.status == 206) {
      if (partial->size() == file.size) return Ok{};
      return make_error(ErrorCode::kUnavailable, "{}: the transfer ended early", last.authority());
    }
    *retry_after = reply.header("retry-after");
    if (reply.status == 416) {
      WEIR_RETURN_IF_ERROR(partial->clear());
      digest->emplace(file.kind, file.size);
      return make_error(ErrorCode::kUnavailable, "{} refuses to resume", last.authority());
    }
    // A signed address that has expired: the hub gives a new one.
    const bool expired = reply.status == 403 && !last.same_origin(endpoint_);
    if (expired || worth_retrying(reply.status)) {
      return make_error(ErrorCode::kUnavailable, "{} answers {}", last.authority(), reply.status);
    }
    return refusal(reply.status, last);
  }

  // Remembers an error that no retry mends, whatever its code.
  Error stop(Error error) {
    stop_ = error;
    return error;
  }

  std::string repository_;
  std::string revision_;
  const HubSettings& settings_;
  const std::function<bool(const PullProgress&)>& progress_;
  Url endpoint_;
  HttpOptions http_;
  std::vector<HubFile> files_;
  size_t current_ = 0;
  bool fetching_ = false;
  std::optional<Error> stop_;
  int64_t finished_bytes_ = 0;
  int64_t current_bytes_ = 0;
  std::chrono::steady_clock::time_point started_;
  PullResult result_;
};

}  // namespace

Result<PullResult> pull(std::string_view repository, std::string_view revision, const HubSettings& settings,
                        const std::function<bool(const PullProgress&)>& progress) {
  return Puller(repository, revision, settings, progress).run();
}

}  // namespace weir
