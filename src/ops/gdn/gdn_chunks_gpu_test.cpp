#include "ops/gdn/gdn_chunks_gpu.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>

#include "ops/gdn/gdn_test_tools.h"
#include "ops/gdn/slot.h"

namespace weir {
namespace {

using namespace gdn_test;

void expect_slots_near(const SlotValues& got, const SlotValues& expected, double most, const std::string& what) {
  EXPECT_LT(relative_difference(got.log_decay, expected.log_decay), most)
      << what << ", log decay, " << worst(got.log_decay, expected.log_decay, 1);
  EXPECT_LT(relative_difference(got.inputs, expected.inputs), 1e-9)
      << what << ", inputs, " << worst(got.inputs, expected.inputs, 128);
  EXPECT_LT(relative_difference(got.keys, expected.keys), most)
      << what << ", keys, " << worst(got.keys, expected.keys, 128);
  EXPECT_LT(relative_difference(got.update, expected.update), most)
      << what << ", updates, " << worst(got.update, expected.update, 128);
  EXPECT_LT(relative_difference(got.state, expected.state), most)
      << what << ", state, " << worst(got.state, expected.state, 128);
}

class GdnPacked : public GpuTest {
 protected:
  static GdnShape shape_of(int64_t key_heads, int64_t ratio) { return {key_heads, key_heads * ratio, 128, 128, 1e-6F}; }
  // Rows of one sequence in steps of `step` rows.
  Floats in_steps(Family family, const Layer& layer, const Inputs& inputs, int64_t step) {
    Mixer mixer(gpu(), layer, inputs, 1);
    for (int64_t t = 0; t < inputs.rows; t += step) {
      mixer.run(family, {{0, t, std::min(step, inputs.rows - t), t}});
    }
    return mixer.y();
  }
};

TEST_F(GdnPacked, FewRowsAgreeWithTheRecurrence) {
  for (const int64_t ratio : {2, 1, 4}) {
    const Layer layer(shape_of(2, ratio));
    const Inputs inputs(layer.shape, 10, 140);
    const Floats expected = expected_rows(layer, inputs);
    const int64_t width = layer.shape.values();
    for (const int64_t rows : {1, 2, 5, 20, 63, 64, 65, 66, 140}) {
      const Floats wanted = head_of(expected, rows, width);
      const auto wanted_slot = cpu_slot(layer, inputs, rows);
      for (const GdnRowsKernel kernel : kRowsKernels) {
        Mixer mixer(gpu(), layer, inputs, 1);
        mixer.rows_kernel = kernel;
        for (int64_t t = 0; t < rows;) {
          const int64_t count = std::min(rows - t, t % 3 == 0 ? int64_t{1} : int64_t{6});
          mixer.run(Family::kRows, {{0, t, count, t}});
          t += count;
        }
        const std::string what =
            rows_name(layer.shape, kernel) + ", ratio " + std::to_string(ratio) + ", " + std::to_string(rows) + " rows";
        const Floats got = head_of(mixer.y(), rows, width);
        // A few values are rounded the other way.
        EXPECT_LT(relative_difference(got, wanted), 3e-4) << what << ", " << worst(got, wanted, width);
        const std::vector<uint8_t> slot = mixer.slot(0);
        expect_slots_near(slot_values(layer.shape, slot.data() + kOffset, rows - gdn_base_before(rows), true),
                          wanted_slot, 1e-5, what);
      }
    }
  }
}

// Steps of several sequences, each step by the kernel that `kernel_of` says for its number. Every second step of one to
// eight rows begins with as many rows of other tokens, which are taken back.
class SplitSteps {
 public:
  static constexpr int64_t kSequences = 3;
  static constexpr int64_t kRows = 160;

  SplitSteps(Gpu gpu, const Layer& layer, const Inputs& inputs) : mixer_(gpu, layer, inputs, kSequences) {}
  // `step`: rows a step; 0: one to eight by turns.
  void run(int64_t step, const std::function<GdnRowsKernel(int64_t)>& kernel_of) {
    int64_t number = 0;
    for (int64_t t = 0; t < kRows;) {
      const int64_t count = std::min(kRows - t, step > 0 ? step : number % 8 + 1);
      // Where the state has moved nothing can be taken back.
      const bool stays = gdn_base_before(t + count) == gdn_base_before(t);
      if (count <= 8 && stays && number % 2 == 1) launch(t, count, kRows - t - count, kernel_of(number + 1));
      launch(t, count, 0, kernel_of(number));
      t += count;
      ++number;
    }
  }
  Floats y() const { return mixer_.y(); }
  std::vector<uint8_t> slot(int64_t i) const { return mixer_.slot(i); }

