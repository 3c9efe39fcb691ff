// How many drafts a sequence gets. Pure arithmetic on what was accepted and on how full the step is.
#pragma once

#include <algorithm>
#include <cstdint>

namespace weir {

// What of a sequence's drafts was accepted lately.
class Acceptance {
 public:
  // A verified item: `drafted` drafts, of which the first `accepted` held.
  void record(int32_t drafted, int32_t accepted) {
    for (int32_t i = 0; i < accepted; ++i) rate_ += (1.0F - rate_) * kWeight;
    if (accepted < drafted) rate_ -= rate_ * kWeight;
  }
  // The chance that a draft holds, given that those before it do.
  float rate() const { return rate_; }

 private:
  static constexpr float kWeight = 1.0F / 16;  // of the newest: about the last sixteen drafts count
  float rate_ = 0.7F;                          // before anything is known: what trained heads reach on mixed text
};

// What one more row costs, as a share of a step's time per row that decodes: little while weights are read for few rows
// anyhow, as much as any other row where arithmetic bounds the step.
struct DraftCost {
  int32_t free_rows = 8;   // up to so many rows of a step, one more costs kRowShareFew of a row
  int32_t full_rows = 64;  // from so many on it costs a whole row
};

inline constexpr float kRowShareFew = 0.25F;

// The largest number of drafts, at most `most`, whose last is still more likely to hold than it costs, with `rows` rows
// in the step beside the sequence's drafts.
inline int32_t choose_drafts(const Acceptance& acceptance, int32_t most, int32_t rows, const DraftCost& cost) {
  float holds = 1.0F;
  int32_t count = 0;
  for (; count < most; ++count) {
    const auto beyond = static_cast<float>(rows + count - cost.free_rows) /
                        static_cast<float>(std::max(1, cost.full_rows - cost.free_rows));
    const float price = kRowShareFew + (1.0F - kRowShareFew) * std::clamp(beyond, 0.0F, 1.0F);
    holds *= acceptance.rate();
    if (holds < price) break;
  }
  return count;
}

}  // namespace weir
