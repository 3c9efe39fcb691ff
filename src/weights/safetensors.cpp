#include "weights/safetensors.h"

#include <algorithm>
#include <bit>
#include <boost/json/basic_parser_impl.hpp>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace weir {
namespace {

using JsonError = boost::json::error_code;
using JsonText = boost::json::string_view;

constexpr int64_t kInt64Max = std::numeric_limits<int64_t>::max();

Error corrupt(std::string message) {
  return with_remedy(Error{ErrorCode::kCorrupt, std::move(message), {}}, "the file is damaged: fetch it again");
}

// A name as it may be shown: cut to a line's length, control bytes escaped.
std::string shown(std::string_view name) {
  std::string out;
  for (const char c : name.substr(0, 120)) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return name.size() > 120 ? out + "..." : out;
}

// Walks {"NAME": {"dtype": "F32", "shape": [..], "data_offsets": [begin, end]}, "__metadata__": {"key": "text"}}.
class HeaderHandler {
 public:
  static constexpr size_t max_object_size = SIZE_MAX;
  static constexpr size_t max_array_size = SIZE_MAX;
  static constexpr size_t max_key_size = SIZE_MAX;
  static constexpr size_t max_string_size = SIZE_MAX;

  std::vector<TensorHeader> tensors;
  std::optional<Error> failure;

  bool on_document_begin(JsonError&) { return true; }
  bool on_document_end(JsonError&) { return true; }

  bool on_object_begin(JsonError& ec) {
    if (depth_ == 0) {
      depth_ = 1;
      return true;
    }
    if (depth_ != 1 || field_ != Field::kNone) return fail(ec, "an object where none belongs");
    depth_ = 2;
    if (in_metadata_) return true;
    seen_ = 0;
    current_ = TensorHeader{};
    current_.name = name_;
    return true;
  }

  bool on_object_end(size_t, JsonError& ec) {
    --depth_;
    if (depth_ == 0) return true;
    if (std::exchange(in_metadata_, false)) return true;
    if (seen_ != kAllFields) return fail(ec, "dtype, shape or data_offsets is missing");
    if (static_cast<int64_t>(tensors.size()) >= kSafetensorsTensorsMax) {
      return fail(ec, fmt::format("more than {} tensors", kSafetensorsTensorsMax));
    }
    tensors.push_back(std::move(current_));
    return true;
  }

  bool on_array_begin(JsonError& ec) {
    if (depth_ != 2 || in_array_ || (field_ != Field::kShape && field_ != Field::kOffsets)) {
      return fail(ec, "an array where none belongs");
    }
    in_array_ = true;
    offsets_seen_ = 0;
    return true;
  }

  bool on_array_end(size_t, JsonError& ec) {
    in_array_ = false;
    if (field_ == Field::kOffsets && offsets_seen_ != 2) return fail(ec, "data_offsets needs two numbers");
    field_ = Field::kNone;
    return true;
  }

  bool on_key_part(JsonText part, size_t, JsonError& ec) { return append(&key_, part, ec); }

  bool on_key(JsonText part, size_t, JsonError& ec) {
    if (!append(&key_, part, ec)) return false;
    const bool ok = depth_ == 1 ? begin_entry(ec) : (in_metadata_ || begin_field(ec));
    key_.clear();
    return ok;
  }

  bool on_string_part(JsonText part, size_t, JsonError& ec) {
    // Metadata is free text that nobody reads here; only the header's own limit bounds it.
    return in_metadata_ || append(&text_, part, ec);
  }

  bool on_string(JsonText part, size_t, JsonError& ec) {
    if (in_metadata_ && depth_ == 2) return true;
    if (depth_ != 2 || field_ != Field::kDType || in_array_) return fail(ec, "a string where none belongs");
    if (!append(&text_, part, ec)) return false;
    const std::optional<DType> dtype = dtype_from_name(text_);
    if (!dtype) {
      failure =
          with_remedy(make_error(ErrorCode::kUnsupported, "tensor \"{}\" has dtype \"{}\", which is not read here",
                                 shown(name_), shown(text_)),
                      "served are F32, BF16, F8_E4M3 and U8 (MXFP4) weights");
      ec = boost::json::error::syntax;
      return false;
    }
    current_.dtype = *dtype;
    text_.clear();
    field_ = Field::kNone;
    return true;
  }

