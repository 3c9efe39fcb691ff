#include "ops/attention/attention_paged_gpu.h"

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "ops/attention/attention.h"
#include "ops/gpu/gpu_test.h"

namespace weir {
namespace {

constexpr int kE = kPagedHeadDim;
constexpr double kTheta = 1e7;
constexpr int64_t kOffset = 4096;  // the layer's part does not begin the page

struct Shape {
  int heads = 2;
  int kv_heads = 1;
  int rope_half = 32;
  int group() const { return heads / kv_heads; }
};

struct Row {
  int sequence = 0;
  int position = 0;
};

struct Inputs {
  std::vector<float> qg;
  std::vector<float> k;
  std::vector<float> v;
};

size_t index_of(int64_t i) {
  return static_cast<size_t>(i);
}

float round_to_bf16(double x) {
  return bf16_to_float(float_to_bf16(static_cast<float>(x)));
}

// One sequence: its inputs, and what they become by the definition, in double but for the roundings to bf16.
class Sequence {
 public:
  Sequence(const Shape& shape, int tokens, uint64_t seed, const std::vector<float>& q_norm,
           const std::vector<float>& k_norm)
      : shape_(shape), tokens_(tokens) {
    in_.qg = normal_values(index_of(tokens * shape.heads * 2 * kE), 1.5F, seed);
    in_.k = normal_values(index_of(tokens * shape.kv_heads * kE), 1.5F, seed + 1);
    in_.v = normal_values(index_of(tokens * shape.kv_heads * kE), 1.0F, seed + 2);
    for (int t = 0; t < tokens; ++t) {
      for (int h = 0; h < shape.heads; ++h) prepare(&in_.qg[at(t, h, shape.heads) * 2], q_norm, t, &q_);
      for (int h = 0; h < shape.kv_heads; ++h) prepare(&in_.k[at(t, h, shape.kv_heads)], k_norm, t, &k_);
    }
    for (const float x : in_.v) v_.push_back(round_to_bf16(x));
  }

  int tokens() const { return tokens_; }
  const Inputs& inputs() const { return in_; }
  const float* q(int t, int h) const { return &q_[at(t, h, shape_.heads)]; }
  const float* k(int t, int h) const { return &k_[at(t, h, shape_.kv_heads)]; }
  const float* v(int t, int h) const { return &v_[at(t, h, shape_.kv_heads)]; }

  // y of one row: [H * E].
  std::vector<float> expected(int position) const {
    std::vector<float> y;
    for (int h = 0; h < shape_.heads; ++h) {
      const int kv = h / shape_.group();
      std::vector<double> weights;
      double largest = -INFINITY;
      for (int t = 0; t <= position; ++t) {
        double score = 0;
        for (int e = 0; e < kE; ++e) score += double{q(position, h)[e]} * double{k(t, kv)[e]};
        weights.push_back(score / 16.0);
        largest = std::max(largest, weights.back());
      }
      double total = 0;
      for (double& w : weights) total += w = std::exp(w - largest);
      const float* gate = &in_.qg[at(position, h, shape_.heads) * 2 + kE];
      for (int e = 0; e < kE; ++e) {
        double sum = 0;
        for (int t = 0; t <= position; ++t) sum += weights[index_of(t)] * double{v(t, kv)[e]};
        y.push_back(static_cast<float>(sum / total / (1.0 + std::exp(-double{gate[e]}))));
      }
    }
    return y;
  }

 private:
  static size_t at(int t, int h, int heads) { return (index_of(t) * index_of(heads) + index_of(h)) * kE; }

  void prepare(const float* x, const std::vector<float>& weight, int t, std::vector<float>* out) const {
    double sum = 0;
    for (int e = 0; e < kE; ++e) sum += double{x[e]} * double{x[e]};
    const double scale = 1.0 / std::sqrt(sum / kE + 1e-6);
    std::vector<double> y(kE);
    for (size_t e = 0; e < kE; ++e) y[e] = double{x[e]} * scale * (1.0 + double{weight[e]});
    const auto half = index_of(shape_.rope_half);
    for (size_t i = 0; i < half; ++i) {
      const double angle = t * std::pow(kTheta, -static_cast<double>(i) / static_cast<double>(half));
      const double a = y[i];
      const double b = y[i + half];
      y[i] = a * std::cos(angle) - b * std::sin(angle);
      y[i + half] = b * std::cos(angle) + a * std::sin(angle);
    }
    for (const double value : y) out->push_back(round_to_bf16(value));
  }

