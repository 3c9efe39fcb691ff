// A model on a device: what the runner and the offline commands need of it, whatever the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/result.h"
#include "models/config.h"
#include "models/program.h"
#include "ops/attention/attention.h"
#include "ops/cpu/cpu.h"
#include "ops/gdn/gdn.h"
#include "plan/layout.h"
#include "plan/step.h"
#include "runner/step_times.h"

namespace weir {

// Hidden rows in a slot: the last is what the draft head goes on from, and a state may be saved for as many tokens
// before the row's cursor as the recurrent layers can go back.
inline constexpr int64_t kHiddenRing = 16;
static_assert(kHiddenRing > kGdnRollbackMax);

// Pages and state slots. Addresses are the device's: only its executor follows them.
class Caches {
 public:
  virtual ~Caches() = default;
  virtual std::byte* page(PageClassId page_class, PageId page) const = 0;
  // Null for models without recurrent layers.
  virtual std::byte* slot(StateSlotId slot) const = 0;
  // In host memory: where the slot keeps the normed hidden row [D] of a token, one of the last kHiddenRing. Null where
  // it keeps none.
  virtual float* hidden_row(StateSlotId, int64_t /*position*/) const { return nullptr; }
  virtual void zero_slot(StateSlotId slot) = 0;
  virtual void copy_page(PageClassId page_class, PageId from, PageId to) = 0;
  virtual void copy_slot(StateSlotId from, StateSlotId to) = 0;
  virtual int64_t bytes() const = 0;
};

// In StepBatch::tokens, the last token that the device sampled for a row, where the host does not know it yet; ids are
// never negative.
constexpr int32_t last_sampled_of(int32_t row) {
  return -1 - row;
}
constexpr int32_t row_of_last_sampled(int32_t token) {
  return -1 - token;
}

// A sequence of the step: its numeric family and its row of the batch table, [0, ExecutorLimits::sequences).
struct StepSequence {
  RowRole role = RowRole::kPrompt;
  int32_t row = 0;
};

// What becomes of a sampled row's logits.
struct SampleRequest {
  const SamplingParams* params = nullptr;
  int64_t position = 0;      // absolute, of the token being sampled
  int64_t output_count = 0;  // tokens generated before it
  int32_t row = 0;           // of the batch table: where the device keeps the token
  bool on_device = false;    // the device samples, else the host gets the logits
};

// One step as the operations see it. enqueue() reads all but `sampled`, which lives until the step has been collected.
struct StepBatch {
  std::span<const int32_t> tokens;          // [T]: ids, or last_sampled_of(row)
  std::span<const KvSequence> kv;           // [S] of the page class that the program's attention uses
  std::span<const GdnSequence> gdn;         // [S], empty for programs without recurrent layers
  std::span<const StepSequence> sequences;  // [S]
  std::span<const int32_t> sampled;         // [R] rows of T whose logits are wanted
  std::span<const SampleRequest> requests;  // [R]; empty: the host gets the logits of every row
};

// What a device's sampler gives for a row whose logits have a NaN or an infinity.
inline constexpr TokenId kNotFiniteToken = -1;

// What sampled rows [first, first + count) gave, in host memory, valid in the call only. A row holds either the token
// that the device sampled or its logits and normed hidden row; the arrays are null where no row of the block needs
// them.
struct SampledBlock {
  int64_t first = 0;
  int64_t count = 0;
  const float* logits = nullptr;    // [count, V]
  const float* normed = nullptr;    // [count, D]
  const TokenId* tokens = nullptr;  // [count]
};

// Runs a program's operations in order.
class Executor {
 public:
  using Consume = std::function<void(const SampledBlock&)>;
  virtual ~Executor() = default;
  // The rows [first, first + count) that a draft program is fed with: rows [count, D].
  virtual void set_hidden(int64_t first, int64_t count, const float* rows) = 0;

  // Steps that may be enqueued and not collected. 1: the host computes, or waits for the device; enqueue() and
  // collect() alternate.
  virtual int32_t steps_ahead() const { return 1; }
  // Whether the device samples rows of these parameters. It must not for rows of which the host wants logits.
  virtual bool samples(const SamplingParams&) const { return false; }
  // Begins a step.
  virtual void enqueue(const StepBatch& batch) = 0;
  // Whether collect() would not wait.
  virtual bool ready() { return true; }
  // Ends the oldest step: hands out its sampled rows block by block, in order.
  virtual void collect(const Consume& consume) = 0;

  // The rows `rows` of the step collected last as the final norm gives them, [rows.size(), D]: what a draft program is
  // fed with. Until the next enqueue(); on the CPU alone.
  virtual void normed_rows(std::span<const int32_t>, float*) { WEIR_CHECK(false, "no normed rows on this device"); }

  // A whole step.
  void run(const StepBatch& batch, const Consume& consume) {
    enqueue(batch);
    collect(consume);
  }
  // Bytes of the program's buffers.
  virtual int64_t buffer_bytes() const = 0;
  // By the device's clock; null where it has none of its own.
  virtual StepTimes* step_times() { return nullptr; }
};

// Bytes of the work buffers that steps of `rows` tokens need on the CPU; a GPU's are about as large.
int64_t work_bytes(const ModelConfig& config, const Program& program, int64_t rows);

// Sampled rows whose logits exist at once: enough for a full decode step of a usual server in one pass over the head.
inline constexpr int64_t kHeadBlockRows = 64;

// The most that an executor will be asked for in one step.
struct ExecutorLimits {
  int64_t rows = 0;        // tokens
  int64_t sequences = 0;   // with work
  int64_t positions = 0;   // of a sequence
  int64_t vocabulary = 0;  // ids that may be sampled; 0: all
};

class Drafter;

// Addresses inside are stable: a model lives behind a pointer.
struct Model {
  ModelConfig config;
  std::unique_ptr<Cpu> cpu;  // the host's threads, for what is done there on every device
  Program program;           // the backbone
  // Which ids the draft program's logits are of; empty: of all. make_draft_program() takes their number.
  std::vector<TokenId> draft_ids;

  virtual ~Model() = default;
  virtual bool has_draft_head() const = 0;
  // Whether its device can run the draft head beside live sequences.
  virtual bool can_draft() const { return has_draft_head(); }
  // "CPU, 2 threads, avx512".
  virtual std::string device_text() const = 0;
  // Bytes of the weights as held.
  virtual int64_t weight_bytes() const = 0;
  // One layer's part of a page and of a slot.
  virtual CacheSizes cache_sizes() const = 0;
  // `pages` per class of `layout`, and `slots` state slots.
  virtual Result<std::unique_ptr<Caches>> make_caches(const CacheLayout& layout, const std::vector<int32_t>& pages,
                                                      int32_t slots) = 0;
  // For `program`, which must outlive the executor, on caches that make_caches gave.
  virtual Result<std::unique_ptr<Executor>> make_executor(const Program& program, Caches* caches,
                                                          const ExecutorLimits& limits) = 0;
  // For steps that `main` runs on `caches`, laid out with draft pages; borrows them. The CPU's, unless overridden.
  virtual Result<std::unique_ptr<Drafter>> make_drafter(Caches* caches, Executor* main, const RunnerLimits& limits);
};

}  // namespace weir
