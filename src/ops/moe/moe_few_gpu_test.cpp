// The kernels for few rows of FP8 experts give the bits of the general ones.
#include "ops/moe/moe_few_gpu.h"

#include <algorithm>
#include <cmath>

#include "ops/linear/linear_few_gpu.h"
#include "ops/linear/packed_test_tools.h"
#include "ops/moe/moe_packed_gpu.h"
#include "ops/norm/norm_rows_gpu.h"

namespace weir {
namespace {

// To nearest, ties to even; for values within f16's normal range.
uint16_t float_to_f16(float x) {
  const _Float16 half = static_cast<_Float16>(x);
  uint16_t bits = 0;
  std::memcpy(&bits, &half, sizeof(bits));
  return bits;
}

class MoeFew : public GpuTest {
 protected:
  // FP8 experts, each one's parts a stride behind those of the one before.
  struct Experts {
    OnDevice<uint8_t> memory;
    OnDevice<GpuPackedMlp> table;
    std::vector<GpuPackedMlp> mlps;
    int64_t stride = 0;
  };

  Experts make(int64_t d, int64_t f, int32_t experts) {
    const GpuPacked up = packed_shape(2 * f, d, kGpuFp8Block);
    const GpuPacked down = packed_shape(d, f, kGpuFp8Block);
    const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
    const int64_t parts[4] = {aligned(packed_data_bytes(up)), aligned(packed_scale_floats(up) * 4),
                              aligned(packed_data_bytes(down)), aligned(packed_scale_floats(down) * 4)};
    Experts out;
    out.stride = parts[0] + parts[1] + parts[2] + parts[3];
    out.memory = zeros<uint8_t>(static_cast<size_t>(out.stride * (experts + 1)));
    for (int32_t e = 0; e <= experts; ++e) {
      const auto seed = static_cast<uint64_t>(10 * e);
      const TestMatrix gate = random_matrix(f, d, kGpuFp8Block, seed + 1);
      const TestMatrix upper = random_matrix(f, d, kGpuFp8Block, seed + 2);
      const PackedOnDevice a = pack_on_device(gpu(), gate, &upper);
      const PackedOnDevice b = pack_on_device(gpu(), random_matrix(d, f, kGpuFp8Block, seed + 3));
      uint8_t* at = out.memory.data() + e * out.stride;
      const auto put = [&](const void* from, int64_t bytes, int64_t room) {
        gpu().stream->copy(reinterpret_cast<std::byte*>(at), static_cast<const std::byte*>(from), bytes);
        uint8_t* place = at;
        at += room;
        return place;
      };
      GpuPackedMlp mlp{a.packed, b.packed};
      mlp.gate_up.data = put(a.packed.data, packed_data_bytes(up), parts[0]);
      mlp.gate_up.scales = reinterpret_cast<float*>(put(a.packed.scales, packed_scale_floats(up) * 4, parts[1]));
      mlp.down.data = put(b.packed.data, packed_data_bytes(down), parts[2]);
      mlp.down.scales = reinterpret_cast<float*>(put(b.packed.scales, packed_scale_floats(down) * 4, parts[3]));
      EXPECT_TRUE(gpu().stream->wait().ok());
      out.mlps.push_back(mlp);
    }
    out.table = upload(out.mlps);
    return out;
  }

  struct Case {
    int64_t d;
    int64_t f;
    int32_t experts;
    int32_t top_k;
  };
  // Which experts rows have in common: what chance has it, all, the first row's and the last one's all, one of all rows
  // and hardly another, and those of least index, as all or most are as good as each other.
  enum class Share { kChance, kAll, kFirstAndLast, kOne, kTies };
  static std::vector<float> router_logits(Share share, int32_t rows, int32_t experts) {
    const int32_t width = experts + 1;
    std::vector<float> out = normal_values(static_cast<size_t>(rows * width), 2, 6);
    const auto at = [&](int32_t row, int32_t e) -> float& { return out[static_cast<size_t>(row * width + e)]; };
    for (int32_t row = 0; row < rows; ++row) {
      for (int32_t e = 0; e < width; ++e) {
        if (share == Share::kAll || (share == Share::kFirstAndLast && row == rows - 1)) at(row, e) = at(0, e);
        if (share == Share::kOne && e < experts)
          at(row, e) += e == experts / 2 ? 100.0F : e % rows == row ? 20.0F : 0.0F;
        if (share == Share::kTies) at(row, e) = row % 3 == 0 ? 1.0F : std::floor(at(row, e) / 2);
      }
    }
    return out;
  }

