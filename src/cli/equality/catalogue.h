// Requests that many schedules draw from, and what a client sees of each when it is computed alone and cold: one at a
// time, in an engine that keeps nothing. Computed once, when a schedule first asks for it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/equality/draw.h"
#include "cli/equality/served.h"

namespace weir::equality {

// Positions of a sequence: over the 512 of a segment of attention.
inline constexpr int64_t kContext = 768;

struct Request {
  std::vector<TokenId> prompt;
  SamplingParams sampling;  // the longest answer
  int32_t suffix_count = 0;
  int64_t parent = -1;          // the member of its family that it goes on from
  int64_t generated_from = -1;  // prompt tokens from here on are the parent's answer
};

// Everything that a client sees of one sequence, bit for bit.
struct Outcome {
  std::vector<TokenId> tokens;
  std::vector<uint32_t> logprobs;
  std::vector<uint32_t> prompt_logprobs;
  FinishReason finish = FinishReason::kNone;
  int32_t cached = 0;
};

void take(const Event& event, Outcome* outcome);

// What is seen of a request of whose longest answer `whole` is, with max_tokens `count` instead: a token depends on
// those before it alone, so this is its beginning.
Outcome beginning_of(const Outcome& whole, int64_t count);

// What differs between what was seen of `who` and what is right, a line each; of one that was `cut` its beginning
// counts. `where`: how what is right was computed.
std::vector<std::string> differences(const std::string& who, const Outcome& seen, const Outcome& right,
                                     const char* where, bool cut = false);

class Catalogue {
 public:
  static constexpr int64_t kFamilies = 5;
  static constexpr int64_t kMembers = 10;
  struct Entry {
    Request request;
    Outcome alone;
  };

  // Borrows the engine.
  Catalogue(uint64_t seed, Served* cold, int32_t vocabulary);
  // Members of a family share a beginning, or more: each goes on from one before it where it does not begin anew.
  const Entry& at(int64_t family, int64_t member);

 private:
  Request draw(int64_t family, int64_t member);
  Outcome alone(const Request& request);

  uint64_t seed_;
  Served* cold_;
  int32_t vocabulary_;
  std::array<std::array<std::optional<Entry>, kMembers>, kFamilies> entries_;
  Event event_;
};

}  // namespace weir::equality
