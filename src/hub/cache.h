// The cache folder that tools for model hubs share:
//   models--ORG--NAME/blobs/DIGEST            content, named by its digest
//   models--ORG--NAME/blobs/DIGEST.incomplete being fetched
//   models--ORG--NAME/snapshots/COMMIT/PATH   relative link into blobs
//   models--ORG--NAME/refs/REVISION           the commit, as text
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "hub/listing.h"

namespace weir {

// The folders of one repository. Every name put together here has been checked by hub/listing.h.
class RepositoryCache {
 public:
  // Makes the folders.
  static Result<RepositoryCache> open(const std::string& cache, std::string_view repository);

  std::string blob(const HubFile& file) const { return root_ + "/blobs/" + file.digest; }
  std::string partial(const HubFile& file) const { return blob(file) + ".incomplete"; }
  std::string snapshot(std::string_view commit) const { return root_ + "/snapshots/" + std::string(commit); }
  // Whether the blob is there with its whole size.
  bool has(const HubFile& file) const;
  // Bytes that the disk still takes; -1 when unknown.
  int64_t free_bytes() const;
  // Makes (or replaces, atomically) the snapshot's link to the blob.
  Status link(std::string_view commit, const HubFile& file) const;
  // Writes refs/REVISION, atomically; nothing for a revision that is the commit itself.
  Status write_ref(std::string_view revision, std::string_view commit) const;

 private:
  explicit RepositoryCache(std::string root) : root_(std::move(root)) {}
  std::string root_;
};

// A file that grows until it is whole. The file is locked while open: two pulls do not write one blob.
class PartialFile {
 public:
  static Result<PartialFile> open(const std::string& path);
  ~PartialFile();
  PartialFile(PartialFile&& other) noexcept;
  PartialFile& operator=(PartialFile&&) = delete;

  int64_t size() const { return size_; }
  // Feeds what is there into `digest`.
  Status read_into(Digest* digest) const;
  Status append(std::span<const char> bytes);
  Status clear();
  // Flushes to the disk and gives the file its final name.
  Status publish(const std::string& path);
  // Removes the file.
  void discard();

 private:
  PartialFile(int file, std::string path, int64_t size) : file_(file), path_(std::move(path)), size_(size) {}
  int file_ = -1;
  std::string path_;
  int64_t size_ = 0;
};

}  // namespace weir
