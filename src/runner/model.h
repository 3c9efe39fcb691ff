// A model on a device: what the runner and the offline commands need of it, whatever the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "models/config.h"
#include "models/program.h"
#include "ops/attention/attention.h"
#include "ops/cpu/cpu.h"
#include "ops/gdn/gdn.h"
#include "plan/layout.h"

namespace weir {

// Pages and state slots. Addresses are the device's: only its executor follows them.
class Caches {
 public:
  virtual ~Caches() = default;
  virtual std::byte* page(PageClassId page_class, PageId page) const = 0;
  // Null for models without recurrent layers.
  virtual std::byte* slot(StateSlotId slot) const = 0;
  virtual void zero_slot(StateSlotId slot) = 0;
  virtual void copy_slot(StateSlotId from, StateSlotId to) = 0;
  virtual int64_t bytes() const = 0;
};

// One step as the operations see it. All spans live until the call returns.
struct StepBatch {
  std::span<const int32_t> tokens;   // [T]
  std::span<const KvSequence> kv;    // of the page class that the program's attention uses
  std::span<const GdnSequence> gdn;  // empty for programs without recurrent layers
  std::span<const int32_t> sampled;  // rows of T whose logits are wanted
};

// Logits and normed hidden rows of sampled rows [first, first + count): [count, V] and [count, D] in host memory, valid
// in the call only.
struct SampledBlock {
  int64_t first = 0;
  int64_t count = 0;
  const float* logits = nullptr;
  const float* normed = nullptr;
};

// Runs a program's operations in order.
class Executor {
 public:
  virtual ~Executor() = default;
  // The rows [first, first + count) that a draft program is fed with: rows [count, D].
  virtual void set_hidden(int64_t first, int64_t count, const float* rows) = 0;
  // Runs the body over the batch, then the head over the sampled rows, block by block.
  virtual void run(const StepBatch& batch, const std::function<void(const SampledBlock&)>& consume) = 0;
  // Bytes of the program's buffers.
  virtual int64_t buffer_bytes() const = 0;
};

// Bytes of the work buffers that steps of `rows` tokens need on the CPU; a GPU's are about as large.
int64_t work_bytes(const ModelConfig& config, const Program& program, int64_t rows);

// Sampled rows whose logits exist at once: enough for a full decode step of a usual server in one pass over the head.
inline constexpr int64_t kHeadBlockRows = 64;

// The most that an executor will be asked for in one step.
struct ExecutorLimits {
  int64_t rows = 0;       // tokens
  int64_t sequences = 0;  // with work
  int64_t positions = 0;  // of a sequence
};

// Addresses inside are stable: a model lives behind a pointer.
struct Model {
  ModelConfig config;
  std::unique_ptr<Cpu> cpu;  // the host's threads, for what is done there on every device
  Program program;           // the backbone

  virtual ~Model() = default;
  virtual bool has_draft_head() const = 0;
  // "CPU, 2 threads, avx512".
  virtual std::string device_text() const = 0;
  // Bytes of the weights as held.
  virtual int64_t weight_bytes() const = 0;
  // `pages` per class of `layout`, and `slots` state slots.
  virtual Result<std::unique_ptr<Caches>> make_caches(const CacheLayout& layout, const std::vector<int32_t>& pages,
                                                      int32_t slots) = 0;
  // For `program`, which must outlive the executor, on caches that make_caches gave.
  virtual Result<std::unique_ptr<Executor>> make_executor(const Program& program, Caches* caches,
                                                          const ExecutorLimits& limits) = 0;
};

}  // namespace weir