  bool on_number_part(JsonText, JsonError&) { return true; }
  bool on_int64(int64_t value, JsonText, JsonError& ec) { return number(value, ec); }
  bool on_uint64(uint64_t, JsonText, JsonError& ec) { return fail(ec, "a number over 2^63 - 1"); }
  bool on_double(double, JsonText, JsonError& ec) { return fail(ec, "a number that is no integer"); }
  bool on_bool(bool, JsonError& ec) { return fail(ec, "a boolean where none belongs"); }
  bool on_null(JsonError& ec) { return fail(ec, "a null where none belongs"); }
  bool on_comment_part(JsonText, JsonError&) { return true; }
  bool on_comment(JsonText, JsonError&) { return true; }

 private:
  enum class Field : uint8_t { kNone, kDType, kShape, kOffsets };
  static constexpr unsigned kAllFields = 0b111;

  bool fail(JsonError& ec, std::string_view what) {
    failure = corrupt(name_.empty() ? fmt::format("safetensors header: {}", what)
                                    : fmt::format("safetensors header, tensor \"{}\": {}", shown(name_), what));
    ec = boost::json::error::syntax;
    return false;
  }

  bool append(std::string* to, JsonText part, JsonError& ec) {
    if (static_cast<int64_t>(to->size() + part.size()) > kSafetensorsNameBytesMax) {
      return fail(ec, fmt::format("a name or word over {} bytes", kSafetensorsNameBytesMax));
    }
    to->append(part.data(), part.size());
    return true;
  }

  bool begin_entry(JsonError& ec) {
    name_ = key_;
    if (name_.empty()) return fail(ec, "a tensor without a name");
    if (name_.find('\0') != std::string::npos) return fail(ec, "a name with a NUL byte");
    if (name_ == "__metadata__") {
      if (std::exchange(metadata_seen_, true)) return fail(ec, "appears twice");
      in_metadata_ = true;
    }
    return true;
  }

  bool begin_field(JsonError& ec) {
    if (key_ == "dtype") {
      field_ = Field::kDType;
    } else if (key_ == "shape") {
      field_ = Field::kShape;
    } else if (key_ == "data_offsets") {
      field_ = Field::kOffsets;
    } else {
      return fail(ec, fmt::format("unknown key \"{}\"", shown(key_)));
    }
    const unsigned bit = 1u << (static_cast<unsigned>(field_) - 1u);
    if ((seen_ & bit) != 0) return fail(ec, fmt::format("\"{}\" appears twice", key_));
    seen_ |= bit;
    return true;
  }

  bool number(int64_t value, JsonError& ec) {
    if (depth_ != 2 || !in_array_) return fail(ec, "a number where none belongs");
    if (value < 0) return fail(ec, fmt::format("negative number {}", value));
    if (field_ == Field::kShape) {
      if (current_.shape.rank() == Shape::kRankMax) return fail(ec, fmt::format("rank over {}", Shape::kRankMax));
      current_.shape.push_back(value);
      return true;
    }
    if (offsets_seen_ == 2) return fail(ec, "data_offsets needs two numbers");
    (offsets_seen_++ == 0 ? current_.begin : current_.end) = value;
    return true;
  }

