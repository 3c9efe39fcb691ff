// Times the operations of a model on a GPU one by one, and the decode step as a whole: a graph runs one operation of
// all layers after each other, so that no layer's weights are found in the second-level cache, and the time is divided.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "decode/sampler.h"
#include "plan/layout.h"
#include "runner/gpu_model.h"
#include "runner/gpu_units.h"

namespace weir {

struct UnitTime {
  double micros = 0;    // by the device's clock
  std::string kernels;  // that were launched, in order
  // Of each kernel, launches of one name together, in the order of their first: with nothing beside it, so their sum is
  // more than `micros`. Empty for few generated rows.
  struct Kernel {
    std::string_view name;
    double micros = 0;
  };
  std::vector<Kernel> parts;
};

class PackedProfile {
 public:
  // Caches of the layout, filled with random keys and values; work memory for steps within the limits. Borrows the
  // model. kUnsupported: the model runs on the plain kernels.
  static Result<std::unique_ptr<PackedProfile>> create(GpuModel* model, const CacheLayout& layout,
                                                       const RunnerLimits& limits);

  // Whether the pages and slots hold `sequences` sequences of `context` tokens and one more each.
  bool fits(int64_t sequences, int64_t context) const;

  // A step of random tokens: one generated row for each of `rows` sequences of about `context` tokens (to the next
  // multiple of 64: every remainder as often), on pages of their own;
  // or the first `rows` tokens of one prompt. Programmer error: what does not fit the limits. After it, the body has
  // run once.
  Status lay_out(const UnitRows& rows, int64_t context);

  // One layer's part of the unit, the best of several runs.
  Result<UnitTime> time(const GpuUnit& unit);
  // Microseconds of the whole step, from its first kernel to the sampled tokens.
  Result<double> time_step();
  // Mean over the sparse layers of the distinct experts that the step's rows chose.
  Result<double> distinct_experts();

 private:
  using Job = std::function<void()>;
  explicit PackedProfile(GpuModel* model) : model_(model) {}
  Status fill_pages(int64_t page_bytes);
  void add_sequence(int64_t index, int64_t row_begin, int64_t row_count, int64_t position, RowRole role);
  void run(const Operation& operation, bool head);
  void embed();
  Result<double> best_micros(const Job& job);
  Result<std::vector<UnitTime::Kernel>> kernel_micros(const GpuUnit& unit);

  GpuModel* model_;
  RunnerLimits limits_;
  std::unique_ptr<Caches> caches_;
  std::unique_ptr<PackedExecutor> executor_;
  device::Bytes other_;  // memory that is read between runs, so that the cache holds nothing of the model's
  device::Event begin_;
  device::Event end_;

  // The step, as long as it is laid out.
  SamplingParams greedy_;
  std::vector<int32_t> tokens_;
  std::vector<std::vector<std::byte*>> pages_;
  std::vector<KvSequence> kv_;
  std::vector<GdnSequence> gdn_;
  std::vector<StepSequence> sequences_;
  std::vector<int32_t> sampled_;
  std::vector<SampleRequest> requests_;
};

}  // namespace weir
