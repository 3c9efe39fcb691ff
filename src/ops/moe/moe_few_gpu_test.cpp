// The kernels for few rows of FP8 and MXFP4 experts give the bits of the general ones.
#include "ops/moe/moe_few_gpu.h"

#include <algorithm>
#include <cmath>

#include "ops/linear/packed_test_tools.h"
#include "ops/moe/moe_packed_gpu.h"

namespace weir {
namespace {

// To nearest, ties to even; for values within f16's normal range.
uint16_t float_to_f16(float x) {
  const _Float16 half = static_cast<_Float16>(x);
  uint16_t bits = 0;
  std::memcpy(&bits, &half, sizeof(bits));
  return bits;
}

// How the routed experts and the shared one are stored.
struct Stored {
  int32_t routed = kGpuFp8Block;
  int32_t shared = kGpuFp8Block;
};
constexpr Stored kFp8 = {};
constexpr Stored kMxfp4 = {kGpuMxfp4, kGpuMxfp4};
constexpr Stored kMxfp4BesideBf16 = {kGpuMxfp4, kGpuBf16};

class MoeFew : public GpuTest {
 protected:
  // Experts, each one's parts a stride behind those of the one before; the shared one's too, if it is stored like them.
  struct Experts {
    Stored stored;
    OnDevice<uint8_t> memory;
    OnDevice<GpuPackedMlp> table;
    std::vector<GpuPackedMlp> mlps;
    int64_t stride = 0;

    bool apart() const { return stored.routed != stored.shared; }
    // The weights of those of few rows.
    void fill(GpuFewExpertsArgs* args) const {
      args->format = stored.routed;
      args->gate_up = mlps.front().gate_up.data;
      args->down = mlps.front().down.data;
      args->gate_up_scales = mlps.front().gate_up.scales;
      args->down_scales = mlps.front().down.scales;
      args->stride = stride;
      if (!apart()) return;
      args->shared_gate_up = mlps.back().gate_up.data;
      args->shared_down = mlps.back().down.data;
    }
  };

  Experts make(int64_t d, int64_t f, int32_t experts, Stored stored = kFp8) {
    const auto aligned = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
    Experts out;
    out.stored = stored;
    std::vector<PackedOnDevice> packed;  // gate and up, down
    for (int32_t e = 0; e <= experts; ++e) {
      const auto seed = static_cast<uint64_t>(10 * e);
      const int32_t format = e < experts ? stored.routed : stored.shared;
      const TestMatrix gate = random_matrix(f, d, format, seed + 1);
      const TestMatrix upper = random_matrix(f, d, format, seed + 2);
      packed.push_back(pack_on_device(gpu(), gate, &upper));
      packed.push_back(pack_on_device(gpu(), random_matrix(d, f, format, seed + 3)));
    }
    const auto bytes_of = [&](const GpuPacked& m) {
      return aligned(packed_data_bytes(m)) + (m.scales != nullptr ? aligned(packed_scale_floats(m) * 4) : 0);
    };
    out.stride = bytes_of(packed[0].packed) + bytes_of(packed[1].packed);
    const int64_t last = bytes_of(packed[packed.size() - 2].packed) + bytes_of(packed.back().packed);
    out.memory = zeros<uint8_t>(static_cast<size_t>(out.stride * experts + last));
    uint8_t* at = out.memory.data();
    const auto put = [&](const void* from, int64_t bytes) {
      gpu().stream->copy(reinterpret_cast<std::byte*>(at), static_cast<const std::byte*>(from), bytes);
      uint8_t* place = at;
      at += aligned(bytes);
      return place;
    };
    const auto move = [&](GpuPacked m) {
      m.data = put(m.data, packed_data_bytes(m));
      if (m.scales != nullptr) m.scales = reinterpret_cast<float*>(put(m.scales, packed_scale_floats(m) * 4));
      return m;
    };
    for (size_t i = 0; i < packed.size(); i += 2) {
      const GpuPacked gate_up = move(packed[i].packed);
      out.mlps.push_back({gate_up, move(packed[i + 1].packed)});
    }
    EXPECT_TRUE(gpu().stream->wait().ok());
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
                       std::initializer_list<Share> shares = {Share::kChance}, Stored stored = kFp8) {
    const Experts m = make(c.d, c.f, c.experts, stored);
    for (const Share share : shares) {
      for (const int32_t rows : row_counts) compare_rows(c, m, rows, share);
    }
  }
  void compare_rows(const Case& c, const Experts& m, int32_t rows, Share share) {
    const std::vector<float> x = normal_values(static_cast<size_t>(rows * c.d), 1, 5);
    const int32_t type = operand_type(m.stored.routed);
    std::vector<uint16_t> halves;
    for (const float v : x) halves.push_back(type == kOperandF16 ? float_to_f16(v) : float_to_bf16(v));
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
        (type == kOperandF16 ? front.x_f16 : front.x_bf16) = in.data();
        front.x_stride = c.d;
        front.k = static_cast<int32_t>(c.d);
        front.rows = rows;
        front.outputs[front.count++] = {m.mlps.back().gate_up, hidden.data() + (which == 0 ? 1 : rows) * c.top_k * c.f,
                                        which == 0 ? slots * c.f : c.f, kPackedSwiglu, type};
        linear_packed(g, front);
      }
      if (which == 0) {
        GpuExpertsArgs args;
        args.table = m.table.data();
        args.format = m.stored.routed;
        args.shared_format = m.stored.shared;
        fill(args);
        experts_packed(g, args);
      } else {
        GpuFewExpertsArgs args;
        m.fill(&args);
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
};

TEST_F(MoeFew, HasTheBitsOfTheGeneralKernels) {
  for (const Case& c :
       {Case{256, 128, 16, 4}, Case{2048, 512, 40, 8}, Case{1024, 256, 300, 10}, Case{4096, 1024, 24, 10}}) {
    compare_experts(c, {1, 2, 6, 7, 8, 9, 31, 64});
  }
}

TEST_F(MoeFew, Mxfp4HasTheBitsOfTheGeneralKernels) {
  for (const Stored stored : {kMxfp4BesideBf16, kMxfp4}) {
    for (const Case& c :
         {Case{256, 128, 16, 4}, Case{2048, 512, 40, 8}, Case{1024, 256, 300, 10}, Case{4096, 1024, 24, 10}}) {
      compare_experts(c, {1, 2, 5, 8, 9, 64}, {Share::kChance}, stored);
    }
    compare_experts({1024, 256, 40, 8}, {1, 3, 8}, {Share::kAll, Share::kFirstAndLast, Share::kOne, Share::kTies},
                    stored);
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
    m.fill(&args);
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

// Few launches: check.sh has them searched for races.
TEST_F(MoeFew, SlotsTakeTurns) {
  compare_experts({1024, 256, 8, 4}, {1, 8, 64});
  compare_experts({1024, 256, 8, 4}, {1, 8, 64}, {Share::kChance}, kMxfp4BesideBf16);
}

}  // namespace
}  // namespace weir
