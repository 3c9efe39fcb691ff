// What a model's own files say about sampling and about the end of a turn.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/result.h"
#include "text/tokenizer.h"

namespace weir {

struct GenerationDefaults {
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  std::optional<int> top_k;
  // Every id that ends a turn, ascending, without duplicates.
  std::vector<int32_t> eos_ids;
};

// Reads generation_config.json (sampling defaults, eos_token_id), config.json (eos_token_id at the top or in
// text_config) and tokenizer_config.json (eos_token, a string or an object with "content") from `model_folder`; a file
// that is not there is skipped. The end ids are the union: some models state one of two in each file. `tokenizer` finds
// the id of eos_token; null skips that. kCorrupt: a file is not JSON or a field has the wrong type or an impossible
// value.
Result<GenerationDefaults> load_generation_defaults(const std::filesystem::path& model_folder,
                                                    const Tokenizer* tokenizer);

}  // namespace weir
