// Published checkpoints that are known by their totals: what the binding table must reproduce, and what `weir inspect`
// recognises.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "models/binding.h"

namespace weir {

struct Anchor {
  std::string_view name;
  int64_t tensors = 0;  // vision included
  int64_t bytes = 0;
  StorageLayout layout = StorageLayout::kBf16;
  bool fused_experts = false;
  bool fused_mtp_experts = false;
  bool gdn_f32 = false;
};

// All of these carry the same vision tower.
inline constexpr int64_t kVisionTensors = 333;

// Counts and bytes of the published files; the 122B's bytes are derived (its count is published).
inline constexpr std::array<Anchor, 5> kAnchors = {{
    {"Qwen/Qwen3.6-35B-A3B", 1'045, 71'903'645'408, StorageLayout::kBf16, true, true, false},
    {"Qwen/Qwen3.6-35B-A3B-FP8", 64'196, 37'454'789'472, StorageLayout::kFp8Block, false, false, false},
    {"Qwen/Qwen3.5-397B-A17B", 2'924, 806'795'875'168, StorageLayout::kBf16, true, false, true},
    {"Qwen/Qwen3.5-397B-A17B-FP8", 189'042, 406'125'181'280, StorageLayout::kFp8Block, false, false, true},
    {"Qwen/Qwen3.5-122B-A10B-FP8", 76'656, 127'152'313'312, StorageLayout::kFp8Block, false, false, true},
}};

// The published checkpoint with exactly these totals, or nullptr.
constexpr const Anchor* find_anchor(int64_t tensors, int64_t bytes) {
  for (const Anchor& anchor : kAnchors) {
    if (anchor.tensors == tensors && anchor.bytes == bytes) return &anchor;
  }
  return nullptr;
}

}  // namespace weir