  Shape shape_;
  int tokens_;
  Inputs in_;
  std::vector<float> q_;
  std::vector<float> k_;
  std::vector<float> v_;
};

struct RowsCall {
  int64_t segments_max = 8;
  int32_t fresh = 0;
  bool list = false;  // rows named by a list, in reverse
};

// Sequences with shuffled pages on the device, all bytes 0xff where nothing was written.
class World {
 public:
  World(Gpu gpu, const Shape& shape, const std::vector<int>& tokens, uint64_t seed)
      : gpu_(gpu), shape_(shape), rope_(shape.rope_half * 2, kTheta, 32768) {
    const auto q_norm = normal_values(kE, 0.2F, 90);
    const auto k_norm = normal_values(kE, 0.2F, 91);
    size_t pages = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      sequences_.emplace_back(shape, tokens[i], seed + 10 * i, q_norm, k_norm);
      pages += page_count(tokens[i]);
    }
    const auto page_bytes = index_of(kOffset + paged_kv_bytes(shape.kv_heads));
    memory_ = OnDevice<uint8_t>(gpu, pages * page_bytes, 0xff);
    std::vector<size_t> order(pages);
    std::iota(order.begin(), order.end(), size_t{0});
    std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
    std::vector<uint8_t* const*> lists;
    for (const int count : tokens) {
      std::vector<uint8_t*> list;
      for (size_t i = 0; i < page_count(count); ++i) {
        list.push_back(memory_.data() + order.back() * page_bytes);
        order.pop_back();
      }
      lists_.emplace_back(gpu, list);
      lists.push_back(lists_.back().data());
    }
    pages_ = OnDevice<uint8_t* const*>(gpu, lists);
    q_norm_ = OnDevice<float>(gpu, q_norm);
    k_norm_ = OnDevice<float>(gpu, k_norm);
    coarse_ = OnDevice<RopeTable::Turn>(gpu, {rope_.coarse().begin(), rope_.coarse().end()});
    fine_ = OnDevice<RopeTable::Turn>(gpu, {rope_.fine().begin(), rope_.fine().end()});
  }

  const Sequence& sequence(int i) const { return sequences_[index_of(i)]; }

  // Puts the rows of a step on the device and prepares them.
  void prepare(const std::vector<Row>& rows) {
    Inputs in;
    std::vector<GpuRow> table;
    for (const Row& row : rows) {
      const Inputs& from = sequence(row.sequence).inputs();
      append(&in.qg, from.qg, row.position, shape_.heads * 2 * kE);
      append(&in.k, from.k, row.position, shape_.kv_heads * kE);
      append(&in.v, from.v, row.position, shape_.kv_heads * kE);
      table.push_back({row.sequence, row.position});
    }
    qg_ = OnDevice<float>(gpu_, in.qg);
    k_ = OnDevice<float>(gpu_, in.k);
    v_ = OnDevice<float>(gpu_, in.v);
    rows_ = OnDevice<GpuRow>(gpu_, table);
    const size_t width = rows.size() * index_of(shape_.heads * kE);
    q_ = OnDevice<uint16_t>(gpu_, width, 0x7fff);
    y_ = OnDevice<uint16_t>(gpu_, width, 0x7fff);
    paged_attention_prepare(gpu_, args(), static_cast<int64_t>(rows.size()));
  }
  // Keys and values of tokens [0, count) of a sequence are in their pages.
  void fill(int sequence, int count) {
    std::vector<Row> rows;
    for (int i = 0; i < count; ++i) rows.push_back({sequence, i});
    if (count > 0) prepare(rows);
  }

  // One step of generated rows: bf16 [T][H * E].
  std::vector<uint16_t> generated(const std::vector<Row>& rows, const RowsCall& call = {}) {
    prepare(rows);
    GpuPagedAttentionArgs a = args();
    const auto count = static_cast<int64_t>(rows.size());
    OnDevice<float> partial(
        gpu_, index_of(paged_attention_partial_bytes(shape_.heads, shape_.kv_heads, count, call.segments_max)) / 4,
        NAN);
    a.partial = partial.data();
    a.fresh = call.fresh;
    std::vector<int32_t> list(rows.size());
    std::iota(list.rbegin(), list.rend(), 0);
    const OnDevice<int32_t> on_device(gpu_, list);
    if (call.list) a.row_list = on_device.data();
    paged_attention_rows(gpu_, a, count, call.segments_max);
    return y_.read();
  }

