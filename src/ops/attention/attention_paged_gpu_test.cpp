#include "ops/attention/attention_paged_gpu_test.h"

namespace weir {
namespace {

using paged_test::index_of;
using paged_test::kE;
using paged_test::kTheta;
using paged_test::Row;
using paged_test::row_of;
using paged_test::Sequence;
using paged_test::Shape;
using paged_test::World;

constexpr double kTolerance = 5e-3;  // outputs are rounded to bf16 (2e-3 on average), weights too

class PagedAttention : public GpuTest {};

TEST_F(PagedAttention, PrepareWritesQueriesAndPagesAsTheLayoutSays) {
  for (const Shape& shape : {Shape{2, 1, 32}, Shape{16, 2, 32}, Shape{3, 3, 0}, Shape{4, 2, 128}, Shape{2, 2, 5},
                             Shape{16, 2, 32, true}, Shape{3, 3, 5, true}}) {
    SCOPED_TRACE(::testing::Message() << shape.heads << " heads over " << shape.kv_heads << ", FP8 " << shape.fp8);
    World world(gpu(), shape, {70, 3}, 1);
    const std::vector<Row> rows = {{0, 0}, {1, 2}, {0, 69}, {0, 63}, {0, 13}};
    world.prepare(rows);
    const auto q = world.queries();
    int far = 0;
    int other = 0;
    // One step of the format: the kernel rounds from float32.
    const auto compare = [&](const char* what, const Row& row, int h, int e, float value, float want, float step) {
      if (std::abs(value - want) <= step * std::abs(want) + 1e-6F || far++ > 6) return;
      std::printf("  %s, sequence %d, position %d, head %d, column %d: %g, expected %g\n", what, row.sequence,
                  row.position, h, e, static_cast<double>(value), static_cast<double>(want));
    };
    for (size_t r = 0; r < rows.size(); ++r) {
      const Sequence& s = world.sequence(rows[r].sequence);
      const int t = rows[r].position;
      const int width = shape.heads * kE;
      for (int i = 0; i < width; ++i) {
        compare("query", rows[r], i / kE, i % kE, bf16_to_float(q[r * index_of(width) + index_of(i)]), s.q(t, 0)[i],
                0.008F);
      }
      for (int h = 0; h < shape.kv_heads; ++h) {
        for (int part = 0; part < 2; ++part) {
          const auto tile = world.tile_values(rows[r].sequence, t / kPagedTokens, h, part);
          for (int e = 0; e < kE; ++e) {
            const float value = tile[index_of(t % kPagedTokens * kE + e)];
            const float want = (part == 0 ? s.k(t, h) : s.v(t, h))[e];
            compare(part == 0 ? "key" : "value", rows[r], h, e, value, want, shape.fp8 ? 0.13F : 0.008F);
            // Values are rounded from what they are; of keys, few are that near to the middle between two numbers.
            if (part == 1) {
              EXPECT_EQ(value, want) << "column " << e;
            }
            other += value == want ? 0 : 1;
          }
        }
      }
    }
    EXPECT_EQ(far, 0);
    EXPECT_LE(other, static_cast<int>(rows.size()) * shape.kv_heads * kE / 100);
  }
}

// The scale is that of the row's largest number, whatever the others are, and codes are the reference's to the bit.
TEST_F(PagedAttention, RowsOfFp8HaveTheReferencesBitsAtEveryMagnitude) {
  const Shape shape{2, 1, 32, true};
  std::vector<std::vector<float>> rows;
  for (int power = -140; power <= 126; power += 7) {
    auto row = normal_values(kE, 1.0F, static_cast<uint64_t>(power + 1000));
    // A wide range within a row: down to what becomes subnormal codes and zeros.
    for (int e = 0; e < kE; ++e) row[index_of(e)] = std::ldexp(row[index_of(e)], power - e % 24);
    rows.push_back(row);
  }
  // Numbers between two codes and on them, each the even and the odd neighbour's, below 2^8, and of the subnormals.
  std::vector<float> ties;
  for (int i = 0; i < kE; ++i) ties.push_back(std::ldexp(static_cast<float>(16 + i % 32), i % 20 - 15));
  ties[7] = 255.0F;
  rows.push_back(ties);
  for (const float alone :
       {0.0F, -0.0F, 1.0F, 255.99F, 256.0F, 57'000.0F, 60'000.0F, -1e30F, 1e-38F, 1e-45F, INFINITY, -INFINITY, NAN}) {
    std::vector<float> row(kE, 0.25F);
    row[200] = alone;
    rows.push_back(row);
    rows.emplace_back(kE, alone);
  }
  const int tokens = static_cast<int>(rows.size());
  World world(gpu(), shape, {tokens}, 5);
  for (int t = 0; t < tokens; ++t) world.sequence(0).set_values(t, 0, rows[index_of(t)]);
  world.fill(0, tokens);
  for (int t = 0; t < tokens; ++t) {
    const auto tile = world.tile(0, t / kPagedTokens, 0, 1);
    const int token = t % kPagedTokens;
    std::vector<float> row = rows[index_of(t)];
    const uint8_t scale = paged_test::round_to_fp8(row.data());
    ASSERT_EQ(tile[index_of(kPagedFp8Codes + token)], scale) << "row " << t;
    for (int e = 0; e < kE; ++e) {
      const uint8_t code = scale == kFp8RowNan ? 0 : fp8_row_code(rows[index_of(t)][index_of(e)], scale);
      ASSERT_EQ(tile[index_of(paged_fp8_byte(token, e))], code) << "row " << t << ", column " << e;
    }
  }
}

// The products are those of bf16: nothing but the rounding of the pages tells the two apart.
TEST_F(PagedAttention, PagesOfFp8GiveTheBitsOfPagesOfBf16WithTheirValues) {
  for (const Shape& of : {Shape{2, 1, 32}, Shape{16, 2, 32}, Shape{32, 2, 32}, Shape{3, 3, 16}}) {
    Shape narrow = of;
    narrow.fp8 = true;
    for (const int tokens : {1, 40, 64, 65, 128, 400, 1300}) {
      SCOPED_TRACE(::testing::Message() << of.heads << " over " << of.kv_heads << ", " << tokens << " tokens");
      World fp8(gpu(), narrow, {tokens}, 80);
      World bf16(gpu(), of, {tokens}, 80);
      fp8.fill(0, tokens);
      // Drafts behind a token, as far as there are so many.
      std::vector<Row> rows;
      for (int t = std::max(0, tokens - 3); t < tokens; ++t) rows.push_back({0, t});
      bf16.prepare(rows);
      bf16.take_pages(fp8, 0);
      for (const int64_t segments : {4, 1024}) {
        const auto got = fp8.generated(rows, {segments, 3, false});
        EXPECT_EQ(got, bf16.attend(rows, {segments, 0, false})) << segments << " segments";
      }
      if (tokens <= kPagedSegment) {
        EXPECT_EQ(fp8.generated(rows, {1, 3, false}), bf16.attend(rows, {1, 0, false})) << "in a cluster";
      }
      const PromptRows prompt{0, tokens, 0, 0};
      const auto got = fp8.prompt({prompt});
      std::vector<Row> all;
      for (int t = 0; t < tokens; ++t) all.push_back({0, t});
      bf16.prepare(all);
      bf16.take_pages(fp8, 0);
      EXPECT_EQ(got, bf16.attend_prompt({prompt})) << "prompt rows";
    }
  }
}

TEST_F(PagedAttention, GeneratedRowsAgreeWithTheDefinition) {
  for (const Shape& shape : {Shape{2, 1, 32}, Shape{16, 2, 32}, Shape{32, 2, 32}, Shape{3, 3, 16}, Shape{6, 2, 32},
                             Shape{16, 2, 32, true}, Shape{3, 3, 16, true}}) {
    for (const int tokens : {1, 2, 63, 64, 65, 127, 128, 129, 256, 257, 500, 1300}) {
      World world(gpu(), shape, {tokens}, 7);
      world.fill(0, tokens - 1);
      const std::vector<Row> rows = {{0, tokens - 1}};
      SCOPED_TRACE(::testing::Message() << shape.heads << " over " << shape.kv_heads << ", " << tokens << " tokens");
      const auto spread = world.generated(rows, {6, 0, false});
      EXPECT_LT(world.difference(spread, rows), kTolerance) << "by pages";
      // So many segments that each is one block's.
      EXPECT_EQ(world.generated(rows, {1024, 0, false}), spread) << "by segments";
      EXPECT_EQ(world.generated(rows, {6, 1, false}), spread) << "old pages early";
      EXPECT_EQ(world.generated(rows, {1024, 1, false}), spread) << "old pages early, by segments";
      if (tokens > kPagedSegment) continue;
      EXPECT_EQ(world.generated(rows, {1, 1, false}), spread) << "in a cluster";
    }
  }
}

TEST_F(PagedAttention, AGeneratedRowsBitsAreThoseItHasAlone) {
  for (const Shape& shape : {Shape{16, 2, 32}, Shape{16, 2, 32, true}}) {
    SCOPED_TRACE(::testing::Message() << "FP8 " << shape.fp8);
    const std::vector<int> lengths = {700, 1, 64, 65, 333, 1025, 129};
    World world(gpu(), shape, lengths, 20);
    std::vector<Row> rows;
    for (size_t i = 0; i < lengths.size(); ++i) {
      const int sequence = static_cast<int>(i);
      world.fill(sequence, lengths[i] - 1);
      rows.push_back({sequence, lengths[i] - 1});
    }
    const auto together = world.generated(rows);
    EXPECT_LT(world.difference(together, rows), kTolerance);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(row_of(world.generated({rows[i]}), 0, shape), row_of(together, i, shape)) << "row " << i;
    }
    EXPECT_EQ(world.generated(rows, {8, 1, true}), together) << "by a list";
    EXPECT_EQ(world.generated(rows, {256, 1, true}), together) << "by segments";
  }
}

TEST_F(PagedAttention, ManyGeneratedRowsOfOneSegmentAreFinishedWithoutAMergeAndHaveTheSameBits) {
  for (const Shape& shape : {Shape{2, 1, 32}, Shape{2, 1, 32, true}}) {
    SCOPED_TRACE(::testing::Message() << "FP8 " << shape.fp8);
    World world(gpu(), shape, {kPagedSegment}, 60);
    std::vector<Row> rows;
    for (int i = 0; i < kPagedSegment; ++i) rows.push_back({0, i});
    const auto at_once = world.generated(rows, {1, 0, false});
    EXPECT_LT(world.difference(at_once, rows), kTolerance);
    EXPECT_EQ(world.generated(rows, {2, 0, false}), at_once) << "merged by segments";
    for (const int position : {0, 64, 200, kPagedSegment - 1}) {
      EXPECT_EQ(world.generated({{0, position}}, {1, 0, false}), row_of(at_once, index_of(position), shape))
          << "merged by pages, position " << position;
    }
  }
}

TEST_F(PagedAttention, MoreSegmentsThanAMergeHasLanesAndPagesThanARowHasBlocks) {
  for (const Shape& shape : {Shape{2, 1, 32}, Shape{2, 1, 32, true}}) {
    SCOPED_TRACE(::testing::Message() << "FP8 " << shape.fp8);
    constexpr int kTokens = 40 * kPagedSegment + 70;
    World world(gpu(), shape, {kTokens}, 70);
    world.fill(0, kTokens);
    std::vector<Row> rows;
    for (const int back : {1, 100, 600, 5000, 17'000, 20'000}) rows.push_back({0, kTokens - back});
    const auto spread = world.generated(rows, {64, 0, false});
    EXPECT_LT(world.difference(spread, rows), kTolerance);
    EXPECT_EQ(world.generated(rows, {1024, 0, false}), spread) << "by segments";
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(row_of(spread, i, shape), world.generated({rows[i]}, {64, 0, false})) << "row " << i;
    }
  }
}

