// ops_bench [threads] [filter]: every operation at the shapes of the shipped model and of a 35B model, decode and
// prefill, beside the measured limits of this machine.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "ops/attention/attention.h"
#include "ops/cases.h"
#include "ops/cpu/machine.h"
#include "ops/gdn/gdn.h"
#include "ops/moe/moe.h"
#include "ops/norm/rms_norm.h"

namespace weir {
namespace {

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Bench {
 public:
  Bench(int threads, std::string filter)
      : cpu_({.threads = threads, .isa = std::nullopt, .pin = false}), filter_(std::move(filter)) {
    cpu_.reserve_scratch(256 << 20);
    limits_ = measure_machine(cpu_, 24 << 20);  // about the bytes of the shipped model
    fmt::print("{} threads, {}: {:.0f} GFLOP/s of multiply-adds, {:.1f} GB/s over {} MiB\n", limits_.threads,
               isa_name(cpu_.isa()), limits_.fma_gflops, limits_.read_gbs, limits_.working_set_bytes >> 20);
  }

  Cpu& cpu() { return cpu_; }
  bool wanted(const std::string& name) const { return name.find(filter_) != std::string::npos; }

  // Prints the median and the best time of `work`; of the best, the share of the multiply-add peak that `operations`
  // take and the share of the read rate that `bytes` take: the limits are the best of their runs too.
  template <class Work>
  void report(const std::string& name, double operations, double bytes, const Work& work) {
    constexpr double kSeconds = 0.15;
    std::vector<double> times;
    const double end = now_seconds() + kSeconds;
    work();
    do {
      const double start = now_seconds();
      work();
      times.push_back(now_seconds() - start);
    } while (now_seconds() < end || times.size() < 3);
    std::nth_element(times.begin(), times.begin() + static_cast<int64_t>(times.size() / 2), times.end());
    const double median = times[times.size() / 2];
    const double best = *std::min_element(times.begin(), times.end());
    fmt::print("{:44} {:9.1f} us {:9.1f} us {:8.1f} GFLOP/s {:5.1f} % {:8.1f} GB/s {:5.1f} %\n", name, median * 1e6,
               best * 1e6, operations / best * 1e-9, operations / best * 1e-7 / limits_.fma_gflops, bytes / best * 1e-9,
               bytes / best * 1e-7 / limits_.read_gbs);
  }

 private:
  Cpu cpu_;
  std::string filter_;
  MachineLimits limits_;
};

// Enough copies that one pass over them is the working set of a model, not of a cache.
template <class T, class Make>
std::vector<T> copies(int64_t bytes, const Make& make) {
  std::vector<T> list;
  for (int64_t total = 0; total < 24 << 20 || list.empty(); total += bytes) list.push_back(make());
  return list;
}

void bench_linear(Bench& bench, WeightFormat format, int64_t n, int64_t k) {
  const std::string name = fmt::format("linear {} {}x{}", weight_format_name(format), n, k);
  if (!bench.wanted(name)) return;
  const cases::Weight weight = cases::random_weight(1, format, n, k);
  const auto packed = copies<PackedMatrix>(weight.view.bytes(), [&] { return pack(weight.view); });
  for (const int64_t rows : {1, 2, 4, 8, 32, 256}) {
    const cases::Floats x = cases::random_floats(2, rows * k);
    cases::Floats y(static_cast<size_t>(rows * n));
    size_t next = 0;
    bench.report(fmt::format("{} M={}", name, rows), 2.0 * static_cast<double>(rows * n * k),
                 static_cast<double>(packed[0].bytes()), [&] {
                   linear(bench.cpu(), x.data(), k, rows, {&packed[next++ % packed.size()], y.data(), n, false});
                 });
  }
}

PackedMlp random_mlp(uint64_t seed, WeightFormat format, int64_t d, int64_t f) {
  return {pack(cases::random_weight(seed, format, f, d).view), pack(cases::random_weight(seed + 1, format, f, d).view),
          pack(cases::random_weight(seed + 2, format, d, f).view)};
}

void bench_moe(Bench& bench, int64_t d, int64_t f, int64_t experts, int64_t top_k) {
  const std::string name = fmt::format("moe D={} F={} {} of {}", d, f, top_k, experts);
  if (!bench.wanted(name)) return;
  PackedMoe block;
  block.router = pack(cases::random_weight(1, WeightFormat::kBf16, experts, d).view);
  block.shared_gate = pack(cases::random_weight(2, WeightFormat::kBf16, 1, d).view);
  block.shared = random_mlp(3, WeightFormat::kFp8Block, d, f);
  for (int64_t e = 0; e < experts; ++e) {
    block.experts.push_back(random_mlp(10 * static_cast<uint64_t>(e + 1), WeightFormat::kFp8Block, d, f));
  }
  block.top_k = top_k;
  for (const int64_t rows : {1, 4, 32, 256}) {
    const cases::Floats x = cases::random_floats(4, rows * d);
    cases::Floats y(static_cast<size_t>(rows * d));
    const double each = static_cast<double>(block.shared.bytes());
    const double used = std::min<double>(static_cast<double>(experts), static_cast<double>(rows * top_k)) + 1;
    bench.report(fmt::format("{} M={}", name, rows), static_cast<double>(6 * rows * d * f * (top_k + 1)), each * used,
                 [&] { moe(bench.cpu(), block, {x.data(), d, rows, y.data(), d, true}); });
  }
}

void bench_attention(Bench& bench, const AttentionShape& shape, int64_t context) {
  const std::string name =
      fmt::format("attention {}/{}x{} at {}", shape.heads, shape.kv_heads, shape.head_dim, context);
  if (!bench.wanted(name)) return;
  const int64_t e = shape.head_dim;
  const RopeTable rope(shape.rope_dim, 1e7, context + 4096);
  const cases::Floats norm = cases::random_floats(1, e, 0.1F);
  for (const int64_t rows : {1, 256}) {
    std::vector<cases::Floats> memory;
    std::vector<std::byte*> pages;
    for (int64_t t = 0; t < context + rows; t += kKvPageTokens) {
      memory.push_back(cases::random_floats(static_cast<uint64_t>(t), kv_page_bytes(shape) / 4));
      pages.push_back(reinterpret_cast<std::byte*>(memory.back().data()));
    }
    const cases::Floats qg = cases::random_floats(2, rows * shape.heads * 2 * e);
    const cases::Floats kv = cases::random_floats(3, rows * shape.kv_heads * e);
    cases::Floats y(static_cast<size_t>(rows * shape.heads * e));
    const KvSequence sequence{0, rows, context, pages.data()};
    AttentionArgs args;
    args.shape = shape;
    args.qg = qg.data();
    args.qg_stride = shape.heads * 2 * e;
    args.k = kv.data();
    args.k_stride = shape.kv_heads * e;
    args.v = kv.data();
    args.v_stride = shape.kv_heads * e;
    args.q_norm = norm.data();
    args.k_norm = norm.data();
    args.rope = &rope;
    args.sequences = {&sequence, 1};
    args.y = y.data();
    args.y_stride = shape.heads * e;
    // Each row sees the context, the rows before it and itself.
    const int64_t seen = rows * context + rows * (rows + 1) / 2;
    bench.report(fmt::format("{} M={}", name, rows), 4.0 * static_cast<double>(shape.heads * e * seen),
                 static_cast<double>(pages.size()) * static_cast<double>(kv_page_bytes(shape)),
                 [&] { attention(bench.cpu(), args); });
  }
}

void bench_gdn(Bench& bench, const GdnShape& shape) {
  const std::string name = fmt::format("gdn {}/{}x{}", shape.key_heads, shape.value_heads, shape.key_dim);
  if (!bench.wanted(name)) return;
  const cases::Floats conv = cases::random_floats(1, shape.channels() * kGdnConvWidth, 0.5F);
  const cases::Floats small = cases::random_floats(2, std::max(shape.value_heads, shape.value_dim));
  const GdnParameters parameters =
      make_gdn_parameters(shape, {conv.data(), shape.channels() * kGdnConvWidth}, {small.data(), shape.value_heads},
                          {small.data(), shape.value_heads}, {small.data(), shape.value_dim});
  for (const int64_t streams : {1, 32}) {
    for (const int64_t rows : {1, 64, 256}) {
      if (streams * rows > 256) continue;
      const int64_t total = streams * rows;
      const auto slots = copies<AlignedBytes>(gdn_slot_bytes(shape) * streams, [&] {
        AlignedBytes memory(gdn_slot_bytes(shape) * streams);
        return memory;
      });
      const cases::Floats u = cases::random_floats(3, total * shape.channels());
      const cases::Floats z = cases::random_floats(4, total * shape.values());
      const cases::Floats gates = cases::random_floats(5, total * shape.value_heads);
      cases::Floats y(static_cast<size_t>(total * shape.values()));
      std::vector<int64_t> position(slots.size(), 0);
      size_t next = 0;
      const int64_t vectors = shape.value_heads * shape.value_dim;
      // State products, the average ring, the fold.
      const double each = static_cast<double>(vectors) *
                              (2.0 * static_cast<double>(shape.key_dim) + 2 * 32 + static_cast<double>(shape.key_dim)) +
                          static_cast<double>(shape.key_heads * shape.key_dim) * 2 * 32;
      const auto work = [&] {
        const size_t slot = next++ % slots.size();
        std::vector<GdnSequence> sequences;
        for (int64_t s = 0; s < streams; ++s) {
          auto* base = const_cast<std::byte*>(slots[slot].data()) + s * gdn_slot_bytes(shape);
          sequences.push_back({s * rows, rows, position[slot], base});
        }
        position[slot] += rows;
        GdnArgs args;
        args.parameters = &parameters;
        args.u = u.data();
        args.u_stride = shape.channels();
        args.z = z.data();
        args.z_stride = shape.values();
        args.b = gates.data();
        args.b_stride = shape.value_heads;
        args.a = gates.data();
        args.a_stride = shape.value_heads;
        args.sequences = sequences;
        args.y = y.data();
        args.y_stride = shape.values();
        gdn(bench.cpu(), args);
      };
      const double bytes = static_cast<double>(streams * vectors * shape.key_dim * 4);
      bench.report(fmt::format("{} streams={} rows={}", name, streams, rows), 2.0 * each * static_cast<double>(total),
                   bytes, work);
    }
  }
}

void bench_regions(Bench& bench) {
  if (!bench.wanted("parallel region")) return;
  bench.report("parallel region of 2 empty tasks", 0, 0,
               [&] { bench.cpu().pool().parallel_for(2, [](int64_t, int) {}); });
}

}  // namespace
}  // namespace weir

