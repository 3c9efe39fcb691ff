// A trace of requests as Mooncake publishes them: one JSON object a line, `timestamp` in ms, `input_length`,
// `output_length` and `hash_ids`, one for every 512 tokens of the prompt. Equal ids say that everything up to the
// block's end is equal. The tokens themselves are not in it and are made up from the ids.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "plan/ids.h"

namespace weir::sim {

inline constexpr int32_t kTraceBlockTokens = 512;
inline constexpr int32_t kTraceVocabulary = 200'000;  // about as many ids as the models of the trace's time have

// A prompt's last id stands for less than a block, so the next turn of a conversation has another one there, and what
// the two have in common is not in the trace. How much of it is put back:
enum class TraceTurns : uint8_t {
  kBlocks,   // nothing: prompts are equal up to a multiple of 512 tokens, and answers are in no later prompt
  kPrompts,  // a request that goes on behind all whole blocks of an earlier one begins with all of its prompt
  kAnswers,  // and the earlier one's answer stands behind that prompt in the first request that goes on so
};

struct TraceRequest {
  int64_t arrival_us = 0;
  int32_t input_length = 0;
  int32_t output_length = 0;
  std::vector<int32_t> hashes;
  int32_t goes_on = -1;  // the request whose next turn it is, as far as that can be seen
  int32_t next = -1;     // the first request that is this one's next turn
  int64_t known = 0;     // its first tokens that some earlier request began with (kAnswers: answer included), all but
                         // the last token at most: what a cache without bounds could save
};

class Trace {
 public:
  // The first `requests_max` lines. kNotFound, or kInvalidArgument with the line's number.
  static Result<Trace> read(const std::string& path, int64_t requests_max, TraceTurns turns);

  const std::vector<TraceRequest>& requests() const { return requests_; }
  TraceTurns turns() const { return turns_; }
  int32_t hash_count() const { return static_cast<int32_t>(shared_.size()); }
  // Empties `out` and fills it.
  void prompt(int32_t request, std::vector<TokenId>* out) const;
  // Output token number `index`.
  TokenId answer(int32_t request, int32_t index) const;

 private:
  // The first `count` tokens of a block are those of another.
  struct Shared {
    int32_t source = -1;
    int32_t count = 0;
  };

  Status parse(const std::string& line, int64_t number);
  void find_turns();
  int32_t equal_blocks(const TraceRequest& request) const;
  TokenId token(int32_t hash, int32_t offset) const;

  TraceTurns turns_ = TraceTurns::kBlocks;
  std::vector<TraceRequest> requests_;
  std::vector<Shared> shared_;  // per hash
  std::vector<bool> seen_;      // per hash
};

}  // namespace weir::sim
