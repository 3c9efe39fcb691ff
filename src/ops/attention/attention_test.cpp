#include "ops/attention/attention.h"

#include <gtest/gtest.h>

#include <limits>

#include "ops/cases.h"

namespace weir {
namespace {

using cases::Floats;

constexpr double kTheta = 1e6;

// One sequence with its inputs and its pages. Pages start as NaN: nothing may be read that was not written.
class Sequence {
 public:
  Sequence(const AttentionShape& shape, uint64_t seed, int64_t tokens)
      : shape_(shape),
        tokens_(tokens),
        qg_(cases::random_floats(seed, tokens * qg_width())),
        k_(cases::random_floats(seed + 1, tokens * kv_width())),
        v_(cases::random_floats(seed + 2, tokens * kv_width())) {}

  int64_t tokens() const { return tokens_; }
  int64_t qg_width() const { return shape_.heads * 2 * shape_.head_dim; }
  int64_t kv_width() const { return shape_.kv_heads * shape_.head_dim; }
  int64_t y_width() const { return shape_.heads * shape_.head_dim; }
  const Floats& qg() const { return qg_; }
  const Floats& k() const { return k_; }
  const Floats& v() const { return v_; }
  // The first value of a token.
  void set_value(int64_t token, float value) { v_[static_cast<size_t>(token * kv_width())] = value; }

 private:
  AttentionShape shape_;
  int64_t tokens_;
  Floats qg_;
  Floats k_;
  Floats v_;
};

struct Pages {
  Pages(const AttentionShape& shape, int64_t tokens, int64_t offset) {
    const int64_t count = (tokens + kKvPageTokens - 1) / kKvPageTokens;
    const auto floats = static_cast<size_t>((offset + kv_page_bytes(shape)) / 4);
    for (int64_t i = 0; i < count; ++i) {
      memory.emplace_back(floats, std::numeric_limits<float>::quiet_NaN());
      table.push_back(reinterpret_cast<std::byte*>(memory.back().data()));
    }
  }
  std::vector<Floats> memory;
  std::vector<std::byte*> table;
};

struct Parameters {
  explicit Parameters(const AttentionShape& shape)
      : q_norm(cases::random_floats(90, shape.head_dim, 0.2F)),
        k_norm(cases::random_floats(91, shape.head_dim, 0.2F)),
        rope(shape.rope_dim, kTheta, 4096) {}
  Floats q_norm;
  Floats k_norm;
  RopeTable rope;
};

constexpr int64_t kOffset = 128;  // the layer's part does not begin the page

// Computes several sequences side by side in calls of at most `chunk` rows of each; their first tokens stand at
// `first`.
std::vector<Floats> run(Cpu& cpu, const AttentionShape& shape, const Parameters& parameters,
                        const std::vector<const Sequence*>& sequences, int64_t chunk, int64_t first = 0) {
  std::vector<Floats> outputs;
  std::vector<Pages> pages;
  int64_t longest = 0;
  for (const Sequence* s : sequences) {
    outputs.emplace_back(static_cast<size_t>(s->tokens() * s->y_width()));
    pages.emplace_back(shape, first + s->tokens(), kOffset);
    longest = std::max(longest, s->tokens());
  }
  for (int64_t position = 0; position < longest; position += chunk) {
    std::vector<KvSequence> work;
    Floats qg;
    Floats k;
    Floats v;
    int64_t rows = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& s = *sequences[i];
      const int64_t count = std::min(chunk, s.tokens() - position);
      if (count <= 0) continue;
      work.push_back({rows, count, first + position, pages[i].table.data(), first});
      const auto append = [&](Floats& to, const Floats& from, int64_t width) {
        to.insert(to.end(), from.begin() + position * width, from.begin() + (position + count) * width);
      };
      append(qg, s.qg(), s.qg_width());
      append(k, s.k(), s.kv_width());
      append(v, s.v(), s.kv_width());
      rows += count;
    }
    const int64_t width = sequences[0]->y_width();
    Floats y(static_cast<size_t>(rows * width));
    AttentionArgs args;
    args.shape = shape;
    args.qg = qg.data();
    args.qg_stride = sequences[0]->qg_width();
    args.k = k.data();
    args.k_stride = sequences[0]->kv_width();
    args.v = v.data();
    args.v_stride = sequences[0]->kv_width();
    args.q_norm = parameters.q_norm.data();
    args.k_norm = parameters.k_norm.data();
    args.rope = &parameters.rope;
    args.sequences = work;
    args.page_offset = kOffset;
    args.y = y.data();
    args.y_stride = width;
    attention(cpu, args);
    size_t at = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const int64_t count = std::min(chunk, sequences[i]->tokens() - position);
      if (count <= 0) continue;
      std::copy_n(y.begin() + work[at].row_begin * width, count * width, outputs[i].begin() + position * width);
      ++at;
    }
  }
  return outputs;
}

