// What the slot's ring of updates gains over a state that is written with every token: gdn_rows beside a kernel that
// does the latter (gdn_every_row_test.cu), and whether that one is right.
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string>
#include <utility>

#include "base/check.h"
#include "ops/gdn/gdn_test_tools.h"

namespace weir {

// The images of gdn_every_row_test.cu.
std::span<const device::KernelImage> gpu_test_images();

namespace {

using namespace gdn_test;

constexpr int kSplits[] = {1, 2, 4};  // blocks of a value head

// One row of each sequence, whose `base` means nothing.
void gdn_every_row(Gpu gpu, const GpuGdnPackedArgs& args, int split) {
  device::Grid grid;
  grid.x = int64_t{args.key_heads} * args.ratio * split;
  grid.y = args.sequence_count;
  grid.threads = 256;
  grid.cluster = split;
  grid.overlap = true;
  gpu.launch("weir_gdn_every_row_" + std::to_string(split), grid, args);
}

// Rows of `sequences` sequences at each of some positions, at each in several layers one after the other. Each layer
// has its own slots: so much memory passes by before a slot is met again that it has left the caches, as it has in a
// step of a model.
class Steps {
 public:
  // At most so many slots for up to 64 sequences.
  static constexpr int64_t kSlots = 256;

  Steps(Gpu gpu, const GpuGdnPackedArgs& args, std::byte* slots, int64_t slot_bytes, int64_t sequences)
      : gpu_(gpu), args_(args), slots_(slots), slot_bytes_(slot_bytes), layers_(std::max<int64_t>(4, 64 / sequences)) {
    WEIR_CHECK(layers_ * sequences <= kSlots, "{} sequences", sequences);
    args_.sequence_count = static_cast<int32_t>(sequences);
  }
  // Each position with the base that the slot has there.
  void prepare(const std::vector<std::pair<int64_t, int64_t>>& positions) {
    std::vector<GpuGdnSequence> table;
    for (const auto& [position, base] : positions) {
      for (int64_t i = 0; i < layers_ * args_.sequence_count; ++i) {
        GpuGdnSequence s;
        s.slot = reinterpret_cast<uint8_t*>(slots_ + i * slot_bytes_);
        s.row_begin = static_cast<int32_t>(i % args_.sequence_count);
        s.row_count = 1;
        s.position = static_cast<int32_t>(position);
        s.base = static_cast<int32_t>(base);
        table.push_back(s);
      }
    }
    table_ = OnDevice<GpuGdnSequence>(gpu_, table);
    next_ = 0;
  }
  int layers() const { return static_cast<int>(layers_); }
  // Launches for every position and layer once.
  int launches() const { return static_cast<int>(table_.size()) / args_.sequence_count; }
  // For the next launch: the layers of a position one after the other, then the next position, and all over again.
  const GpuGdnPackedArgs& next() {
    args_.sequences = table_.data() + int64_t{next_} * args_.sequence_count;
    next_ = (next_ + 1) % launches();
    return args_;
  }

