// The joint distribution of three consecutive sampled tokens, through the whole engine, against the model's own
// probabilities: what drafts must not change even if every single answer could not be compared.
#pragma once

#include <cstdint>
#include <span>

#include "cli/equality/deadline.h"
#include "runner/model.h"

namespace weir::equality {

struct Fit {
  double chi_square = 0;
  int64_t degrees = 0;  // cells - 1
  int64_t samples = 0;
  int64_t drafted = 0;  // drafts verified
  int64_t accepted = 0;
  int64_t steps = 0;
  double p_value() const;  // of a chi-square at least as large, by Wilson and Hilferty's approximation
};

// `samples` sequences, fewer if time runs out, with the seeds from `first` on, of a prompt whose next tokens are biased
// to few ids. 0 to kDraftsMax drafts. `models` are one model loaded several times: each has a thread and a part of the
// seeds, and how many there are changes the number of steps alone.
Fit fit_of_three_tokens(std::span<Model* const> models, int32_t drafts, int64_t samples, uint64_t first = 1,
                        const Deadline& deadline = Deadline());

}  // namespace weir::equality