TEST_F(PagedAttention, SeveralGeneratedRowsOfASequenceGiveTheBitsOfOneAfterAnother) {
  for (const Shape& shape : {Shape{16, 2, 32}, Shape{16, 2, 32, true}}) {
    SCOPED_TRACE(::testing::Message() << "FP8 " << shape.fp8);
    constexpr int kOld = 190;
    constexpr int kNew = 5;
    World world(gpu(), shape, {kOld + kNew}, 30);
    World other(gpu(), shape, {kOld + kNew}, 30);
    world.fill(0, kOld);
    other.fill(0, kOld);
    std::vector<Row> rows;
    for (int i = 0; i < kNew; ++i) rows.push_back({0, kOld + i});
    const auto together = world.generated(rows, {2, kNew, false});
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(row_of(other.generated({rows[i]}, {2, 1, false}), 0, shape), row_of(together, i, shape)) << "row " << i;
    }
  }
}

TEST_F(PagedAttention, PromptRowsAgreeWithTheDefinition) {
  for (const Shape& shape : {Shape{2, 1, 32}, Shape{16, 2, 32}, Shape{32, 2, 32}, Shape{3, 3, 16}, Shape{6, 2, 32},
                             Shape{16, 2, 32, true}, Shape{3, 3, 16, true}}) {
    for (const int tokens : {1, 2, 8, 17, 64, 65, 128, 300}) {
      World world(gpu(), shape, {tokens}, 40);
      std::vector<Row> rows;
      for (int i = 0; i < tokens; ++i) rows.push_back({0, i});
      EXPECT_LT(world.difference(world.prompt({{0, tokens, 0, 0}}), rows), kTolerance)
          << shape.heads << " heads over " << shape.kv_heads << ", " << tokens << " tokens";
    }
  }
}