 private:
  Gpu gpu_;
  GpuGdnPackedArgs args_;
  std::byte* slots_;
  int64_t slot_bytes_;
  int64_t layers_;
  OnDevice<GpuGdnSequence> table_;
  int next_ = 0;
};

class GdnEveryRow : public GpuTest {
 protected:
  void SetUp() override {
    std::vector<device::KernelImage> images(gpu_kernel_images().begin(), gpu_kernel_images().end());
    images.insert(images.end(), gpu_test_images().begin(), gpu_test_images().end());
    open(images);
  }
};

// The state that gdn_every_row left in a slot, in the order of slot.h: keys and values change places.
Floats state_in(const std::vector<uint8_t>& slot, const GpuGdnPackedArgs& args) {
  constexpr size_t kDim = 128;
  constexpr size_t kHead = kDim * kDim;
  const auto* written = reinterpret_cast<const float*>(slot.data() + args.slot_offset + args.state_offset);
  Floats state(static_cast<size_t>(args.key_heads) * static_cast<size_t>(args.ratio) * kHead);
  for (size_t i = 0; i < state.size(); ++i) {
    state[i / kHead * kHead + i % kDim * kDim + i / kDim % kDim] = written[i];
  }
  return state;
}

TEST_F(GdnEveryRow, AgreesWithTheRecurrence) {
  constexpr int64_t kBehind = 3;
  for (const int64_t ratio : {1, 2, 4}) {
    const Layer layer({2, 2 * ratio, 128, 128, 1e-6F});
    const Inputs inputs(layer.shape, 110, 90);
    const Floats expected = expected_rows(layer, inputs);
    const Floats state = cpu_slot(layer, inputs, 65).state;  // the base: behind 64 rows
    for (const int split : kSplits) {
      const std::string what = "ratio " + std::to_string(ratio) + ", split in " + std::to_string(split);
      Mixer mixer(gpu(), layer, inputs, 2);
      // The same sequence twice, side by side, the second some rows behind, so that its rows of the output stay.
      for (int64_t t = 0; t < inputs.rows + kBehind; ++t) {
        std::vector<Piece> pieces;
        if (t < inputs.rows) pieces.push_back({1, t, 1, t});
        if (t >= kBehind) pieces.push_back({0, t - kBehind, 1, t - kBehind});
        mixer.prepare(pieces);
        gdn_every_row(gpu(), mixer.args(), split);
        const Floats got = mixer.y();  // waits: the next launch reads the states before it would wait itself
        for (const auto& [slot, begin, count, position] : pieces) {
          const int64_t width = layer.shape.values();
          const Floats row(got.begin() + begin * width, got.begin() + (begin + 1) * width);
          const Floats wanted(expected.begin() + begin * width, expected.begin() + (begin + 1) * width);
          // A value that is rounded the other way may be most of its row.
          EXPECT_LT(relative_difference(row, wanted), 1e-2)
              << what << ", slot " << slot << ", token " << position << ", " << worst(row, wanted, width);
          if (position != 63) continue;
          const Floats left = state_in(mixer.slot(slot), mixer.args());
          EXPECT_LT(relative_difference(left, state), 1e-5)
              << what << ", slot " << slot << ", " << worst(left, state, 128);
        }
      }
      EXPECT_LT(relative_difference(mixer.y(), expected), 3e-4) << what;
    }
  }
}

// Bytes that a layer's row moves between a slot and the device's memory, for gdn_rows with so many rows in the ring.
double row_bytes(const GdnShape& shape, int64_t ring) {
  const int64_t state = shape.value_heads * 128 * 128;
  const int64_t rows = (shape.value_heads + shape.key_heads) * 128;
  return 4.0 * static_cast<double>(state + (ring == kGdnChunk ? state : 0) + (ring + 1) * rows +
                                   kGdnConvWidth * shape.channels());
}
double every_row_bytes(const GdnShape& shape) {
  return 4.0 * static_cast<double>(2 * shape.value_heads * 128 * 128 + kGdnConvWidth * shape.channels());
}

TEST_F(GdnEveryRow, TakesSoLongBesideTheRing) {
  const Layer layer({16, 32, 128, 128, 1e-6F});
  const Inputs inputs(layer.shape, 120, 64);
  Mixer mixer(gpu(), layer, inputs, 1);
  const int64_t bytes = Steps::kSlots * mixer.slot_bytes();
  const device::Bytes slots = device_->allocate(bytes, "slots", "free memory").value();
  stream_.zero(slots.data(), bytes);
  std::vector<std::pair<int64_t, int64_t>> run;  // 64 tokens in a row, of which the last moves the state
  for (int64_t position = 129; position <= 192; ++position) run.emplace_back(position, gdn_base_before(position));
  std::printf(
      "us of a layer (TB/s of its slots); the ring's mean is over 64 tokens in a row, moving the state included\n");
  std::printf(
      "streams  no ring        32 rows        63 rows        64, moved      mean           every row written  "
      "its blocks a head: 1, 2, 4  ratio (of bytes)\n");
  for (const int64_t streams : {1, 2, 4, 8, 32, 64}) {
    Steps steps(gpu(), mixer.args(), slots.data(), mixer.slot_bytes(), streams);
    const auto print = [&](double us, double of_stream) {
      std::printf("%7.2f (%4.2f) ", us, of_stream * static_cast<double>(streams) / us * 1e-6);
    };
    const auto time = [&](const auto& launch) {
      // As many launches whatever the positions: 64 passes over the slots.
      const int repeats = static_cast<int>(kGdnChunk) * steps.layers();
      return micros(repeats, [&] { launch(steps.next()); });
    };
    Gpu device = gpu();
    const auto rows = [&](const GpuGdnPackedArgs& args) { gdn_rows(device, args); };
    steps.prepare(run);
    const double mean = time(rows);
    double mean_bytes = 0;
    for (int64_t ring = 1; ring <= kGdnChunk; ++ring) mean_bytes += row_bytes(layer.shape, ring) / kGdnChunk;
    std::printf("%7d ", static_cast<int>(streams));
    for (const int64_t ring : {0, 32, 63, 64}) {
      steps.prepare({{128 + ring, 128}});
      print(time(rows), row_bytes(layer.shape, ring));
    }
    print(mean, mean_bytes);
    steps.prepare({{192, 192}});
    double every[std::size(kSplits)];
    for (size_t i = 0; i < std::size(kSplits); ++i) {
      every[i] = time([&](const GpuGdnPackedArgs& args) { gdn_every_row(gpu(), args, kSplits[i]); });
    }
    const double best = *std::min_element(std::begin(every), std::end(every));
    print(best, every_row_bytes(layer.shape));
    std::printf("    %7.2f %7.2f %7.2f     %.2f (%.2f)\n", every[0], every[1], every[2], best / mean,
                every_row_bytes(layer.shape) / mean_bytes);
    for (const GdnRowsKernel kernel : kRowsKernels) {
      const auto by = [&](const GpuGdnPackedArgs& args) { gdn_rows_by(device, args, kernel); };
      std::printf("        %-12s no ring", rows_name(layer.shape, kernel).c_str());
      steps.prepare({{128, 128}});
      std::printf("%8.2f, 63 rows", time(by));
      steps.prepare({{191, 128}});
      std::printf("%8.2f, 64, moved", time(by));
      steps.prepare({{192, 128}});
      std::printf("%8.2f, mean", time(by));
      steps.prepare(run);
      std::printf("%8.2f\n", time(by));
    }
  }
}

}  // namespace
}  // namespace weir