  // Those of the general kernels against those of few rows.
  void compare_experts(const Case& c, std::initializer_list<int32_t> row_counts,
                       std::initializer_list<Share> shares = {Share::kChance}) {
    const Experts m = make(c.d, c.f, c.experts);
    for (const Share share : shares) {
      for (const int32_t rows : row_counts) compare_rows(c, m, rows, share);
    }
  }
  void compare_rows(const Case& c, const Experts& m, int32_t rows, Share share) {
    const std::vector<float> x = normal_values(static_cast<size_t>(rows * c.d), 1, 5);
    std::vector<uint16_t> halves;
    for (const float v : x) halves.push_back(float_to_f16(v));
    OnDevice<uint16_t> in = upload(halves);
    OnDevice<float> router = upload(router_logits(share, rows, c.experts));
    const int64_t slots = c.top_k + 1;
    const std::vector<float> before = normal_values(static_cast<size_t>(rows * c.d), 1, 7);
    std::vector<float> general;
    const auto run = [&](int which) {
      OnDevice<uint8_t> routes = zeros<uint8_t>(kSomeRoutesBytes);
      OnDevice<uint32_t> turns = zeros<uint32_t>(sizeof(GpuFewTurns) / sizeof(uint32_t));
      OnDevice<uint16_t> hidden = upload(std::vector<uint16_t>(static_cast<size_t>(rows * slots * c.f), 0x3000));
      OnDevice<float> y = upload(before);
      // What the arguments of both have.
      const auto fill = [&](auto& args) {
        args.router = router.data();
        args.x = in.data();
        args.hidden = hidden.data();
        args.y = y.data();
        args.y_stride = c.d;
        args.rows = rows;
        args.experts = c.experts;
        args.top_k = c.top_k;
        args.shared = 1;
        args.d = static_cast<int32_t>(c.d);
        args.f = static_cast<int32_t>(c.f);
      };
      Gpu g = gpu();
      if (which < 2) {
        // The shared expert's hidden values are there before these; experts_some() works them out itself.
        GpuPackedLinearArgs front;
        front.x_f16 = in.data();
        front.x_stride = c.d;
        front.k = static_cast<int32_t>(c.d);
        front.rows = rows;
        front.outputs[front.count++] = {m.mlps.back().gate_up, hidden.data() + (which == 0 ? 1 : rows) * c.top_k * c.f,
                                        which == 0 ? slots * c.f : c.f, kPackedSwiglu, kOperandF16};
        linear_packed(g, front);
      }
      if (which == 0) {
        GpuExpertsArgs args;
        args.table = m.table.data();
        fill(args);
        experts_packed(g, args);
      } else {
        GpuFewExpertsArgs args;
        args.gate_up = m.mlps[0].gate_up.data;
        args.down = m.mlps[0].down.data;
        args.gate_up_scales = m.mlps[0].gate_up.scales;
        args.down_scales = m.mlps[0].down.scales;
        args.stride = m.stride;
        fill(args);
        args.routes = routes.data();
        args.turns = reinterpret_cast<GpuFewTurns*>(turns.data());
        if (which == 1) {
          // Rows of the largest shapes leave too little room for a ring.
          EXPECT_TRUE(few_experts_takes(g, args) || (c.d == 4096 && rows > 5));
          if (!few_experts_takes(g, args)) return general;
          experts_few(g, args);
        } else {
          experts_some(g, args);
        }
      }
      return y.read();
    };
    general = run(0);
    EXPECT_NE(general, before);
    if (rows <= kFewMoeRows) {
      EXPECT_EQ(run(1), general) << rows << " rows, " << c.experts << " experts, few, sharing "
                                 << static_cast<int>(share);
    }
    if (c.d >= 1024) {
      EXPECT_EQ(run(2), general) << rows << " rows, " << c.experts << " experts, some, sharing "
                                 << static_cast<int>(share);
    }
  }

