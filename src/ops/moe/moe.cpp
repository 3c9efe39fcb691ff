#include "ops/moe/moe.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "ops/cpu/kernel_table.h"
#include "ops/moe/feed_forward.h"

namespace weir {
namespace {

int64_t slots_of(const PackedMoe& w) {
  return w.top_k + (w.shared_gate.empty() ? 0 : 1);
}

int64_t width_of(const PackedMoe& w) {
  const int64_t shared = w.shared_gate.empty() ? 0 : w.shared.gate.n();
  return round_up(std::max(w.experts.front().gate.n(), shared), 16);
}

int64_t jobs_max(const PackedMoe& w, int64_t assignments) {
  return static_cast<int64_t>(w.experts.size()) + 1 + assignments / kLinearTaskRows + 1;
}

FeedForwardArgs slice_of(const FeedForwardArgs& args, int64_t row) {
  FeedForwardArgs slice = args;
  slice.x += row * args.x_stride;
  slice.y += row * args.y_stride;
  slice.rows = std::min(args.rows - row, kFeedForwardRows);
  return slice;
}

void add_jobs(FeedForwardSlice& slice, const PackedMlp& expert, int64_t first, int64_t count) {
  for (int64_t done = 0; done < count; done += kLinearTaskRows) {
    slice.jobs[slice.job_count++] = {&expert, first + done, std::min(kLinearTaskRows, count - done), 0};
  }
}

// Routes of one slice and the assignments sorted by expert, the shared expert's rows first.
class MoeSlice {
 public:
  MoeSlice(Cpu& cpu, const PackedMoe& weights, const FeedForwardArgs& args)
      : cpu_(cpu), frame_(cpu), w_(weights), experts_total_(static_cast<int64_t>(weights.experts.size())) {
    slice_.args = args;
    slice_.slots = slots_of(weights);
    slice_.assignments = args.rows * slice_.slots;
    slice_.width = width_of(weights);
    slice_.jobs = frame_.take<ExpertJob>(jobs_max(weights, slice_.assignments));
    slice_.inputs = frame_.take<const float*>(slice_.assignments);
    logits_ = frame_.take<float>(args.rows * experts_total_);
    shared_logits_ = frame_.take<float>(args.rows);
    experts_ = frame_.take<int32_t>(args.rows * w_.top_k);
    part_weights_ = frame_.take<float>(slice_.assignments);
    places_ = frame_.take<int32_t>(slice_.assignments);
    next_ = frame_.take<int64_t>(experts_total_ + 1);
  }

  void run() {
    score();
    choose();
    sort();
    slice_.places = places_;
    slice_.part_weights = part_weights_;
    feed_forward(cpu_, slice_);
  }

 private:
  bool shared() const { return !w_.shared_gate.empty(); }

  void score() {
    const std::array<LinearOutput, 2> outputs = {
        {{&w_.router, logits_, experts_total_, false}, {&w_.shared_gate, shared_logits_, 1, false}}};
    LinearArgs linear;
    linear.x = slice_.args.x;
    linear.x_stride = slice_.args.x_stride;
    linear.rows = slice_.args.rows;
    linear.outputs = std::span(outputs).first(shared() ? 2 : 1);
    linear_group(cpu_, linear);
  }

  void choose() {
    // A row costs top_k passes over the logits: a task of 16 K looks takes about ten microseconds.
    const int64_t rows_per_task = std::max<int64_t>(1, 16 * 1024 / (experts_total_ * w_.top_k));
    const int64_t rows = slice_.args.rows;
    cpu_.pool().parallel_for((rows + rows_per_task - 1) / rows_per_task, [&](int64_t task, int) {
      for (int64_t row = task * rows_per_task; row < std::min(rows, (task + 1) * rows_per_task); ++row) {
        RouteRow route;
        route.logits = logits_ + row * experts_total_;
        route.experts_total = experts_total_;
        route.top_k = w_.top_k;
        route.experts = experts_ + row * w_.top_k;
        route.weights = part_weights_ + row * slice_.slots;
        route.shared_logit = shared() ? shared_logits_ + row : nullptr;
        cpu_.kernels().route_row(route);
      }
    });
  }