 private:
  // `ahead`: of the place where a row's inputs belong.
  void launch(int64_t position, int64_t count, int64_t ahead, GdnRowsKernel kernel) {
    std::vector<Piece> pieces;
    for (int64_t i = 0; i < kSequences; ++i) pieces.push_back({i, i * kRows + position + ahead, count, position});
    mixer_.rows_kernel = kernel;
    mixer_.run(Family::kRows, pieces);
  }
  Mixer mixer_;
};

TEST_F(GdnPacked, ARowsBitsDoNotDependOnHowAHeadIsSplit) {
  for (const int64_t ratio : {1, 2, 4}) {
    const Layer layer(shape_of(2, ratio));
    const Inputs inputs(layer.shape, 35, SplitSteps::kRows * SplitSteps::kSequences);
    for (const int64_t step : {1, 5, 8, 0, 90}) {
      SplitSteps first(gpu(), layer, inputs);
      first.run(step, [](int64_t) { return GdnRowsKernel::kFew; });
      const Floats wanted = first.y();
      const auto expect_same = [&](const std::string& by, const std::function<GdnRowsKernel(int64_t)>& kernel_of) {
        SplitSteps steps(gpu(), layer, inputs);
        steps.run(step, kernel_of);
        const std::string what = "ratio " + std::to_string(ratio) + ", steps of " + std::to_string(step) + ", " + by;
        const Floats got = steps.y();
        EXPECT_TRUE(cases::same_bits(got, wanted)) << what << ", " << worst(got, wanted, layer.shape.values());
        for (int64_t i = 0; i < SplitSteps::kSequences; ++i) {
          EXPECT_EQ(steps.slot(i), first.slot(i)) << what << ", sequence " << i;
        }
      };
      expect_same("a head a block", [](int64_t) { return GdnRowsKernel::kMany; });
      // Either leads over a step, so that the state moves in either, whichever step that is.
      for (const int64_t turn : {0, 1}) {
        expect_same("by turns",
                    [&](int64_t number) { return number % 2 == turn ? GdnRowsKernel::kMany : GdnRowsKernel::kFew; });
      }
    }
  }
}

TEST_F(GdnPacked, PromptsAgreeWithTheRecurrence) {
  for (const int64_t ratio : {2, 1, 4}) {
    for (const int64_t rows : {1, 5, 16, 17, 63, 64, 65, 200}) {
      const Layer layer(shape_of(2, ratio));
      const Inputs inputs(layer.shape, 20, rows);
      const Floats expected = expected_rows(layer, inputs);
      Mixer mixer(gpu(), layer, inputs, 1);
      mixer.run(Family::kChunks, {{0, 0, rows, 0}});
      const std::string what = "ratio " + std::to_string(ratio) + ", " + std::to_string(rows) + " rows";
      const Floats got = mixer.y();
      EXPECT_LT(relative_difference(got, expected), 2e-3) << what << ", " << worst(got, expected, layer.shape.values());
      const std::vector<uint8_t> slot = mixer.slot(0);
      expect_slots_near(slot_values(layer.shape, slot.data() + kOffset, rows - gdn_base_before(rows), true),
                        cpu_slot(layer, inputs, rows), 1e-3, what);
    }
  }
}

TEST_F(GdnPacked, ARowsBitsDoNotDependOnWhereStepsBegin) {
  const Layer layer(shape_of(1, 2));
  const Inputs inputs(layer.shape, 30, 200);
  for (const Family family : {Family::kRows, Family::kChunks}) {
    const Floats all = in_steps(family, layer, inputs, 200);
    for (const int64_t step : {1, 7, 29, 64, 65, 130}) {
      const Floats got = in_steps(family, layer, inputs, step);
      EXPECT_TRUE(cases::same_bits(got, all)) << (family == Family::kRows ? "rows" : "chunks") << " in steps of "
                                              << step << ", " << worst(got, all, layer.shape.values());
    }
  }
}

TEST_F(GdnPacked, SequencesSideBySideDoNotTouchEachOther) {
  const Layer layer(shape_of(2, 2));
  const Inputs inputs(layer.shape, 40, 330);
  const int64_t width = layer.shape.values();
  const std::vector<Piece> pieces = {{2, 0, 100, 0}, {0, 100, 1, 0}, {1, 101, 0, 0}, {3, 101, 165, 0}, {4, 266, 64, 0}};
  for (const Family family : {Family::kRows, Family::kChunks}) {
    Mixer together(gpu(), layer, inputs, 5);
    together.run(family, pieces);
    const Floats all = together.y();
    for (const Piece& piece : pieces) {
      Mixer alone(gpu(), layer, inputs, 1);
      alone.run(family, {{0, piece.row_begin, piece.row_count, 0}});
      const Floats one = alone.y();
      const auto begin = piece.row_begin * width;
      const auto end = begin + piece.row_count * width;
      EXPECT_TRUE(cases::same_bits({all.data() + begin, all.data() + end}, {one.data() + begin, one.data() + end}))
          << (family == Family::kRows ? "rows" : "chunks") << " from " << piece.row_begin;
    }
  }
}

TEST_F(GdnPacked, ManySequencesHaveTheBitsOfEachAlone) {
  constexpr int64_t kSequences = 37;
  const Layer layer(shape_of(2, 2));
  const auto first_count = [](int64_t i) { return i % 5 == 3 ? int64_t{64} : 5 * i % 71; };
  const auto second_count = [](int64_t i) { return i % 6; };
  std::vector<Piece> first;
  std::vector<Piece> second;
  int64_t rows = 0;
  for (int64_t i = 0; i < kSequences; ++i) {
    first.push_back({i, rows, first_count(i), 0});
    rows += first_count(i);
  }
  for (int64_t i = 0; i < kSequences; ++i) {
    second.push_back({i, rows, second_count(i), first_count(i)});
    rows += second_count(i);
  }
  const Inputs inputs(layer.shape, 60, rows);
  const int64_t width = layer.shape.values();
  Mixer together(gpu(), layer, inputs, kSequences);
  together.run(Family::kRows, first);
  together.run(Family::kRows, second);
  const Floats all = together.y();
  for (size_t i = 0; i < kSequences; ++i) {
    Mixer alone(gpu(), layer, inputs, 1);
    alone.run(Family::kRows, {{0, first[i].row_begin, first[i].row_count, 0}});
    alone.run(Family::kRows, {{0, second[i].row_begin, second[i].row_count, second[i].position}});
    const Floats one = alone.y();
    for (const Piece& piece : {first[i], second[i]}) {
      const auto begin = piece.row_begin * width;
      const auto end = begin + piece.row_count * width;
      EXPECT_TRUE(cases::same_bits({all.data() + begin, all.data() + end}, {one.data() + begin, one.data() + end}))
          << "sequence " << i << " from " << piece.position;
    }
    EXPECT_EQ(together.slot(static_cast<int64_t>(i)), alone.slot(0)) << "sequence " << i;
  }
}

TEST_F(GdnPacked, PromptsAndGeneratedRowsContinueEachOther) {
  const Layer layer(shape_of(1, 2));
  const Inputs inputs(layer.shape, 50, 210);
  const Floats expected = expected_rows(layer, inputs);
  for (const int64_t cut : {3, 40, 63, 64, 65, 128, 150}) {
    for (const bool prompt_first : {true, false}) {
      Mixer mixer(gpu(), layer, inputs, 1);
      const Family first = prompt_first ? Family::kChunks : Family::kRows;
      const Family second = prompt_first ? Family::kRows : Family::kChunks;
      mixer.run(first, {{0, 0, cut, 0}});
      mixer.run(second, {{0, cut, 210 - cut - 5, cut}});
      mixer.run(first, {{0, 205, 5, 205}});
      const Floats got = mixer.y();
      EXPECT_LT(relative_difference(got, expected), 2e-3)
          << (prompt_first ? "prompt, then rows at " : "rows, then prompt at ") << cut << ", "
          << worst(got, expected, layer.shape.values());
    }
  }
}

TEST_F(GdnPacked, RowsAreTakenBackByContinuingEarlier) {
  const Layer layer(shape_of(1, 2));
  const Inputs inputs(layer.shape, 60, 130);
  const Floats all = in_steps(Family::kRows, layer, inputs, 130);
  for (const int64_t position : {3, 20, 51, 100, 115}) {
    Mixer mixer(gpu(), layer, inputs, 1);
    mixer.run(Family::kRows, {{0, 0, position, 0}});
    mixer.run(Family::kRows, {{0, 0, kGdnRollbackMax, position}});  // other tokens' rows
    mixer.run(Family::kRows, {{0, position, 130 - position, position}});
    const int64_t width = layer.shape.values();
    const Floats got = mixer.y();
    EXPECT_TRUE(cases::same_bits({got.data() + position * width, got.data() + 130 * width},
                                 {all.data() + position * width, all.data() + 130 * width}))
        << position;
  }
}

// Few launches: check.sh has them searched for races.
TEST_F(GdnPacked, GeneratedRowsOfEitherKernelPassTheRingsEnd) {
  for (const int64_t ratio : {2, 4}) {
    const Layer layer(shape_of(1, ratio));
    constexpr int64_t kPrompt = 58;
    const Inputs inputs(layer.shape, 60, kPrompt + 14);
    std::vector<Floats> seen;
    for (const GdnRowsKernel kernel : kRowsKernels) {
      Mixer mixer(gpu(), layer, inputs, 1);
      mixer.rows_kernel = kernel;
      mixer.run(Family::kChunks, {{0, 0, kPrompt, 0}});
      int64_t t = kPrompt;
      for (const int64_t count : {1, 8, 1, 4}) {
        mixer.run(Family::kRows, {{0, t, count, t}});
        t += count;
      }
      EXPECT_EQ(t, inputs.rows);
      seen.push_back(mixer.y());
    }
    for (const Floats& one : seen) EXPECT_TRUE(cases::same_bits(one, seen.front())) << "ratio " << ratio;
  }
}

TEST_F(GdnPacked, PromptsOfMoreChunksThanALaunchHasTheBitsOfParts) {
  const Layer layer(shape_of(1, 1));
  const Inputs inputs(layer.shape, 70, 64 * kGdnLaunchChunks + 150);
  const Floats all = in_steps(Family::kChunks, layer, inputs, inputs.rows);
  EXPECT_TRUE(cases::same_bits(in_steps(Family::kChunks, layer, inputs, 1000), all));
}

TEST_F(GdnPacked, TakesSoLong) {
  const GdnShape shape = shape_of(16, 2);
  const Layer layer(shape);
  {
    const Inputs inputs(shape, 80, 64);
    Mixer mixer(gpu(), layer, inputs, 64);
    for (const int64_t sequences : {1, 2, 8, 64}) {
      for (const int64_t position : {100, 127, 128}) {
        std::vector<Piece> pieces;
        for (int64_t i = 0; i < sequences; ++i) pieces.push_back({i, i, 1, position});
        mixer.prepare(pieces);
        const double us = micros(50, [&] { mixer.launch(Family::kRows); });
        const int64_t ring = position - gdn_base_before(position);
        const double bytes =
            static_cast<double>(sequences * ((shape.value_heads * (128 + ring) + shape.key_heads * ring) * 128 * 4 +
                                             (ring == 64 ? shape.value_heads * 128 * 128 * 4 : 0)));
        std::printf("gdn_rows, %3d sequences, %2d rows in the ring: %7.2f us, %.2f TB/s\n", static_cast<int>(sequences),
                    static_cast<int>(ring), us, bytes / us * 1e-6);
      }
    }
    std::vector<Piece> drafts;
    for (int64_t i = 0; i < 8; ++i) drafts.push_back({i, 8 * i, 8, 100});
    mixer.prepare({drafts[0]});
    std::printf("gdn_rows, 1 sequence of 8 rows: %.2f us\n", micros(50, [&] { mixer.launch(Family::kRows); }));
    mixer.prepare(drafts);
    std::printf("gdn_rows, 8 sequences of 8 rows: %.2f us\n", micros(50, [&] { mixer.launch(Family::kRows); }));
  }
  const Inputs inputs(shape, 90, 10000);
  Mixer mixer(gpu(), layer, inputs, 8);
  for (const int64_t rows : {64, 512, 2048, 10000}) {
    mixer.prepare({{0, 0, rows, 0}});
    const double us = micros(5, [&] { mixer.launch(Family::kChunks); });
    std::printf("gdn_chunks, %5d rows: %8.1f us, %.2f us a chunk\n", static_cast<int>(rows), us,
                us / (static_cast<double>(rows) / 64));
  }
  std::vector<Piece> pieces;
  for (int64_t i = 0; i < 8; ++i) pieces.push_back({i, 1250 * i, 1250, 0});
  mixer.prepare(pieces);
  std::printf("gdn_chunks, 8 x 1250 rows: %.1f us\n", micros(5, [&] { mixer.launch(Family::kChunks); }));
}

}  // namespace
}  // namespace weir
