// Conversations by seed: each turn's prompt is the prompt before, the answer before and some tokens more. Each is run
// under three policies of reuse, with the same prompts. What the default gives, which computes answers again as prompt
// rows, must have the bits that come of no cache at all. What --reuse-generated gives may differ on a GPU, whose prompt
// rows and generated rows are two families of kernels: how often, by how much and what it saves is counted.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/equality/deadline.h"
#include "runner/model.h"

namespace weir::equality {

inline constexpr uint64_t kBlockConversations = 8;    // in flight at once, in an engine of a policy
inline constexpr int64_t kConversationTurnsMin = 2;   // a later turn is what policies differ in
inline constexpr int64_t kConversationTurnsMax = 10;  // what the models' positions hold

enum class Policy : size_t { kDefault, kReuseGenerated, kNoCache, kCount };
inline constexpr auto kPolicies = static_cast<size_t>(Policy::kCount);
inline constexpr std::array<const char*, kPolicies> kPolicyNames = {"default", "--reuse-generated", "no cache"};

// What all turns took under one policy. Tokens of a prompt are reused or computed; those computed are new, or were an
// answer, or were in the prompt of the turn before.
struct Spent {
  int64_t reused = 0;
  int64_t answers = 0;
  int64_t prompts = 0;
  int64_t in_answers = 0;  // turns that went on from behind the end of the prompt before: in generated rows
  int64_t steps = 0;
  int64_t rows = 0;
  int64_t drafted = 0;
  int64_t accepted = 0;
  double seconds = 0;
};

enum class Choice : size_t { kGreedy, kSampled, kOfFew, kCount };
inline constexpr auto kChoices = static_cast<size_t>(Choice::kCount);
inline constexpr std::array<const char*, kChoices> kChoiceNames = {"greedy", "sampled", "sampled of a few ids"};

// Answers under --reuse-generated beside those of the default, given the same prompt.
struct Compared {
  int64_t turns = 0;
  int64_t turns_differ = 0;
  int64_t tokens = 0;
  int64_t tokens_differ = 0;  // another token, or none, at their place
  int64_t tokens_until = 0;   // as far as nothing differs, and one more where something does
};

struct Talked {
  std::map<std::string, int64_t> conversations;  // how many each model had
  int64_t turns = 0;
  int64_t prompt_tokens = 0;
  int64_t answer_tokens = 0;
  int64_t new_tokens = 0;     // of the prompts, in no prompt or answer before
  int64_t known_answers = 0;  // tokens of answers that a turn follows
  int64_t answers_on_grid = 0;
  std::array<Spent, kPolicies> spent;
  std::array<Compared, kChoices> compared;  // turns behind answers that were the default's
  Compared behind;                          // turns behind a difference: a part of their history is prompt rows
  double logprob_difference = 0;            // the largest of the same id behind the same tokens
  std::vector<std::string> problems;        // of the first block that has some
  std::string failed;                       // what runs that block again
  int64_t done() const;
  const Spent& under(Policy policy) const { return spent[static_cast<size_t>(policy)]; }
};

// Holds what serves the conversations of a model. For one thread at a time.
class Talker {
 public:
  // Borrows the model.
  explicit Talker(Model* model);
  ~Talker();
  // The conversations with seeds [first, last) of a block, of `turns` turns each, which is the same in every call.
  Talked run(uint64_t first, uint64_t last, int64_t turns);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct TalksAsked {
  uint64_t seed = 1;  // of the first conversation, the others follow
  int64_t conversations = 100;
  int64_t turns = 4;  // of each
  int64_t jobs = 1;
  std::vector<std::string> models;  // of a block of conversations each, in turn
};

// Fewer than asked for once there is a problem or time runs out. An error: a model cannot be loaded.
Result<Talked> run_conversations(const TalksAsked& asked, const Deadline& deadline = Deadline());

}  // namespace weir::equality
