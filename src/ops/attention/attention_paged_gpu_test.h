// For tests of attention over pages: sequences with what they become by the definition, and their pages on the device.
#pragma once

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "ops/attention/attention.h"
#include "ops/attention/attention_paged_gpu.h"
#include "ops/gpu/gpu_test.h"
#include "tensor/fp8_row.h"

namespace weir::paged_test {

inline constexpr int kE = kPagedHeadDim;
inline constexpr double kTheta = 1e7;
inline constexpr int64_t kOffset = 4096;  // the layer's part does not begin the page

struct Shape {
  int heads = 2;
  int kv_heads = 1;
  int rope_half = 32;
  bool fp8 = false;  // pages
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

inline size_t index_of(int64_t i) {
  return static_cast<size_t>(i);
}

inline float round_to_bf16(double x) {
  return bf16_to_float(float_to_bf16(static_cast<float>(x)));
}

// Rounds E numbers to FP8 in place; the scale.
inline uint8_t round_to_fp8(float* row) {
  uint32_t largest = 0;
  for (int e = 0; e < kE; ++e) largest = std::max(largest, std::bit_cast<uint32_t>(row[e]) & 0x7fffffffU);
  const uint8_t scale = fp8_row_scale(largest);
  for (int e = 0; e < kE; ++e) {
    const uint8_t code = scale == kFp8RowNan ? 0 : fp8_row_code(row[e], scale);
    row[e] = fp8_e4m3_to_float(code) * fp8_row_step(scale);
  }
  return scale;
}

// One sequence: its inputs, and what they become by the definition, in double but for the roundings to bf16 or FP8.
class Sequence {
 public:
  Sequence(const Shape& shape, int tokens, uint64_t seed, const std::vector<float>& q_norm,
           const std::vector<float>& k_norm)
      : shape_(shape), tokens_(tokens) {
    in_.qg = normal_values(index_of(tokens * shape.heads * 2 * kE), 1.5F, seed);
    in_.k = normal_values(index_of(tokens * shape.kv_heads * kE), 1.5F, seed + 1);
    in_.v = normal_values(index_of(tokens * shape.kv_heads * kE), 1.0F, seed + 2);
    for (int t = 0; t < tokens; ++t) {
      for (int h = 0; h < shape.heads; ++h) {
        for (const double x : prepare(&in_.qg[at(t, h, shape.heads) * 2], q_norm, t)) q_.push_back(round_to_bf16(x));
      }
      for (int h = 0; h < shape.kv_heads; ++h) {
        for (const double x : prepare(&in_.k[at(t, h, shape.kv_heads)], k_norm, t)) {
          k_.push_back(shape.fp8 ? static_cast<float>(x) : round_to_bf16(x));
        }
      }
    }
    for (const float x : in_.v) v_.push_back(shape.fp8 ? x : round_to_bf16(x));
    if (!shape.fp8) return;
    for (auto* of : {&k_, &v_}) {
      for (size_t i = 0; i < of->size(); i += kE) round_to_fp8(of->data() + i);
    }
  }

  int tokens() const { return tokens_; }
  const Inputs& inputs() const { return in_; }
  // Another row of values, without a change of what is expected.
  void set_values(int t, int h, const std::vector<float>& row) {
    std::copy(row.begin(), row.end(), in_.v.begin() + static_cast<std::ptrdiff_t>(at(t, h, shape_.kv_heads)));
  }
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

