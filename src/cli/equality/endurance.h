// Whether drafts are accepted as often after a million steps as at first: a draft head whose keys and values go stale,
// or whose hidden rows slip by a token, gets worse with the length of a sequence or with the age of the server.
#pragma once

#include <array>
#include <cstdint>

#include "cli/equality/deadline.h"
#include "runner/model.h"

namespace weir::equality {

struct Tenth {
  int64_t drafted = 0;
  int64_t accepted = 0;
  double rate() const { return drafted == 0 ? 0.0 : static_cast<double>(accepted) / static_cast<double>(drafted); }
};

struct Endurance {
  std::array<Tenth, 10> by_age;  // of the server, in order: the first tenth of the rounds that ran, the second, ...
  std::array<Tenth, 10> by_position;  // of the sequences: the first tenth of their lengths, the second, ...
  int64_t rounds = 0;                 // steps of a sequence with drafts
  int64_t steps = 0;                  // of all sequences together
  // Whether the last tenth of the steps accepts less than the first by more than a hundredth and more than chance; also
  // if there are no drafts in one of the two.
  bool decays() const;
};

// So many steps of a sequence with three drafts each, fewer if time runs out, of conversations that go on behind what
// came before, some at once. They are sampled with the seeds from `first` on.
Endurance run_endurance(Model* model, int64_t rounds, const Deadline& deadline = Deadline(), uint64_t first = 1);

}  // namespace weir::equality
