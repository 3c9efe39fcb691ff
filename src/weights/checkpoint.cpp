#include "weights/checkpoint.h"

#include <boost/json.hpp>
#include <filesystem>
#include <map>
#include <utility>

#include "weights/json_check.h"

namespace weir {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

// A plain name of a file in the same folder: whoever wrote the index must not choose what else is opened.
bool plain_shard_name(std::string_view name) {
  constexpr std::string_view kSuffix = ".safetensors";
  if (name.size() <= kSuffix.size() || !name.ends_with(kSuffix) || name.front() == '.') return false;
  for (const char c : name) {
    if (c == '/' || c == '\\' || static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return false;
  }
  return true;
}

struct Index {
  std::map<std::string, std::string> shard_of;  // by tensor name
  int64_t total_size = -1;
};

Result<Index> parse_index(std::string_view text) {
  WEIR_RETURN_IF_ERROR(check_json(text));
  boost::json::error_code error;
  const boost::json::value document = boost::json::parse({text.data(), text.size()}, error);
  const boost::json::object* root = document.if_object();
  const boost::json::value* map = root == nullptr ? nullptr : root->if_contains("weight_map");
  if (error || map == nullptr || !map->is_object()) {
    return make_error(ErrorCode::kCorrupt, "no object \"weight_map\"");
  }
  Index index;
  for (const auto& [name, shard] : map->get_object()) {
    const boost::json::string* file = shard.if_string();
    if (file == nullptr || !plain_shard_name({file->data(), file->size()})) {
      return make_error(ErrorCode::kCorrupt, "weight_map[\"{}\"] is not the name of a .safetensors file in this folder",
                        std::string_view(name.data(), name.size()));
    }
    index.shard_of.emplace(std::string(name), std::string(*file));
  }
  if (const boost::json::value* metadata = root->if_contains("metadata");
      metadata != nullptr && metadata->is_object()) {
    const boost::json::value* size = metadata->get_object().if_contains("total_size");
    if (size != nullptr && size->is_int64()) index.total_size = size->get_int64();
  }
  return index;
}

Error nothing_to_open(const std::string& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    return with_remedy(make_error(ErrorCode::kNotFound, "{} is not a folder", directory),
                       "name the folder that holds config.json and the .safetensors files");
  }
  return with_remedy(make_error(ErrorCode::kNotFound, "{} has neither {} nor {}", directory, kSingleFile, kIndexFile),
                     "only safetensors checkpoints are read: fetch one with `weir pull`");
}

// Every tensor of the index must be in the shard that the index says; `first` and `last` bound that shard's tensors.
Status check_shard(const Index& index, const std::string& shard, std::span<const TensorInfo> tensors) {
  for (const TensorInfo& tensor : tensors) {
    const auto entry = index.shard_of.find(tensor.name);
    if (entry == index.shard_of.end()) {
      return make_error(ErrorCode::kCorrupt, "{} holds tensor \"{}\", which {} does not name", shard, tensor.name,
                        kIndexFile);
    }
    if (entry->second != shard) {
      return make_error(ErrorCode::kCorrupt, "{} holds tensor \"{}\", which {} places in {}", shard, tensor.name,
                        kIndexFile, entry->second);
    }
  }
  return Ok{};
}

}  // namespace

Status Checkpoint::add_file(const std::string& path) {
  WEIR_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::open(path));
  const std::span<const std::byte> bytes = file->bytes();
  Result<SafetensorsHeader> header = parse_safetensors_header(bytes, static_cast<int64_t>(bytes.size()));
  if (!header.ok()) return in_context(std::move(header).error(), path);
  for (TensorHeader& tensor : header->tensors) {
    const auto begin = static_cast<size_t>(header->data_begin + tensor.begin);
    const auto size = static_cast<size_t>(tensor.end - tensor.begin);
    total_bytes_ += tensor.end - tensor.begin;
    tensors_.push_back({std::move(tensor.name), tensor.dtype, tensor.shape, bytes.subspan(begin, size)});
  }
  files_.push_back(std::move(file));
  return Ok{};
}

Status Checkpoint::index_names() {
  by_name_.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!by_name_.emplace(tensors_[i].name, i).second) {
      return make_error(ErrorCode::kCorrupt, "tensor \"{}\" is in two files", tensors_[i].name);
    }
  }
  return Ok{};
}

Result<std::unique_ptr<Checkpoint>> Checkpoint::open_file(const std::string& path) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  WEIR_RETURN_IF_ERROR(checkpoint->add_file(path));
  WEIR_RETURN_IF_ERROR(checkpoint->index_names());
  return checkpoint;
}

Result<std::unique_ptr<Checkpoint>> Checkpoint::open(const std::string& directory) {
  const fs::path folder(directory);
  std::error_code ignored;
  if (fs::exists(folder / kSingleFile, ignored)) return open_file((folder / kSingleFile).string());
  const std::string index_path = (folder / kIndexFile).string();
  if (!fs::exists(index_path, ignored)) return nothing_to_open(directory);

  WEIR_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> index_file, MappedFile::open(index_path));
  const std::span<const std::byte> text = index_file->bytes();
  if (static_cast<int64_t>(text.size()) > kSafetensorsHeaderBytesMax) {
    return make_error(ErrorCode::kTooLarge, "{}: {} bytes are over the limit of {}", index_path, text.size(),
                      kSafetensorsHeaderBytesMax);
  }
  Result<Index> index = parse_index({reinterpret_cast<const char*>(text.data()), text.size()});
  if (!index.ok()) return in_context(std::move(index).error(), index_path);

  std::map<std::string, int64_t> shards;  // name and number of tensors that the index places there
  for (const auto& [name, shard] : index->shard_of) ++shards[shard];
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  checkpoint->declared_bytes_ = index->total_size;
  for (const auto& [shard, count] : shards) {
    const size_t first = checkpoint->tensors_.size();
    WEIR_RETURN_IF_ERROR(checkpoint->add_file((folder / shard).string()));
    const auto added = std::span<const TensorInfo>(checkpoint->tensors_).subspan(first);
    WEIR_RETURN_IF_ERROR(check_shard(*index, shard, added));
    if (static_cast<int64_t>(added.size()) != count) {
      return make_error(ErrorCode::kCorrupt, "{}: {} tensors, where {} names {}", (folder / shard).string(),
                        added.size(), kIndexFile, count);
    }
  }
  WEIR_RETURN_IF_ERROR(checkpoint->index_names());
  return checkpoint;
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto entry = by_name_.find(name);
  return entry == by_name_.end() ? nullptr : &tensors_[entry->second];
}

void Checkpoint::release_pages() const {
  for (const std::unique_ptr<MappedFile>& file : files_) file->release_pages();
}

}  // namespace weir