std::vector<AttentionShape> shapes() {
  return {{4, 2, 24, 8, 1e-6F},       {2, 1, 64, 16, 1e-6F},       {3, 3, 20, 20, 1e-5F},
          {8, 1, 32, 0, 1e-6F},       {4, 2, 24, 8, 1e-6F, true},  {2, 1, 64, 16, 1e-6F, true},
          {3, 3, 18, 6, 1e-5F, true}, {8, 1, 256, 64, 1e-6F, true}};
}

TEST(Attention, AgreesWithDoublePrecision) {
  for (const AttentionShape& shape : shapes()) {
    constexpr int64_t kTokens = 600;  // more than a segment
    Cpu cpu;
    cpu.reserve_scratch(attention_scratch_bytes(shape, kTokens, cpu.threads()));
    const Parameters parameters(shape);
    const Sequence s(shape, 1, kTokens);
    const auto expected =
        reference::attention(shape, kTheta, parameters.q_norm, parameters.k_norm, cases::rows_of(s.qg(), s.qg_width()),
                             cases::rows_of(s.k(), s.kv_width()), cases::rows_of(s.v(), s.kv_width()));
    EXPECT_LT(cases::row_error(run(cpu, shape, parameters, {&s}, kTokens)[0], expected), 5e-6)
        << shape.head_dim << (shape.fp8 ? " FP8" : "");
  }
}

TEST(Attention, ARowsBitsDependOnItsPositionAndContextAlone) {
  for (const AttentionShape& shape : {AttentionShape{4, 2, 24, 8, 1e-6F}, AttentionShape{4, 2, 24, 8, 1e-6F, true}}) {
    SCOPED_TRACE(::testing::Message() << "FP8 " << shape.fp8);
    constexpr int64_t kTokens = 1100;  // three segments, a broken last page
    const auto cpus = cases::all_cpus(attention_scratch_bytes(shape, 3 * kTokens, cases::kThreadsMax));
    const Parameters parameters(shape);
    const Sequence s(shape, 10, kTokens);
    const Sequence other(shape, 20, 130);
    const Sequence third(shape, 30, 1);
    const Floats all = run(*cpus[0], shape, parameters, {&s}, kTokens)[0];
    for (const auto& cpu : cpus) {
      for (const int64_t chunk : {int64_t{64}, int64_t{256}, int64_t{37}, kTokens}) {
        const auto outputs = run(*cpu, shape, parameters, {&other, &s, &third}, chunk);
        ASSERT_TRUE(cases::same_bits(outputs[1], all)) << isa_name(cpu->isa()) << " " << cpu->threads() << " " << chunk;
      }
    }
    // One row at a time takes its time on scalar code: the widest will do.
    for (const auto& cpu : cpus) {
      if (cpu->isa() != best_isa()) continue;
      ASSERT_TRUE(cases::same_bits(run(*cpu, shape, parameters, {&s}, 1)[0], all)) << cpu->threads();
    }
  }
}

TEST(Attention, ALongContextOfOneRowGivesTheSameBitsSpreadOverThreadsInSeveralWaves) {
  for (const AttentionShape& shape : {AttentionShape{2, 1, 16, 8, 1e-6F}, AttentionShape{2, 1, 16, 8, 1e-6F, true}}) {
    SCOPED_TRACE(::testing::Message() << "FP8 " << shape.fp8);
    constexpr int64_t kPosition = 26000;  // 51 segments: three waves of three threads
    const RopeTable rope(shape.rope_dim, kTheta, kPosition + 1);
    const Floats norm = cases::random_floats(92, shape.head_dim, 0.2F);
    const Floats context = cases::random_floats(93, (kPosition / kKvPageTokens + 1) * kv_page_bytes(shape) / 4);
    const Floats row = cases::random_floats(94, shape.heads * 2 * shape.head_dim);
    Floats first;
    for (const auto& cpu : cases::all_cpus(attention_scratch_bytes(shape, 1, cases::kThreadsMax))) {
      Floats memory = context;
      std::vector<std::byte*> pages;
      for (int64_t t = 0; t <= kPosition; t += kKvPageTokens) {
        pages.push_back(reinterpret_cast<std::byte*>(memory.data()) + t / kKvPageTokens * kv_page_bytes(shape));
      }
      const KvSequence sequence{0, 1, kPosition, pages.data()};
      Floats y(static_cast<size_t>(shape.heads * shape.head_dim));
      AttentionArgs args;
      args.shape = shape;
      args.qg = row.data();
      args.k = row.data();
      args.v = row.data();
      args.q_norm = norm.data();
      args.k_norm = norm.data();
      args.rope = &rope;
      args.sequences = {&sequence, 1};
      args.y = y.data();
      attention(*cpu, args);
      if (first.empty()) first = y;
      EXPECT_TRUE(cases::same_bits(y, first)) << isa_name(cpu->isa()) << " " << cpu->threads() << " threads";
    }
  }
}

