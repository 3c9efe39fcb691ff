// Pinned acceptance, for benchmarks: whether a draft is accepted is drawn with a set probability, from the sequence's
// seed and the draft's position, whatever the draft and the target's token are. Dummy weights, whose drafts hardly ever
// hold, then take the steps that a trained model would take; the text is no model's. Integers only: the same on every
// device.
#pragma once

#include <cstdint>

#include "ops/sample/noise.h"

namespace weir {

// Whether the draft at the absolute position `position` is accepted, where those before it were; accepted with the
// probability threshold / 2^32. An accepted draft is the token of its position; behind the last accepted one stands the
// target's own.
WEIR_PORTABLE bool pinned_accepts(uint64_t seed, int64_t position, uint64_t threshold) {
  // A counter that belongs to no id's noise: ids end below 2^31, their counters at a fourth of that.
  constexpr uint32_t kCounter = 0xffffffffU;
  uint32_t words[4];
  noise_words(seed, position, kCounter, words);
  return words[0] < threshold;
}

// The threshold with which steps of `drafts` drafts yield `length` tokens in the mean: 1 + p + .. + p^drafts = length.
// `length` in [1, 1 + drafts]. Host only.
inline uint64_t pinned_threshold(double length, int32_t drafts) {
  double low = 0.0;
  double high = 1.0;
  // As many halvings as a double has bits.
  for (int i = 0; i < 53; ++i) {
    const double p = 0.5 * (low + high);
    double sum = 1.0;
    for (int32_t d = 0; d < drafts; ++d) sum = 1.0 + p * sum;
    (sum < length ? low : high) = p;
  }
  return static_cast<uint64_t>(high * 4294967296.0 + 0.5);
}

}  // namespace weir