  // One step of prompt rows.
  std::vector<uint16_t> prompt(const std::vector<PromptRows>& prompts) {
    std::vector<Row> rows;
    for (const PromptRows& p : prompts) {
      for (int64_t i = 0; i < p.row_count; ++i) {
        rows.push_back({static_cast<int>(p.sequence), static_cast<int>(p.position + i)});
      }
    }
    prepare(rows);
    const auto list = paged_attention_tiles(prompts, shape_.group());
    EXPECT_LE(static_cast<int64_t>(list.size()),
              paged_prompt_tiles_max(static_cast<int64_t>(rows.size()), static_cast<int64_t>(prompts.size()),
                                     shape_.group()));
    const OnDevice<GpuPromptTile> tiles(gpu_, list);
    GpuPagedAttentionArgs a = args();
    a.tiles = tiles.data();
    paged_attention_prompt(gpu_, a, static_cast<int64_t>(list.size()));
    return y_.read();
  }

  std::vector<uint16_t> queries() const { return q_.read(); }
  // Keys (part 0) or values (1) as they lie in the page.
  std::vector<uint8_t> tile(int sequence, int page, int kv, int part) {
    const auto list = lists_[index_of(sequence)].read();
    std::vector<uint8_t> out(kPagedTileBytes);
    gpu_.stream->copy_out(
        out.data(),
        reinterpret_cast<const std::byte*>(list[index_of(page)]) + kOffset + (kv * 2 + part) * kPagedTileBytes,
        kPagedTileBytes);
    EXPECT_TRUE(gpu_.stream->wait().ok());
    return out;
  }

  // How far rows are from the definition; says where the first element is that is far off.
  double difference(const std::vector<uint16_t>& y, const std::vector<Row>& rows) const {
    const auto width = index_of(shape_.heads * kE);
    std::vector<float> got;
    std::vector<float> expected;
    int told = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      const auto want = sequence(rows[r].sequence).expected(rows[r].position);
      for (size_t i = 0; i < width; ++i) {
        const float value = bf16_to_float(y[r * width + i]);
        if (!(std::abs(value - want[i]) < 0.02F + 0.02F * std::abs(want[i])) && told++ < 6) {
          std::printf("  row %zu (sequence %d, position %d), head %zu, column %zu: %g, expected %g\n", r,
                      rows[r].sequence, rows[r].position, i / kE, i % kE, static_cast<double>(value),
                      static_cast<double>(want[i]));
        }
        got.push_back(value);
        expected.push_back(want[i]);
      }
    }
    return relative_difference(got, expected);
  }

 private:
  static size_t page_count(int tokens) { return index_of((tokens + kPagedTokens - 1) / kPagedTokens); }
  static void append(std::vector<float>* to, const std::vector<float>& from, int row, int width) {
    to->insert(to->end(), from.begin() + row * width, from.begin() + (row + 1) * width);
  }

  GpuPagedAttentionArgs args() const {
    GpuPagedAttentionArgs a;
    a.qg = qg_.data();
    a.k = k_.data();
    a.v = v_.data();
    a.q = q_.data();
    a.y = y_.data();
    a.q_norm = q_norm_.data();
    a.k_norm = k_norm_.data();
    a.coarse = reinterpret_cast<const double*>(coarse_.data());
    a.fine = reinterpret_cast<const double*>(fine_.data());
    a.rows = rows_.data();
    a.pages = pages_.data();
    a.qg_stride = int64_t{shape_.heads} * 2 * kE;
    a.k_stride = a.v_stride = int64_t{shape_.kv_heads} * kE;
    a.y_stride = int64_t{shape_.heads} * kE;
    a.page_offset = kOffset;
    a.heads = shape_.heads;
    a.kv_heads = shape_.kv_heads;
    a.rope_half = shape_.rope_half;
    return a;
  }

