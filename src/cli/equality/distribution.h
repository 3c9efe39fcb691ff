// The joint distribution of three consecutive sampled tokens, through the whole engine, against the model's own
// probabilities: what drafts must not change even if every single answer could not be compared.
#pragma once

#include <cstdint>

#include "runner/model.h"

namespace weir::equality {

struct Fit {
  double chi_square = 0;
  int64_t degrees = 0;  // cells - 1
  int64_t samples = 0;
  int64_t drafted = 0;  // drafts verified
  int64_t accepted = 0;
  double p_value() const;  // of a chi-square at least as large, by Wilson and Hilferty's approximation
};

// `samples` sequences, each with a seed of its own, of a prompt whose next tokens are biased to few ids. 0 to
// kDraftsMax drafts.
Fit fit_of_three_tokens(Model* model, int32_t drafts, int64_t samples);

}  // namespace weir::equality
