// What a hub says a repository holds, checked before any of it becomes a path.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hub/digest.h"

namespace weir {

struct HubFile {
  std::string path;  // inside the repository; wanted files have no folder
  int64_t size = 0;
  DigestKind kind = DigestKind::kGitBlob;
  std::string digest;  // also its name in the cache
};

// "ORG/NAME" or "NAME" of letters, digits, '-', '_' and '.'; no part starts with a dot.
Status check_repository(std::string_view repository);
// A branch, tag, commit or refs/pr/N: parts of letters, digits, '-', '_' and '.', joined by '/'; no part starts with a
// dot.
Status check_revision(std::string_view revision);

// The commit (40 hex digits) in the answer to /api/models/REPO/revision/REV.
Result<std::string> parse_commit(std::string_view json);

// One page of /api/models/REPO/tree/COMMIT. Adds the files that a text model needs to `files`, and ignores the rest. An
// error (kCorrupt) for a path that is absolute, holds "..", a backslash or a control character, even of a file not
// wanted; for a wanted file without a size or digest.
Status parse_tree_page(std::string_view json, std::vector<HubFile>* files);

// The URL of the next page in a Link header, or empty.
std::string next_link(std::string_view link);

}  // namespace weir