  void sort() {
    const int64_t rows = slice_.args.rows;
    const int64_t routed = rows * w_.top_k;
    std::fill_n(next_, experts_total_ + 1, 0);
    for (int64_t i = 0; i < routed; ++i) ++next_[experts_[i] + 1];
    int64_t first = shared() ? rows : 0;
    if (shared()) add_jobs(slice_, w_.shared, 0, rows);
    next_[0] = first;
    for (int64_t e = 0; e < experts_total_; ++e) {
      const int64_t count = next_[e + 1];
      add_jobs(slice_, w_.experts[static_cast<size_t>(e)], first, count);
      first += count;
      next_[e + 1] = first;
    }
    for (int64_t row = 0; row < rows; ++row) {
      const float* x = slice_.args.x + row * slice_.args.x_stride;
      int32_t* places = places_ + row * slice_.slots;
      for (int64_t k = 0; k < w_.top_k; ++k) {
        const int64_t place = next_[experts_[row * w_.top_k + k]]++;
        slice_.inputs[place] = x;
        places[k] = static_cast<int32_t>(place);
      }
      if (shared()) {
        slice_.inputs[row] = x;
        places[w_.top_k] = static_cast<int32_t>(row);
      }
    }
  }

  Cpu& cpu_;
  Cpu::Frame frame_;
  const PackedMoe& w_;
  int64_t experts_total_;
  FeedForwardSlice slice_;
  float* logits_ = nullptr;
  float* shared_logits_ = nullptr;
  int32_t* experts_ = nullptr;
  float* part_weights_ = nullptr;
  int32_t* places_ = nullptr;
  int64_t* next_ = nullptr;  // [X + 1]: the next free assignment of each expert
};

}  // namespace

int64_t PackedMoe::bytes() const {
  int64_t total = router.bytes() + shared_gate.bytes() + shared.bytes();
  for (const PackedMlp& expert : experts) total += expert.bytes();
  return total;
}

void route(Cpu& cpu, const RouteArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    RouteRow one;
    one.logits = args.logits + row * args.logits_stride;
    one.experts_total = args.experts_total;
    one.top_k = args.top_k;
    one.experts = args.experts + row * args.top_k;
    one.weights = args.weights + row * args.top_k;
    cpu.kernels().route_row(one);
  }
}

void moe(Cpu& cpu, const PackedMoe& weights, const FeedForwardArgs& args) {
  WEIR_CHECK(
      !weights.experts.empty() && weights.top_k > 0 && weights.top_k <= static_cast<int64_t>(weights.experts.size()),
      "top {} of {} experts", weights.top_k, weights.experts.size());
  for (int64_t row = 0; row < args.rows; row += kFeedForwardRows) MoeSlice(cpu, weights, slice_of(args, row)).run();
}

void mlp(Cpu& cpu, const PackedMlp& weights, const FeedForwardArgs& args) {
  for (int64_t row = 0; row < args.rows; row += kFeedForwardRows) {
    Cpu::Frame frame(cpu);
    FeedForwardSlice slice;
    slice.args = slice_of(args, row);
    const int64_t rows = slice.args.rows;
    slice.width = round_up(weights.gate.n(), 16);
    slice.slots = 1;
    slice.assignments = rows;
    slice.inputs = frame.take<const float*>(rows);
    auto* places = frame.take<int32_t>(rows);
    auto* ones = frame.take<float>(rows);
    slice.jobs = frame.take<ExpertJob>(kFeedForwardRows / kLinearTaskRows + 1);
    for (int64_t r = 0; r < rows; ++r) {
      slice.inputs[r] = slice.args.x + r * args.x_stride;
      places[r] = static_cast<int32_t>(r);
      ones[r] = 1.0F;
    }
    slice.places = places;
    slice.part_weights = ones;
    add_jobs(slice, weights, 0, rows);
    feed_forward(cpu, slice);
  }
}

int64_t moe_scratch_bytes(const PackedMoe& weights, int64_t rows, int threads) {
  constexpr int64_t kBlocks = 8;  // take() calls of MoeSlice
  const int64_t slice = std::min(rows, kFeedForwardRows);
  const auto experts = static_cast<int64_t>(weights.experts.size());
  const int64_t slots = slots_of(weights);
  const int64_t own = jobs_max(weights, slice * slots) * static_cast<int64_t>(sizeof(ExpertJob)) +
                      slice * (slots * 16 + experts * 4 + 4 + weights.top_k * 4) + (experts + 1) * 8 +
                      kBlocks * kCacheLine;
  return own + std::max(linear_scratch_bytes(threads),
                        feed_forward_scratch_bytes(width_of(weights), slice * slots, slots, threads));
}

int64_t mlp_scratch_bytes(const PackedMlp& weights, int64_t rows, int threads) {
  constexpr int64_t kBlocks = 4;  // take() calls of mlp
  const int64_t slice = std::min(rows, kFeedForwardRows);
  return slice * 16 + (kFeedForwardRows / kLinearTaskRows + 1) * static_cast<int64_t>(sizeof(ExpertJob)) +
         kBlocks * kCacheLine + feed_forward_scratch_bytes(round_up(weights.gate.n(), 16), slice, 1, threads);
}

}  // namespace weir
