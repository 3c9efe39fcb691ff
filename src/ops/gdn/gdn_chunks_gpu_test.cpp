#include "ops/gdn/gdn_chunks_gpu.h"

#include <algorithm>
#include <cstdio>
#include <string>

#include "ops/cases.h"
#include "ops/gdn/slot.h"
#include "ops/gpu/gpu_test.h"

namespace weir {
namespace {

using cases::Floats;

enum class Family { kRows, kChunks };

struct Layer {
  explicit Layer(const GdnShape& s)
      : shape(s),
        conv(cases::random_floats(1, s.channels() * kGdnConvWidth, 0.5F)),
        a_log(cases::random_floats(2, s.value_heads, 1.0F)),
        dt_bias(cases::random_floats(3, s.value_heads, 1.0F)),
        norm(cases::random_floats(4, s.value_dim, 1.0F)) {
    // From memories of a few tokens to memories of thousands.
    for (size_t j = 0; j < dt_bias.size(); ++j) dt_bias[j] -= static_cast<float>(2 * (j % 8));
    parameters = make_gdn_parameters(s, view(conv), view(a_log), view(dt_bias), view(norm));
  }
  static VectorView view(const Floats& v) { return {v.data(), static_cast<int64_t>(v.size())}; }
  GdnShape shape;
  Floats conv;
  Floats a_log;
  Floats dt_bias;
  Floats norm;
  GdnParameters parameters;
};

// Rows of a step; a test says which of them are which tokens of which slot.
struct Inputs {
  Inputs(const GdnShape& s, uint64_t seed, int64_t count)
      : rows(count),
        u(cases::random_floats(seed, count * s.channels())),
        z(cases::random_floats(seed + 1, count * s.values())),
        b(cases::random_floats(seed + 2, count * s.value_heads)),
        a(cases::random_floats(seed + 3, count * s.value_heads)) {}
  int64_t rows;
  Floats u;
  Floats z;
  Floats b;
  Floats a;
};

struct Piece {
  int64_t slot = 0;
  int64_t row_begin = 0;
  int64_t row_count = 0;
  int64_t position = 0;
};

constexpr int64_t kOffset = 256;  // the layer's part does not begin the slot

// A layer, rows and slots on the device.
class Mixer {
 public:
  Mixer(Gpu gpu, const Layer& layer, const Inputs& inputs, int64_t slots)
      : gpu_(gpu),
        shape_(layer.shape),
        slot_bytes_(kOffset + gdn_slot_bytes(layer.shape)),
        u_(gpu, inputs.u),
        z_(gpu, inputs.z),
        b_(gpu, inputs.b),
        a_(gpu, inputs.a),
        y_(gpu, std::vector<uint16_t>(static_cast<size_t>(inputs.rows * shape_.values()))),
        conv_(gpu, layer.parameters.conv),
        decay_(gpu, layer.parameters.decay),
        dt_bias_(gpu, layer.parameters.dt_bias),
        norm_(gpu, layer.parameters.norm),
        slots_(gpu, std::vector<uint8_t>(static_cast<size_t>(slot_bytes_ * slots))),
        scratch_(gpu, std::vector<uint8_t>(static_cast<size_t>(gdn_chunks_scratch_bytes(shape_, inputs.rows, slots)),
                                           0xff)) {
    set_shape(shape_, &args_);
    args_.u = u_.data();
    args_.z = z_.data();
    args_.b = b_.data();
    args_.a = a_.data();
    args_.y = y_.data();
    args_.conv = conv_.data();
    args_.decay = decay_.data();
    args_.dt_bias = dt_bias_.data();
    args_.norm = norm_.data();
    args_.scratch = scratch_.data();
    args_.u_stride = shape_.channels();
    args_.z_stride = shape_.values();
    args_.b_stride = args_.a_stride = shape_.value_heads;
    args_.y_stride = shape_.values();
    args_.slot_offset = kOffset;
  }

  void prepare(const std::vector<Piece>& pieces) {
    std::vector<GpuGdnSequence> table;
    chunks_ = 0;
    for (const Piece& p : pieces) {
      GpuGdnSequence s;
      s.slot = slots_.data() + p.slot * slot_bytes_;
      s.row_begin = static_cast<int32_t>(p.row_begin);
      s.row_count = static_cast<int32_t>(p.row_count);
      s.position = static_cast<int32_t>(p.position);
      s.base = static_cast<int32_t>(gdn_base_before(p.position));
      chunks_ += gdn_chunk_count(s.position, s.row_count, s.base);
      table.push_back(s);
    }
    table_ = OnDevice<GpuGdnSequence>(gpu_, table);
    args_.sequences = table_.data();
    args_.sequence_count = static_cast<int32_t>(pieces.size());
  }
  void launch(Family family) {
    if (family == Family::kRows) {
      gdn_rows(gpu_, args_);
    } else {
      gdn_chunks(gpu_, args_, chunks_);
    }
  }
  void run(Family family, const std::vector<Piece>& pieces) {
    prepare(pieces);
    launch(family);
    y_.read();  // the next kernel may not start before this one has ended: they share slots
  }
  Floats y() const { return float_values(y_.read()); }
  std::vector<uint8_t> slot(int64_t i) const {
    const std::vector<uint8_t> all = slots_.read();
    return {all.begin() + i * slot_bytes_, all.begin() + (i + 1) * slot_bytes_};
  }