  // A group of products, and those of a vocabulary head.
  void compare_products(int64_t n, int64_t head_n, std::initializer_list<int32_t> row_counts) {
    constexpr int64_t kK = 2048;
    const PackedOnDevice fp8 = pack_on_device(gpu(), random_matrix(n, kK, kGpuFp8Block, 1));
    const PackedOnDevice bf16 = pack_on_device(gpu(), random_matrix(33, kK, kGpuBf16, 2));
    const PackedOnDevice head = pack_on_device(gpu(), random_matrix(head_n, kK, kGpuBf16, 3));
    for (const int32_t rows : row_counts) {
      OnDevice<float> x = upload(normal_values(static_cast<size_t>(rows * kK), 2, 4));
      OnDevice<float> norm = upload(normal_values(kK, 0.1F, 5));
      // By the general kernels, by those of few rows, and by the latter with rows that were normed before.
      enum class By { kGeneral, kFew, kFewNormed };
      const auto run = [&](By by) {
        OnDevice<float> a = zeros<float>(static_cast<size_t>(rows * n));
        OnDevice<float> b = zeros<float>(static_cast<size_t>(rows) * 33);
        OnDevice<float> c = zeros<float>(static_cast<size_t>(rows * head_n));
        Gpu g = gpu();
        const auto fill = [&](auto* args) {
          args->x = x.data();
          args->norm = norm.data();
          args->x_stride = kK;
          args->k = kK;
          args->rows = rows;
        };
        OnDevice<uint16_t> bf16_rows = zeros<uint16_t>(static_cast<size_t>(rows * kK));
        OnDevice<uint16_t> f16_rows = zeros<uint16_t>(static_cast<size_t>(rows * kK));
        if (by != By::kGeneral) {
          GpuFewArgs args;
          fill(&args);
          if (by == By::kFewNormed) {
            GpuNormRowsArgs before;
            before.x = x.data();
            before.x_stride = kK;
            before.weight = norm.data();
            before.size = kK;
            before.eps = args.eps;
            before.bf16 = bf16_rows.data();
            before.f16 = f16_rows.data();
            norm_rows(g, before, rows);
            args.norm = nullptr;
            args.x_bf16 = bf16_rows.data();
            args.x_f16 = f16_rows.data();
          }
          args.outputs[0] = {fp8.packed, a.data(), n, kPackedStore, 0};
          args.outputs[1] = {bf16.packed, b.data(), 33, kPackedStore, 0};
          args.count = 2;
          args.fp8_count = 1;
          EXPECT_TRUE(few_takes(g, args));
          linear_few(g, args);
          GpuFewArgs vocabulary;
          fill(&vocabulary);
          vocabulary.outputs[0] = {head.packed, c.data(), head_n, kPackedStore, 0};
          vocabulary.count = 1;
          EXPECT_TRUE(head_few_takes(g, vocabulary));
          head_few(g, vocabulary);
        } else {
          GpuPackedLinearArgs args;
          fill(&args);
          args.outputs[0] = {fp8.packed, a.data(), n, kPackedStore, 0};
          args.outputs[1] = {bf16.packed, b.data(), 33, kPackedStore, 0};
          args.count = 2;
          linear_packed(g, args);
          GpuPackedLinearArgs vocabulary;
          fill(&vocabulary);
          vocabulary.outputs[0] = {head.packed, c.data(), head_n, kPackedStore, 0};
          vocabulary.count = 1;
          linear_packed(g, vocabulary);
        }
        std::vector<float> all = a.read();
        const std::vector<float> second = b.read();
        const std::vector<float> third = c.read();
        all.insert(all.end(), second.begin(), second.end());
        all.insert(all.end(), third.begin(), third.end());
        return all;
      };
      const auto general = run(By::kGeneral);
      EXPECT_EQ(run(By::kFew), general) << rows << " rows";
      EXPECT_EQ(run(By::kFewNormed), general) << rows << " rows, normed before";
    }
  }
};

TEST_F(MoeFew, HasTheBitsOfTheGeneralKernels) {
  for (const Case& c :
       {Case{256, 128, 16, 4}, Case{2048, 512, 40, 8}, Case{1024, 256, 300, 10}, Case{4096, 1024, 24, 10}}) {
    compare_experts(c, {1, 2, 6, 7, 8, 9, 31, 64});
  }
}

// Of the last shape a block of the first kernel has several strips of an expert.
TEST_F(MoeFew, RowsThatShareExpertsHaveTheBitsOfTheGeneralKernels) {
  for (const Case& c : {Case{1024, 256, 40, 8}, Case{512, 128, 300, 10}, Case{128, 2048, 24, 2}}) {
    compare_experts(c, {1, 2, 3, 4, 5, 6, 7, 8},
                    {Share::kChance, Share::kAll, Share::kFirstAndLast, Share::kOne, Share::kTies});
  }
}

// Blocks of either stream's kernels take multiprocessors from the other's: no block may wait for one that does not run.
TEST_F(MoeFew, KernelsOfTwoStreamsDoNotWaitForEachOther) {
  constexpr Case kCase{2048, 512, 40, 8};
  constexpr int32_t kRows = 8;
  const Experts m = make(kCase.d, kCase.f, kCase.experts);
  OnDevice<float> router = upload(router_logits(Share::kChance, kRows, kCase.experts));
  OnDevice<uint16_t> x = upload(std::vector<uint16_t>(static_cast<size_t>(kRows * kCase.d), 0x3400));
  struct Own {
    device::Stream stream;
    OnDevice<uint16_t> hidden;
    OnDevice<float> y;
    OnDevice<uint32_t> turns;
    GpuFewExpertsArgs args;
  };
  const auto make_own = [&] {
    Own own{gpu().device->stream(),
            upload(std::vector<uint16_t>(static_cast<size_t>(kRows * (kCase.top_k + 1) * kCase.f), 0x3000)),
            zeros<float>(static_cast<size_t>(kRows * kCase.d)),
            zeros<uint32_t>(sizeof(GpuFewTurns) / sizeof(uint32_t)),
            {}};
    GpuFewExpertsArgs& args = own.args;
    args.gate_up = m.mlps[0].gate_up.data;
    args.down = m.mlps[0].down.data;
    args.gate_up_scales = m.mlps[0].gate_up.scales;
    args.down_scales = m.mlps[0].down.scales;
    args.stride = m.stride;
    args.router = router.data();
    args.x = x.data();
    args.hidden = own.hidden.data();
    args.turns = reinterpret_cast<GpuFewTurns*>(own.turns.data());
    args.y = own.y.data();
    args.y_stride = kCase.d;
    args.add = 0;
    args.rows = kRows;
    args.experts = kCase.experts;
    args.top_k = kCase.top_k;
    args.shared = 1;
    args.d = kCase.d;
    args.f = kCase.f;
    return own;
  };
  Own first = make_own();
  Own second = make_own();
  const auto launch = [&](Own& own) {
    Gpu g{gpu().device, &own.stream};
    experts_few(g, own.args);
  };
  launch(first);
  ASSERT_TRUE(first.stream.wait().ok());
  const std::vector<float> alone = first.y.read();
  EXPECT_NE(alone, std::vector<float>(alone.size(), 0.0F));
  for (int i = 0; i < 400; ++i) {
    launch(first);
    launch(second);
  }
  ASSERT_TRUE(first.stream.wait().ok());
  ASSERT_TRUE(second.stream.wait().ok());
  EXPECT_EQ(first.y.read(), alone);
  EXPECT_EQ(second.y.read(), alone);
  EXPECT_EQ(first.turns.read(), std::vector<uint32_t>(sizeof(GpuFewTurns) / sizeof(uint32_t), 0));
}

TEST_F(MoeFew, ProductsHaveTheBitsOfTheGeneralKernel) {
  compare_products(1040, 40'008, {1, 3, 8});
}

// Few launches: check.sh has them searched for races.
TEST_F(MoeFew, SlotsTakeTurns) {
  compare_experts({1024, 256, 8, 4}, {1, 8, 64});
  compare_products(8448, 2120, {1, 8});
}

TEST_F(MoeFew, ProductsOfSomeRowsHaveTheBitsOfTheGeneralKernel) {
  constexpr int64_t kK = 4096;
  constexpr int64_t kN = 2040;  // the last strip is half there
  const PackedOnDevice matrix = pack_on_device(gpu(), random_matrix(kN, kK, kGpuFp8Block, 4));
  for (const int32_t rows : {1, 9, 24, 31, 32}) {
    std::vector<uint16_t> halves;
    for (const float v : normal_values(static_cast<size_t>(rows * kK), 1, 5)) halves.push_back(float_to_f16(v));
    OnDevice<uint16_t> x = upload(halves);
    const std::vector<float> before = normal_values(static_cast<size_t>(rows * kN), 1, 6);
    for (const int32_t kind : {kPackedStore, kPackedAdd}) {
      const auto run = [&](bool some) {
        OnDevice<float> y = upload(before);
        Gpu g = gpu();
        if (some) {
          GpuFewArgs args;
          args.outputs[args.count++] = {matrix.packed, y.data(), kN, kind, 0};
          args.x_f16 = x.data();
          args.x_stride = kK;
          args.k = kK;
          args.rows = rows;
          EXPECT_TRUE(some_rows_takes(g, args));
          linear_some(g, args);
        } else {
          GpuPackedLinearArgs args;
          args.outputs[args.count++] = {matrix.packed, y.data(), kN, kind, 0};
          args.x_f16 = x.data();
          args.x_stride = kK;
          args.k = kK;
          args.rows = rows;
          linear_packed(g, args);
        }
        return y.read();
      };
      EXPECT_EQ(run(true), run(false)) << rows << " rows, kind " << kind;
    }
  }
}

}  // namespace
}  // namespace weir