TEST_F(PagedAttention, APromptInPartsBesideOthersGivesTheBitsOfTheWhole) {
  for (const Shape& shape : {Shape{2, 1, 32}, Shape{16, 2, 32}, Shape{6, 2, 32}, Shape{16, 2, 32, true}}) {
    constexpr int kTokens = 411;
    World world(gpu(), shape, {kTokens, 200}, 50);
    const auto whole = world.prompt({{0, kTokens, 0, 0}});
    const auto other = world.prompt({{0, 200, 1, 0}});
    for (const int part : {1, 7, 64, 100, 250}) {
      if (part == 1 && shape.heads != 2) continue;
      World again(gpu(), shape, {kTokens, 200}, 50);
      std::vector<uint16_t> y;
      std::vector<uint16_t> beside;
      for (int position = 0; position < kTokens; position += part) {
        const int count = std::min(part, kTokens - position);
        const int count_other = std::max(0, std::min(part, 200 - position));
        // The other sequence's rows come first.
        const auto step = again.prompt({{0, count_other, 1, position}, {count_other, count, 0, position}});
        const auto middle = step.begin() + count_other * shape.heads * kE;
        beside.insert(beside.end(), step.begin(), middle);
        y.insert(y.end(), middle, step.end());
      }
      EXPECT_EQ(y, whole) << shape.heads << " heads, parts of " << part;
      EXPECT_EQ(beside, other) << shape.heads << " heads, parts of " << part;
    }
  }
}