  std::vector<double> prepare(const float* x, const std::vector<float>& weight, int t) const {
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
    return y;
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
    const auto page_bytes = index_of(kOffset + paged_kv_bytes(shape.kv_heads, shape.fp8));
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
  Sequence& sequence(int i) { return sequences_[index_of(i)]; }

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
    return attend(rows, call);
  }
  // The same of rows that are prepared.
  std::vector<uint16_t> attend(const std::vector<Row>& rows, const RowsCall& call) {
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
    return attend_prompt(prompts);
  }
  // The same of rows that are prepared.
  std::vector<uint16_t> attend_prompt(const std::vector<PromptRows>& prompts) {
    int64_t rows = 0;
    for (const PromptRows& p : prompts) rows += p.row_count;
    const auto list = paged_attention_tiles(prompts, shape_.group());
    EXPECT_LE(static_cast<int64_t>(list.size()),
              paged_prompt_tiles_max(rows, static_cast<int64_t>(prompts.size()), shape_.group()));
    const OnDevice<GpuPromptTile> tiles(gpu_, list);
    GpuPagedAttentionArgs a = args();
    a.tiles = tiles.data();
    paged_attention_prompt(gpu_, a, static_cast<int64_t>(list.size()));
    return y_.read();
  }

  std::vector<uint16_t> queries() const { return q_.read(); }
  // Keys (part 0) or values (1) as they lie in the page.
  std::vector<uint8_t> tile(int sequence, int page, int kv, int part) {
    std::vector<uint8_t> out(index_of(tile_bytes()));
    gpu_.stream->copy_out(out.data(), tile_address(sequence, page, kv, part), tile_bytes());
    EXPECT_TRUE(gpu_.stream->wait().ok());
    return out;
  }
  void set_tile(int sequence, int page, int kv, int part, const std::vector<uint8_t>& bytes) {
    gpu_.stream->copy_in(tile_address(sequence, page, kv, part), bytes.data(), tile_bytes());
    EXPECT_TRUE(gpu_.stream->wait().ok());
  }
  // The values of a tile: [64][E].
  std::vector<float> tile_values(int sequence, int page, int kv, int part) {
    const auto bytes = tile(sequence, page, kv, part);
    std::vector<float> values;
    for (int t = 0; t < kPagedTokens; ++t) {
      for (int e = 0; e < kE; ++e) {
        uint16_t bits = 0;
        if (!shape_.fp8) std::memcpy(&bits, &bytes[index_of(paged_tile_byte(t, e))], 2);
        values.push_back(shape_.fp8 ? fp8_e4m3_to_float(bytes[index_of(paged_fp8_byte(t, e))]) *
                                          fp8_row_step(bytes[index_of(kPagedFp8Codes + t)])
                                    : bf16_to_float(bits));
      }
    }
    return values;
  }
  // Pages of bf16 get the values of other pages.
  void take_pages(World& other, int sequence) {
    for (int page = 0; page < static_cast<int>(page_count(this->sequence(sequence).tokens())); ++page) {
      for (int part = 0; part < 2 * shape_.kv_heads; ++part) {
        const auto values = other.tile_values(sequence, page, part / 2, part % 2);
        std::vector<uint8_t> bytes(kPagedTileBytes);
        for (int i = 0; i < kPagedTokens * kE; ++i) {
          const uint16_t bits = float_to_bf16(values[index_of(i)]);
          std::memcpy(&bytes[index_of(paged_tile_byte(i / kE, i % kE))], &bits, 2);
        }
        set_tile(sequence, page, part / 2, part % 2, bytes);
      }
    }
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
  int64_t tile_bytes() const { return shape_.fp8 ? kPagedFp8TileBytes : kPagedTileBytes; }
  std::byte* tile_address(int sequence, int page, int kv, int part) {
    const auto list = lists_[index_of(sequence)].read();
    return reinterpret_cast<std::byte*>(list[index_of(page)]) + kOffset + (kv * 2 + part) * tile_bytes();
  }
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
    a.fp8 = shape_.fp8 ? 1 : 0;
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

inline std::vector<uint16_t> row_of(const std::vector<uint16_t>& y, size_t row, const Shape& shape) {
  const auto width = static_cast<std::ptrdiff_t>(shape.heads * kE);
  const auto begin = y.begin() + static_cast<std::ptrdiff_t>(row) * width;
  return {begin, begin + width};
}

}  // namespace weir::paged_test