  int depth_ = 0;  // objects open
  bool in_array_ = false;
  bool in_metadata_ = false;
  bool metadata_seen_ = false;
  Field field_ = Field::kNone;
  unsigned seen_ = 0;  // bits of the fields met in this entry
  int offsets_seen_ = 0;
  std::string name_;  // of the entry
  std::string key_;
  std::string text_;
  TensorHeader current_;
};

// Product of the extents and the element size, or nothing when it overflows.
std::optional<int64_t> checked_bytes(const TensorHeader& tensor) {
  int64_t bytes = dtype_bytes(tensor.dtype);
  // A zero extent hides the overflow of the others only if it comes first: treat it as zero wherever it stands.
  for (int axis = 0; axis < tensor.shape.rank(); ++axis) {
    if (tensor.shape[axis] == 0) return 0;
  }
  for (int axis = 0; axis < tensor.shape.rank(); ++axis) {
    if (__builtin_mul_overflow(bytes, tensor.shape[axis], &bytes)) return std::nullopt;
  }
  return bytes;
}

Status check_ranges(std::vector<TensorHeader>* tensors, int64_t data_bytes) {
  std::unordered_set<std::string_view> names;
  names.reserve(tensors->size());
  for (const TensorHeader& tensor : *tensors) {
    if (!names.insert(tensor.name).second) {
      return corrupt(fmt::format("safetensors header names \"{}\" twice", shown(tensor.name)));
    }
    const std::optional<int64_t> bytes = checked_bytes(tensor);
    if (!bytes || tensor.begin > tensor.end || *bytes != tensor.end - tensor.begin) {
      return corrupt(fmt::format("tensor \"{}\": {} {} does not fit its bytes [{}, {})", shown(tensor.name),
                                 dtype_name(tensor.dtype), tensor.shape.text(), tensor.begin, tensor.end));
    }
    if (tensor.end > data_bytes) {
      return corrupt(fmt::format("tensor \"{}\" ends at byte {} of the data, of which the file has {}",
                                 shown(tensor.name), tensor.end, data_bytes));
    }
  }
  std::sort(tensors->begin(), tensors->end(), [](const TensorHeader& a, const TensorHeader& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t end = 0;
  for (const TensorHeader& tensor : *tensors) {
    if (tensor.begin != end) {
      return corrupt(fmt::format("tensor \"{}\" {} at byte {} of the data (the one before ends at {})",
                                 shown(tensor.name), tensor.begin < end ? "overlaps another" : "leaves a hole",
                                 tensor.begin, end));
    }
    end = tensor.end;
  }
  if (end != data_bytes) {
    return corrupt(fmt::format("the tensors end at byte {} of the data, of which the file has {}", end, data_bytes));
  }
  return Ok{};
}

}  // namespace

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file, int64_t file_bytes) {
  static_assert(std::endian::native == std::endian::little, "tensor bytes are used in place");
  constexpr std::string_view kLfsPointer = "version https://git-lfs";
  if (std::string_view(reinterpret_cast<const char*>(file.data()), file.size()).starts_with(kLfsPointer)) {
    return with_remedy(make_error(ErrorCode::kCorrupt, "a Git LFS pointer, not the file itself"),
                       "fetch the weights: git lfs pull in that folder, or weir pull ORG/NAME");
  }
  uint64_t length = 0;
  if (file.size() < sizeof(length)) {
    return corrupt(fmt::format("a safetensors file starts with 8 bytes of header length; this one has {}", file_bytes));
  }
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > static_cast<uint64_t>(kSafetensorsHeaderBytesMax)) {
    return corrupt(
        fmt::format("safetensors header of {} bytes is over the limit of {}", length, kSafetensorsHeaderBytesMax));
  }
  if (length > file.size() - sizeof(length)) {
    return corrupt(fmt::format("safetensors header of {} bytes in a file of {}", length, file_bytes));
  }
  const char* text = reinterpret_cast<const char*>(file.data()) + sizeof(length);
  if (length < 2 || text[0] != '{') return corrupt("safetensors header does not start with '{'");

  boost::json::parse_options options;
  options.max_depth = 4;  // header, entry, array, and one to be refused by name
  boost::json::basic_parser<HeaderHandler> parser(options);
  JsonError error;
  const size_t used = parser.write_some(false, text, length, error);
  HeaderHandler& handler = parser.handler();
  if (handler.failure) return std::move(*handler.failure);
  if (error) {
    return corrupt(fmt::format("safetensors header is not valid JSON at byte {}: {}", used, error.message()));
  }
  if (used != length) return corrupt(fmt::format("text follows the safetensors header's JSON at byte {}", used));

  SafetensorsHeader header;
  header.tensors = std::move(handler.tensors);
  header.data_begin = static_cast<int64_t>(sizeof(length) + length);
  WEIR_CHECK(file_bytes >= header.data_begin && file_bytes < kInt64Max, "file of {} bytes", file_bytes);
  WEIR_RETURN_IF_ERROR(check_ranges(&header.tensors, file_bytes - header.data_begin));
  return header;
}

}  // namespace weir
