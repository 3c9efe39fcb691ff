#include "hub/listing.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>

namespace weir {
namespace {

using boost::json::object;
using boost::json::value;

constexpr size_t kNameBytesMax = 200;  // a file name's limit is 255; the cache adds a prefix
constexpr size_t kFilesMax = 10'000;   // the largest checkpoints have a few hundred
// 16 TiB: four times the largest published checkpoint's total, and far from overflow when summed.
constexpr int64_t kFileBytesMax = int64_t{1} << 44;

constexpr std::array<std::string_view, 6> kWanted = {
    "config.json",           "generation_config.json",       "tokenizer.json",
    "tokenizer_config.json", "model.safetensors.index.json", "chat_template.jinja"};

bool name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
}

// Parts of harmless characters joined by '/', between `low` and `high` of them.
bool plain_parts(std::string_view text, int64_t low, int64_t high) {
  if (text.empty() || text.size() > kNameBytesMax) return false;
  int64_t parts = 0;
  while (true) {
    const size_t slash = text.find('/');
    const std::string_view part = text.substr(0, slash);
    if (part.empty() || part.front() == '.' || !std::all_of(part.begin(), part.end(), name_char)) return false;
    ++parts;
    if (slash == std::string_view::npos) break;
    text.remove_prefix(slash + 1);
  }
  return parts >= low && parts <= high;
}

bool leaves_folder(std::string_view path) {
  if (path.empty() || path.front() == '/') return true;
  for (const char c : path) {
    if (c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return true;
  }
  for (std::string_view rest = path;;) {
    const size_t slash = rest.find('/');
    const std::string_view part = rest.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return true;
    if (slash == std::string_view::npos) return false;
    rest.remove_prefix(slash + 1);
  }
}

bool wanted(std::string_view path) {
  if (!plain_parts(path, 1, 1)) return false;
  return path.ends_with(".safetensors") || std::find(kWanted.begin(), kWanted.end(), path) != kWanted.end();
}

std::string string_of(const object& from, std::string_view key) {
  const value* found = from.if_contains({key.data(), key.size()});
  return found != nullptr && found->is_string() ? std::string(found->get_string()) : std::string();
}

std::string shown(std::string_view path) {
  std::string out(path.substr(0, 100));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return out;
}

Result<HubFile> read_entry(const object& entry, std::string path) {
  HubFile file;
  file.path = std::move(path);
  const value* lfs = entry.if_contains("lfs");
  const bool large = lfs != nullptr && lfs->is_object();
  file.kind = large ? DigestKind::kSha256 : DigestKind::kGitBlob;
  file.digest = string_of(large ? lfs->get_object() : entry, "oid");
  if (!is_hex(file.digest, large ? 64 : 40)) {
    return make_error(ErrorCode::kCorrupt, "the hub lists \"{}\" without a digest", shown(file.path));
  }
  const value* size = (large ? lfs->get_object() : entry).if_contains("size");
  if (size == nullptr || !size->is_int64() || size->get_int64() < 0 || size->get_int64() > kFileBytesMax) {
    return make_error(ErrorCode::kCorrupt, "the hub lists \"{}\" without a size in [0, {}]", shown(file.path),
                      kFileBytesMax);
  }
  file.size = size->get_int64();
  return file;
}

}  // namespace

Status check_repository(std::string_view repository) {
  if (plain_parts(repository, 1, 2)) return Ok{};
  return with_remedy(make_error(ErrorCode::kInvalidArgument, "\"{}\" is not the name of a model", shown(repository)),
                     "write ORG/NAME, for example Qwen/Qwen3.6-35B-A3B-FP8");
}

Status check_revision(std::string_view revision) {
  if (plain_parts(revision, 1, 8)) return Ok{};
  return with_remedy(make_error(ErrorCode::kInvalidArgument, "\"{}\" is not a revision", shown(revision)),
                     "write a branch, a tag or a commit");
}

Result<std::string> parse_commit(std::string_view json) {
  boost::json::error_code error;
  const value document = boost::json::parse({json.data(), json.size()}, error);
  const object* root = document.if_object();
  std::string commit = root == nullptr ? std::string() : string_of(*root, "sha");
  if (error || !is_hex(commit, 40)) {
    return make_error(ErrorCode::kCorrupt, "the hub's answer about the revision names no commit");
  }
  return commit;
}

Status parse_tree_page(std::string_view json, std::vector<HubFile>* files) {
  boost::json::error_code error;
  const value document = boost::json::parse({json.data(), json.size()}, error);
  if (error || !document.is_array()) {
    return make_error(ErrorCode::kCorrupt, "the hub's list of files is not a JSON array");
  }
  for (const value& each : document.get_array()) {
    if (!each.is_object()) return make_error(ErrorCode::kCorrupt, "the hub's list of files holds a non-object");
    std::string path = string_of(each.get_object(), "path");
    if (leaves_folder(path)) {
      return make_error(ErrorCode::kCorrupt, "the hub lists \"{}\", which is not a path inside a folder", shown(path));
    }
    if (string_of(each.get_object(), "type") != "file" || !wanted(path)) continue;
    const bool again = std::any_of(files->begin(), files->end(), [&](const HubFile& f) { return f.path == path; });
    if (again) return make_error(ErrorCode::kCorrupt, "the hub lists \"{}\" twice", shown(path));
    if (files->size() >= kFilesMax) return make_error(ErrorCode::kTooLarge, "over {} files", kFilesMax);
    WEIR_ASSIGN_OR_RETURN(HubFile file, read_entry(each.get_object(), std::move(path)));
    files->push_back(std::move(file));
  }
  return Ok{};
}

std::string next_link(std::string_view link) {
  // RFC 8288: <URL>; rel="next", <URL>; rel="last".
  while (!link.empty()) {
    const size_t open = link.find('<');
    const size_t close = link.find('>', open);
    if (open == std::string_view::npos || close == std::string_view::npos) return {};
    const std::string_view parameters = link.substr(close + 1, link.find('<', close) - close - 1);
    if (parameters.find("rel=\"next\"") != std::string_view::npos ||
        parameters.find("rel=next") != std::string_view::npos) {
      return std::string(link.substr(open + 1, close - open - 1));
    }
    link.remove_prefix(close + 1);
  }
  return {};
}

}  // namespace weir