  Gpu gpu_;
  Shape shape_;
  RopeTable rope_;
  std::vector<Sequence> sequences_;
  OnDevice<uint8_t> memory_;
  std::vector<OnDevice<uint8_t*>> lists_;
  OnDevice<uint8_t* const*> pages_;
  OnDevice<float> q_norm_, k_norm_, qg_, k_, v_;
  OnDevice<RopeTable::Turn> coarse_, fine_;
  OnDevice<GpuRow> rows_;
  OnDevice<uint16_t> q_, y_;
};

std::vector<uint16_t> row_of(const std::vector<uint16_t>& y, size_t row, const Shape& shape) {
  const auto width = static_cast<std::ptrdiff_t>(shape.heads * kE);
  const auto begin = y.begin() + static_cast<std::ptrdiff_t>(row) * width;
  return {begin, begin + width};
}

constexpr double kTolerance = 5e-3;  // outputs are rounded to bf16 (2e-3 on average), weights too

class PagedAttention : public GpuTest {};

TEST_F(PagedAttention, PrepareWritesQueriesAndPagesAsTheLayoutSays) {
  for (const Shape& shape : {Shape{2, 1, 32}, Shape{16, 2, 32}, Shape{3, 3, 0}, Shape{4, 2, 128}, Shape{2, 2, 5}}) {
    SCOPED_TRACE(::testing::Message() << shape.heads << " heads over " << shape.kv_heads);
    World world(gpu(), shape, {70, 3}, 1);
    const std::vector<Row> rows = {{0, 0}, {1, 2}, {0, 69}, {0, 63}, {0, 13}};
    world.prepare(rows);
    const auto q = world.queries();
    int far = 0;
    const auto compare = [&](const char* what, const Row& row, int h, int e, uint16_t got, float want) {
      const float value = bf16_to_float(got);
      // One step of bf16: the kernel rounds from float32.
      if (std::abs(value - want) <= 0.008F * std::abs(want) + 1e-6F || far++ > 6) return;
      std::printf("  %s, sequence %d, position %d, head %d, column %d: %g, expected %g\n", what, row.sequence,
                  row.position, h, e, static_cast<double>(value), static_cast<double>(want));
    };
    for (size_t r = 0; r < rows.size(); ++r) {
      const Sequence& s = world.sequence(rows[r].sequence);
      const int t = rows[r].position;
      const int width = shape.heads * kE;
      for (int i = 0; i < width; ++i) {
        compare("query", rows[r], i / kE, i % kE, q[r * index_of(width) + index_of(i)], s.q(t, 0)[i]);
      }
      for (int h = 0; h < shape.kv_heads; ++h) {
        for (int part = 0; part < 2; ++part) {
          const auto tile = world.tile(rows[r].sequence, t / kPagedTokens, h, part);
          for (int e = 0; e < kE; ++e) {
            uint16_t bits = 0;
            std::memcpy(&bits, &tile[index_of(paged_tile_byte(t % kPagedTokens, e))], 2);
            compare(part == 0 ? "key" : "value", rows[r], h, e, bits, (part == 0 ? s.k(t, h) : s.v(t, h))[e]);
          }
        }
      }
    }
    EXPECT_EQ(far, 0);
  }
}

TEST_F(PagedAttention, GeneratedRowsAgreeWithTheDefinition) {
  for (const Shape& shape : {Shape{2, 1, 32}, Shape{16, 2, 32}, Shape{32, 2, 32}, Shape{3, 3, 16}, Shape{6, 2, 32}}) {
    for (const int tokens : {1, 2, 63, 64, 65, 127, 128, 129, 256, 257, 500, 1300}) {
      World world(gpu(), shape, {tokens}, 7);
      world.fill(0, tokens - 1);
      const std::vector<Row> rows = {{0, tokens - 1}};
      SCOPED_TRACE(::testing::Message() << shape.heads << " over " << shape.kv_heads << ", " << tokens << " tokens");
      const auto spread = world.generated(rows, {6, 0, false});
      EXPECT_LT(world.difference(spread, rows), kTolerance) << "by pages";
      // So many segments that each is one block's.
      EXPECT_EQ(world.generated(rows, {512, 0, false}), spread) << "by segments";
      EXPECT_EQ(world.generated(rows, {6, 1, false}), spread) << "old pages early";
      EXPECT_EQ(world.generated(rows, {512, 1, false}), spread) << "old pages early, by segments";
    }
  }
}