// The 35B's shape at 10,000 tokens, several layers in turn so that nothing stays in the cache.
class PagedAttentionTime : public PagedAttention {
 protected:
  static constexpr int kTokens = 10'000;
  static constexpr int kPages = (kTokens + kPagedTokens - 1) / kPagedTokens;
  static constexpr double kBytesPerMicro = 4.6e6;
  static constexpr double kOperationsPerMicro = 990e6;
  Shape shape_{16, 2, 32};

  // Memory full of small numbers.
  device::Bytes numbers(int64_t bytes, bool floats) {
    device::Bytes out = device_->allocate(bytes, "a test's array", "free memory").value();
    const auto values = normal_values(1 << 20, 1.0F, 5);
    const auto halves = bf16_values(values);
    int64_t done = std::min(bytes, floats ? int64_t{4 << 20} : int64_t{2 << 20});
    stream_.copy_in(out.data(), floats ? static_cast<const void*>(values.data()) : halves.data(), done);
    EXPECT_TRUE(stream_.wait().ok());
    for (; done < bytes; done *= 2) stream_.copy(out.data() + done, out.data(), std::min(done, bytes - done));
    EXPECT_TRUE(stream_.wait().ok());
    return out;
  }

  void make(int sequences, int rows, int layers) {
    const int64_t layer_bytes = paged_kv_bytes(shape_.kv_heads, shape_.fp8);
    pages_ = numbers(int64_t{sequences} * kPages * layers * layer_bytes, false);
    lists_.clear();
    std::vector<uint8_t* const*> lists;
    for (int s = 0; s < sequences; ++s) {
      std::vector<uint8_t*> list;
      for (int i = 0; i < kPages; ++i) {
        list.push_back(reinterpret_cast<uint8_t*>(pages_.data()) + (int64_t{s} * kPages + i) * layers * layer_bytes);
      }
      lists_.push_back(upload(list));
      lists.push_back(lists_.back().data());
    }
    list_ = upload(lists);
    const int64_t kv_bytes = int64_t{rows} * shape_.kv_heads * kE * 4;
    qg_ = numbers(int64_t{rows} * shape_.heads * 2 * kE * 4, true);
    for (auto* of : {&k_, &v_}) *of = numbers(kv_bytes, true);
    q_ = zeros<uint16_t>(index_of(rows * shape_.heads * kE));
    y_ = zeros<uint16_t>(index_of(rows * shape_.heads * kE));
    norm_ = zeros<float>(kE);
    const RopeTable rope(shape_.rope_half * 2, kTheta, 16384);
    coarse_ = upload(std::vector<RopeTable::Turn>(rope.coarse().begin(), rope.coarse().end()));
    fine_ = upload(std::vector<RopeTable::Turn>(rope.fine().begin(), rope.fine().end()));
    args_ = {};
    args_.qg = reinterpret_cast<float*>(qg_.data());
    args_.k = reinterpret_cast<float*>(k_.data());
    args_.v = reinterpret_cast<float*>(v_.data());
    args_.q = q_.data();
    args_.y = y_.data();
    args_.q_norm = args_.k_norm = norm_.data();
    args_.coarse = reinterpret_cast<const double*>(coarse_.data());
    args_.fine = reinterpret_cast<const double*>(fine_.data());
    args_.pages = list_.data();
    args_.qg_stride = int64_t{shape_.heads} * 2 * kE;
    args_.k_stride = args_.v_stride = int64_t{shape_.kv_heads} * kE;
    args_.y_stride = int64_t{shape_.heads} * kE;
    args_.heads = shape_.heads;
    args_.kv_heads = shape_.kv_heads;
    args_.rope_half = shape_.rope_half;
    args_.fp8 = shape_.fp8 ? 1 : 0;
  }

