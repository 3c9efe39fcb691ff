// The small text files beside a model's weights: read whole, and only when they are what they should be.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"

namespace weir {

// The bytes of `path`; nothing when there is no such file. A link to nowhere, a folder, a FIFO or a device and the
// pointer that Git LFS leaves in the place of a file are errors, not absence: kCorrupt. kIo: cannot be read; kTooLarge:
// over `bytes_max`. Messages start with the path.
Result<std::optional<std::string>> read_model_file(const std::filesystem::path& path, int64_t bytes_max);

}  // namespace weir