TEST_F(PagedAttention, AGeneratedRowsBitsAreThoseItHasAlone) {
  const Shape shape{16, 2, 32};
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

TEST_F(PagedAttention, ManyGeneratedRowsOfOneSegmentAreFinishedWithoutAMergeAndHaveTheSameBits) {
  const Shape shape{2, 1, 32};
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

TEST_F(PagedAttention, MoreSegmentsThanAMergeHasLanes) {
  const Shape shape{2, 1, 32};
  constexpr int kTokens = 40 * kPagedSegment + 70;
  World world(gpu(), shape, {kTokens}, 70);
  world.fill(0, kTokens - 1);
  const std::vector<Row> rows = {{0, kTokens - 1}};
  const auto pages = world.generated(rows, {64, 1, false});
  EXPECT_LT(world.difference(pages, rows), kTolerance);
  EXPECT_EQ(world.generated(rows, {512, 1, false}), pages) << "by segments";
}

TEST_F(PagedAttention, SeveralGeneratedRowsOfASequenceGiveTheBitsOfOneAfterAnother) {
  const Shape shape{16, 2, 32};
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

TEST_F(PagedAttention, PromptRowsAgreeWithTheDefinition) {
  for (const Shape& shape : {Shape{2, 1, 32}, Shape{16, 2, 32}, Shape{32, 2, 32}, Shape{3, 3, 16}, Shape{6, 2, 32}}) {
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
  for (const Shape& shape : {Shape{2, 1, 32}, Shape{16, 2, 32}, Shape{6, 2, 32}}) {
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
  const Shape shape_{16, 2, 32};

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
    const int64_t layer_bytes = paged_kv_bytes(shape_.kv_heads);
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
  }

  // A call of `layer`, the layers in turn.
  template <class Function>
  double micros_a_layer(int layers, const Function& layer) {
    int at = 0;
    return micros(2 * layers, [&] {
      GpuPagedAttentionArgs args = args_;
      args.page_offset = at++ % layers * paged_kv_bytes(shape_.kv_heads);
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

TEST_F(PagedAttentionTime, GeneratedRows) {
  constexpr int64_t kSegmentsMax = 32;
  for (const int rows : {1, 2, 4, 8, 32, 64}) {
    const int layers = rows <= 2 ? 8 : 2;
    make(rows, rows, layers);
    std::vector<GpuRow> table;
    for (int i = 0; i < rows; ++i) table.push_back({i, kTokens - 1});
    const auto on_device = upload(table);
    const auto partial =
        zeros<float>(index_of(paged_attention_partial_bytes(shape_.heads, shape_.kv_heads, rows, kSegmentsMax)) / 4);
    args_.rows = on_device.data();
    args_.partial = partial.data();
    args_.fresh = 1;
    Gpu on = gpu();
    const double alone = micros_a_layer(
        layers, [&](const GpuPagedAttentionArgs& a) { paged_attention_rows(on, a, rows, kSegmentsMax); });
    const double with = micros_a_layer(layers, [&](const GpuPagedAttentionArgs& a) {
      paged_attention_prepare(on, a, rows);
      paged_attention_rows(on, a, rows, kSegmentsMax);
    });
    const double floor = 1.0 * rows * kTokens * shape_.kv_heads * 2 * kE * 2 / kBytesPerMicro;
    std::printf("  %2d rows at 10k: %.1f us, %.0f %% of the floor (%.1f us); with prepare %.1f us\n", rows, alone,
                100 * floor / alone, floor, with);
  }
}

TEST_F(PagedAttentionTime, PromptRows) {
  make(1, kTokens, 1);
  std::vector<GpuRow> table;
  for (int i = 0; i < kTokens; ++i) table.push_back({0, i});
  const auto on_device = upload(table);
  args_.rows = on_device.data();
  Gpu on = gpu();
  const double prepare = micros(10, [&] { paged_attention_prepare(on, args_, kTokens); });
  const double bytes = double{kTokens} * kE * (shape_.heads * 6.0 + shape_.kv_heads * 12.0);
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

}  // namespace
}  // namespace weir
