// One token list through the model, without an engine: what `weir logits` and the golden tests run.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "plan/ids.h"
#include "runner/model.h"

namespace weir {

// A chain of greedy drafts behind a prompt.
struct DraftChain {
  std::vector<TokenId> tokens;             // the target's own greedy token, then the drafts
  std::vector<std::vector<float>> logits;  // [drafts][V]: what each draft was chosen from
};

class OfflineModel {
 public:
  // Caches for one sequence of `tokens_max` tokens, computed in chunks of `chunk`. Borrows the model.
  static Result<std::unique_ptr<OfflineModel>> create(Model* model, int64_t tokens_max, int64_t chunk);

  // Runs `tokens` from the start. `consume(i, logits)` is called once for every i with i >= first, in order: logits [V]
  // after tokens[0..i], valid in the call only.
  void score(std::span<const TokenId> tokens, int64_t first,
             const std::function<void(int64_t, std::span<const float>)>& consume);

  // Runs `tokens` from the start, then `drafts` steps of the draft head. kUnsupported without a draft head; drafts must
  // fit tokens_max behind the prompt.
  Result<DraftChain> draft(std::span<const TokenId> tokens, int32_t drafts);

 private:
  OfflineModel(Model* model, std::unique_ptr<Caches> caches, int64_t tokens_max, int64_t chunk);
  Status make_executors();
  // The batch of tokens [position, position + count) of the only sequence.
  StepBatch batch(std::span<const TokenId> tokens, int64_t position, std::span<const int32_t> sampled, PageClassId kv);

  Model* model_;
  std::unique_ptr<Caches> caches_;
  int64_t tokens_max_;
  int64_t chunk_;
  Program draft_program_;
  std::unique_ptr<Executor> main_;
  std::unique_ptr<Executor> draft_;
  // The draft head's row of the hidden row i and token i + 1 stands at i + 1, and nothing at 0. Where the executor
  // cannot leave out tokens every row stands one place lower: rotations are relative.
  int64_t draft_first_ = 0;
  std::vector<std::vector<std::byte*>> pages_;  // per class
  std::vector<int32_t> every_row_;              // 0 .. chunk - 1
  KvSequence kv_;
  StepSequence sequence_;  // the draft head's rows too are computed as a prompt's
  GdnSequence gdn_;
};

}  // namespace weir