// What stands in the pages before `first` is NaN, as everywhere: see Pages.
TEST(Attention, RowsSeeNothingBeforeTheFirstToken) {
  for (const AttentionShape& shape : {AttentionShape{4, 2, 24, 8, 1e-6F}, AttentionShape{4, 2, 24, 0, 1e-6F, true}}) {
    SCOPED_TRACE(::testing::Message() << "FP8 " << shape.fp8);
    constexpr int64_t kTokens = 600;
    const auto cpus = cases::all_cpus(attention_scratch_bytes(shape, kTokens, cases::kThreadsMax));
    const Parameters parameters(shape);
    const Sequence s(shape, 1, kTokens);
    const auto expected =
        reference::attention(shape, kTheta, parameters.q_norm, parameters.k_norm, cases::rows_of(s.qg(), s.qg_width()),
                             cases::rows_of(s.k(), s.kv_width()), cases::rows_of(s.v(), s.kv_width()));
    for (const int64_t first : {int64_t{1}, int64_t{16}, int64_t{17}, int64_t{63}}) {
      Floats bits;
      for (const auto& cpu : cpus) {
        for (const int64_t chunk : {kTokens, int64_t{37}}) {
          // Rotations are relative: the rows are those of a sequence that begins at token 0. Keys of FP8 are rounded
          // behind them, so that shape has none.
          const Floats y = run(*cpu, shape, parameters, {&s}, chunk, first)[0];
          if (bits.empty()) bits = y;
          EXPECT_LT(cases::row_error(y, expected), 5e-6) << first;
          EXPECT_TRUE(cases::same_bits(y, bits)) << first << " " << isa_name(cpu->isa()) << " " << chunk;
        }
      }
    }
  }
}

// Rows with numbers that are not finite are NaN to those that see them, and to nobody else.
TEST(Attention, AnInfiniteValueInAPageOfFp8IsSeenAndOthersDoNotMind) {
  const AttentionShape shape{2, 1, 16, 8, 1e-6F, true};
  Cpu cpu;
  cpu.reserve_scratch(attention_scratch_bytes(shape, 8, cpu.threads()));
  const Parameters parameters(shape);
  Sequence s(shape, 5, 8);
  const Floats clean = run(cpu, shape, parameters, {&s}, 8)[0];
  s.set_value(5, std::numeric_limits<float>::infinity());
  const Floats y = run(cpu, shape, parameters, {&s}, 8)[0];
  const auto row = [&](const Floats& of, int64_t t) {
    return Floats(of.begin() + t * s.y_width(), of.begin() + (t + 1) * s.y_width());
  };
  for (int64_t t = 0; t < 8; ++t) {
    EXPECT_EQ(cases::same_bits(row(y, t), row(clean, t)), t < 5) << t;
    EXPECT_EQ(std::isnan(row(y, t)[0]), t >= 5) << t;
  }
}

TEST(Rope, TableAgreesWithTheDefinitionFarOut) {
  const RopeTable table(64, 1e7, 300000);
  Floats cos(32);
  Floats sin(32);
  for (const int64_t position : {0, 1, 255, 256, 65537, 299999}) {
    table.at(position, cos.data(), sin.data());
    for (int i = 0; i < 32; ++i) {
      const double angle = static_cast<double>(position) * std::pow(1e7, -2.0 * i / 64.0);
      EXPECT_NEAR(static_cast<double>(cos[static_cast<size_t>(i)]), std::cos(angle), 1e-7) << position << " " << i;
      EXPECT_NEAR(static_cast<double>(sin[static_cast<size_t>(i)]), std::sin(angle), 1e-7) << position << " " << i;
    }
  }
}

}  // namespace
}  // namespace weir