int main(int argc, char** argv) {
  using weir::WeightFormat;
  weir::Bench bench(argc > 1 ? std::atoi(argv[1]) : 0, argc > 2 ? argv[2] : "");
  weir::bench_regions(bench);
  weir::bench_linear(bench, WeightFormat::kFp8Block, 1024, 256);
  weir::bench_linear(bench, WeightFormat::kFp8Block, 256, 512);
  weir::bench_linear(bench, WeightFormat::kBf16, 8192, 256);
  weir::bench_linear(bench, WeightFormat::kFp8Block, 2048, 2048);
  weir::bench_linear(bench, WeightFormat::kBf16, 2048, 2048);
  weir::bench_linear(bench, WeightFormat::kMxfp4, 2048, 2048);
  weir::bench_linear(bench, WeightFormat::kF32, 2048, 2048);
  weir::bench_moe(bench, 256, 128, 16, 4);
  weir::bench_moe(bench, 2048, 512, 64, 8);
  weir::bench_attention(bench, {2, 1, 256, 64, 1e-6F}, 1024);
  weir::bench_attention(bench, {2, 1, 256, 64, 1e-6F}, 8192);
  weir::bench_attention(bench, {16, 2, 256, 64, 1e-6F}, 32768);
  weir::bench_gdn(bench, {2, 4, 128, 128, 1e-6F});
  weir::bench_gdn(bench, {16, 32, 128, 128, 1e-6F});
  return 0;
}
