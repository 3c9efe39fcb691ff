// What `weir inspect` prints: a checkpoint folder in words and sizes, read from its headers alone.
#pragma once

#include <string>

#include "base/result.h"

namespace weir {

struct CheckpointReport {
  std::string text;    // several lines, for a terminal
  bool usable = true;  // false: the text says what is missing or wrong
};

// Describes the checkpoint in `directory`: architecture, sizes, bytes and stored formats by class of tensor,
// quantisation, draft head, tokenizer and template, the published checkpoint with the same totals, and everything that
// would stop it from loading. An error only when there is no checkpoint to describe (no readable config.json or
// weights).
Result<CheckpointReport> describe_checkpoint(const std::string& directory);

}  // namespace weir