  void generated_rows();
  void prompt_rows();

  // A call of `layer`, the layers in turn.
  template <class Function>
  double micros_a_layer(int layers, const Function& layer) {
    int at = 0;
    return micros(32, [&] {
      GpuPagedAttentionArgs args = args_;
      args.page_offset = at++ % layers * paged_kv_bytes(shape_.kv_heads, shape_.fp8);
      layer(args);
    });
  }

  device::Bytes pages_, qg_, k_, v_;
  std::vector<OnDevice<uint8_t*>> lists_;
  OnDevice<uint8_t* const*> list_;
  OnDevice<uint16_t> q_, y_;
  OnDevice<float> norm_;
  OnDevice<RopeTable::Turn> coarse_, fine_;
  GpuPagedAttentionArgs args_;
};

// Segments as an engine rounds them, so that few graphs serve all steps.
int64_t segments_of(int tokens) {
  int64_t segments = 1;
  while (segments * kPagedSegment < tokens) segments *= 4;
  return segments;
}

// With prepare, in a chain by themselves, and what they add to a kernel of some microseconds before each, as in a
// model.
void PagedAttentionTime::generated_rows() {
  constexpr int kOthers = 400;
  std::vector<GpuRow> others;
  for (int i = 0; i < kOthers; ++i) others.push_back({0, i});
  const auto others_on_device = upload(others);
  for (const int rows : {1, 2, 4, 8, 16, 32, 64}) {
    const int layers = rows <= 2 ? 8 : 2;
    make(rows, kOthers, layers);
    for (const int tokens : {64, 1000, kTokens}) {
      std::vector<GpuRow> table;
      for (int i = 0; i < rows; ++i) table.push_back({i, tokens - 1});
      const auto on_device = upload(table);
      const int64_t segments = segments_of(tokens);
      const auto partial =
          zeros<float>(index_of(paged_attention_partial_bytes(shape_.heads, shape_.kv_heads, rows, segments)) / 4);
      args_.rows = on_device.data();
      args_.partial = partial.data();
      args_.fresh = 1;
      Gpu on = gpu();
      const auto other = [&](GpuPagedAttentionArgs a) {
        a.rows = others_on_device.data();
        paged_attention_prepare(on, a, kOthers);
      };
      const auto attend = [&](const GpuPagedAttentionArgs& a) {
        paged_attention_prepare(on, a, rows);
        paged_attention_rows(on, a, rows, segments);
      };
      const double time = micros_a_layer(layers, attend);
      const double before = micros_a_layer(layers, other);
      const double both = micros_a_layer(layers, [&](const GpuPagedAttentionArgs& a) {
        other(a);
        attend(a);
      });
      const double floor = 1.0 * rows * tokens * shape_.kv_heads * 2 * kE * (shape_.fp8 ? 1 : 2) / kBytesPerMicro;
      std::printf("  %2d rows of %5d: %6.2f us, %.0f %% of the floor; added to another kernel %6.2f us\n", rows, tokens,
                  time, 100 * floor / time, both - before);
    }
  }
}