 private:
  Gpu gpu_;
  GdnShape shape_;
  int64_t slot_bytes_;
  OnDevice<float> u_;
  OnDevice<float> z_;
  OnDevice<float> b_;
  OnDevice<float> a_;
  OnDevice<uint16_t> y_;
  OnDevice<float> conv_;
  OnDevice<float> decay_;
  OnDevice<float> dt_bias_;
  OnDevice<float> norm_;
  OnDevice<uint8_t> slots_;
  OnDevice<uint8_t> scratch_;
  OnDevice<GpuGdnSequence> table_;
  GpuGdnPackedArgs args_;
  int64_t chunks_ = 0;
};

// The CPU's slot in the order of gdn_packed_args.h; parts of the ring behind `rows` are zeros in both.
struct SlotValues {
  Floats state;
  Floats keys;
  Floats update;
  Floats log_decay;
  Floats inputs;
};

SlotValues slot_values(const GdnShape& shape, const uint8_t* layer, int64_t rows, bool packed) {
  const GdnSlotParts parts = gdn_slot_parts(shape);
  const auto part = [layer](int64_t offset) { return reinterpret_cast<const float*>(layer + offset); };
  constexpr int64_t kDim = 128;
  SlotValues out;
  for (int64_t h = 0; h < shape.value_heads; ++h) {
    for (int64_t d = 0; d < kDim; ++d) {
      for (int64_t c = 0; c < kDim; ++c) {
        out.state.push_back(
            part(parts.state)[packed ? ((h * 4 + c / 32) * kDim + d) * 32 + c % 32 : (h * kDim + d) * kDim + c]);
      }
    }
    for (int64_t t = 0; t < rows; ++t) {
      out.log_decay.push_back(part(parts.log_decay)[h * 64 + t]);
      for (int64_t c = 0; c < kDim; ++c) {
        out.update.push_back(
            part(parts.update)[packed ? ((h * 4 + c / 32) * 64 + t) * 32 + c % 32 : (h * 64 + t) * kDim + c]);
      }
    }
  }
  for (int64_t h = 0; h < shape.key_heads; ++h) {
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t d = 0; d < kDim; ++d) {
        out.keys.push_back(part(parts.keys)[packed ? (h * 64 + t) * kDim + d : (h * kDim + d) * 64 + t]);
      }
    }
  }
  out.inputs.assign(part(parts.inputs), part(parts.inputs) + kGdnInputRing * shape.channels());
  return out;
}

// The CPU's slot after the first `count` rows.
SlotValues cpu_slot(const Layer& layer, const Inputs& inputs, int64_t count) {
  const GdnShape& shape = layer.shape;
  Cpu cpu;
  cpu.reserve_scratch(gdn_scratch_bytes(shape, cpu.threads()));
  AlignedBytes slot(gdn_slot_bytes(shape));
  gdn_zero_slot(shape, slot.data());
  Floats y(static_cast<size_t>(count * shape.values()));
  const GdnSequence sequence{0, count, 0, slot.data()};
  GdnArgs args;
  args.parameters = &layer.parameters;
  args.u = inputs.u.data();
  args.u_stride = shape.channels();
  args.z = inputs.z.data();
  args.z_stride = shape.values();
  args.b = inputs.b.data();
  args.b_stride = args.a_stride = shape.value_heads;
  args.a = inputs.a.data();
  args.sequences = {&sequence, 1};
  args.y = y.data();
  args.y_stride = shape.values();
  gdn(cpu, args);
  return slot_values(shape, reinterpret_cast<const uint8_t*>(slot.data()), count - gdn_base_before(count), false);
}

// Rows of the recurrence in double precision, rounded to bf16.
Floats expected_rows(const Layer& layer, const Inputs& s) {
  const GdnShape& shape = layer.shape;
  const reference::GdnInputs inputs{cases::rows_of(s.u, shape.channels()), cases::rows_of(s.z, shape.values()),
                                    cases::rows_of(s.b, shape.value_heads), cases::rows_of(s.a, shape.value_heads)};
  Floats out;
  for (const auto& row : reference::gdn(shape, layer.conv, layer.a_log, layer.dt_bias, layer.norm, inputs)) {
    for (const double x : row) out.push_back(bf16_to_float(float_to_bf16(static_cast<float>(x))));
  }
  return out;
}

Floats head_of(const Floats& all, int64_t rows, int64_t width) {
  return {all.begin(), all.begin() + rows * width};
}

// Where two arrays of rows differ most.
std::string worst(const Floats& got, const Floats& expected, int64_t width) {
  size_t at = 0;
  double most = -1;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = std::abs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    if (!(d <= most)) {
      at = i;
      most = d;
      if (std::isnan(d)) break;
    }
  }
  const auto i = static_cast<int64_t>(at);
  return "row " + std::to_string(i / width) + " column " + std::to_string(i % width) + ": " + std::to_string(got[at]) +
         " for " + std::to_string(expected[at]);
}

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
      Mixer mixer(gpu(), layer, inputs, 1);
      for (int64_t t = 0; t < rows;) {
        const int64_t count = std::min(rows - t, t % 3 == 0 ? int64_t{1} : int64_t{6});
        mixer.run(Family::kRows, {{0, t, count, t}});
        t += count;
      }
      const std::string what = "ratio " + std::to_string(ratio) + ", " + std::to_string(rows) + " rows";
      const Floats wanted = head_of(expected, rows, width);
      const Floats got = head_of(mixer.y(), rows, width);
      // A few values are rounded the other way.
      EXPECT_LT(relative_difference(got, wanted), 3e-4) << what << ", " << worst(got, wanted, width);
      const std::vector<uint8_t> slot = mixer.slot(0);
      expect_slots_near(slot_values(layer.shape, slot.data() + kOffset, rows - gdn_base_before(rows), true),
                        cpu_slot(layer, inputs, rows), 1e-5, what);
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
