// For tests: config.json texts of published models.
#pragma once

#include <cstdint>
#include <string>

namespace weir {

struct TestSizes {
  int64_t hidden;
  int64_t layers;
  int64_t heads;
  int64_t value_heads;
  int64_t experts;
  int64_t top_k;
  int64_t width;
};

inline constexpr TestSizes kSizes35B = {2048, 40, 16, 32, 256, 8, 512};
inline constexpr TestSizes kSizes122B = {3072, 48, 32, 64, 256, 8, 1024};
inline constexpr TestSizes kSizes397B = {4096, 60, 32, 64, 512, 10, 1024};

// The text part of a Qwen3.5/3.6 mixture of experts, as a flat config of that type.
std::string flat_moe_config(const TestSizes& sizes);
// The same nested under text_config, as it is published.
std::string nested_moe_config(const TestSizes& sizes);
// Qwen3-Next-80B-A3B.
std::string next_config();
// Qwen3.5-4B: dense, tied.
std::string dense_config();

// `json` with the first `from` replaced by `to`; `from` must be there.
std::string replaced(std::string json, const std::string& from, const std::string& to);

}  // namespace weir