void PagedAttentionTime::prompt_rows() {
  make(1, kTokens, 1);
  std::vector<GpuRow> table;
  for (int i = 0; i < kTokens; ++i) table.push_back({0, i});
  const auto on_device = upload(table);
  args_.rows = on_device.data();
  Gpu on = gpu();
  const double prepare = micros(10, [&] { paged_attention_prepare(on, args_, kTokens); });
  const double bytes = double{kTokens} * kE * (shape_.heads * 6.0 + shape_.kv_heads * (shape_.fp8 ? 10.0 : 12.0));
  std::printf("  prepare %d rows: %.1f us, %.0f %% of the floor\n", kTokens, prepare,
              100 * bytes / kBytesPerMicro / prepare);
  for (const int rows : {512, 2048, kTokens}) {
    const std::vector<PromptRows> prompt = {{kTokens - rows, rows, 0, kTokens - rows}};
    const auto list = paged_attention_tiles(prompt, shape_.group());
    const auto tiles = upload(list);
    args_.tiles = tiles.data();
    const double time = micros(10, [&] { paged_attention_prompt(on, args_, static_cast<int64_t>(list.size())); });
    const double seen = 1.0 * rows * (2.0 * kTokens - rows) / 2;
    const double floor = 4 * shape_.heads * kE * seen / kOperationsPerMicro;
    std::printf("  the last %d prompt rows of 10k: %.1f us, %.0f %% of the floor\n", rows, time, 100 * floor / time);
  }
}

TEST_F(PagedAttentionTime, GeneratedRows) {
  generated_rows();
}
TEST_F(PagedAttentionTime, GeneratedRowsOverFp8) {
  shape_.fp8 = true;
  generated_rows();
}
TEST_F(PagedAttentionTime, PromptRows) {
  prompt_rows();
}
TEST_F(PagedAttentionTime, PromptRowsOverFp8) {
  shape_.fp8 = true;
  prompt_rows();
}

}  // namespace
}  // namespace weir
