#include "ops/attention/attention.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "ops/attention/attention_fp8_pages.h"
#include "ops/attention/attention_kernels.h"
#include "ops/cpu/kernel_table.h"

namespace weir {
namespace {

// Query rows times heads that go through a block together: eight register tiles of six rows, whose outputs (E = 256: 48
// KiB) stay in the second-level cache.
constexpr int64_t kUnits = 48;
constexpr int64_t kPrepareRows = 4;  // rows of a preparation task: a few microseconds

int64_t group_of(const AttentionShape& shape) {
  return shape.heads / shape.kv_heads;
}
int64_t value_stride(const AttentionShape& shape) {
  return round_up(shape.head_dim, 16);
}
Fp8PageLayout fp8_layout(const AttentionShape& shape) {
  return {round_up(shape.head_dim, 4), value_stride(shape)};
}
// Floats of a thread's keys before they are in a page, and of an expanded block.
int64_t temp_floats(const AttentionShape& shape) {
  return shape.fp8 ? shape.kv_heads * shape.head_dim : shape.head_dim;
}
int64_t expanded_floats(const AttentionShape& shape) {
  return shape.fp8 ? (fp8_layout(shape).key_rows + value_stride(shape)) * kAttentionBlock : 0;
}
int64_t block_rows(const AttentionShape& shape) {
  return std::max<int64_t>(1, kUnits / group_of(shape));
}
int64_t units_max(const AttentionShape& shape) {
  return block_rows(shape) * group_of(shape);
}

int64_t state_bytes(const AttentionShape& shape) {
  return round_up(units_max(shape) * (1 + 16 + value_stride(shape)) * static_cast<int64_t>(sizeof(float)), kCacheLine);
}
int64_t thread_bytes(const AttentionShape& shape) {
  return expanded_floats(shape) * static_cast<int64_t>(sizeof(float)) +
         round_up(units_max(shape) * (kAttentionBlock * 4 + 16), kCacheLine) + 2 * state_bytes(shape);
}
// States of a wave when segments are spread over threads: see attend_spread.
int64_t spread_states(int threads) {
  return 8 * threads;
}

AttendState state_at(const AttentionShape& shape, std::byte* memory) {
  AttendState state;
  state.sum = reinterpret_cast<float*>(memory);
  state.out = state.sum + units_max(shape) * 16;
  state.max = state.out + units_max(shape) * value_stride(shape);
  return state;
}

// A block of rows of one sequence and one key head.
struct Item {
  const KvSequence* sequence;
  int64_t row;  // within the sequence
  int64_t rows;
  int64_t kv_head;

  int64_t segments() const { return (sequence->position + row + rows + kAttentionSegment - 1) / kAttentionSegment; }
};

class Attention {
 public:
  Attention(Cpu& cpu, const AttentionArgs& args, Cpu::Frame& frame)
      : cpu_(cpu), args_(args), group_(group_of(args.shape)) {
    for (const KvSequence& s : args.sequences) rows_ = std::max(rows_, s.row_begin + s.row_count);
    q_stride_ = args.shape.heads * args.shape.head_dim;
    const int64_t rope_floats = std::max<int64_t>(1, args.rope->rope_dim());
    q_ = frame.take<float>(rows_ * q_stride_);
    rope_ = frame.take<float>(cpu.threads() * rope_floats);
    temp_ = frame.take<float>(cpu.threads() * temp_floats(args.shape));
    threads_ = frame.take<std::byte>(cpu.threads() * thread_bytes(args.shape));
    states_ = frame.take<std::byte>(spread_states(cpu.threads()) * state_bytes(args.shape));
    items_ = frame.take<Item>(rows_ * args.shape.kv_heads);
    list_items();
  }

  void run() {
    prepare();
    int64_t segments_max = 0;
    for (int64_t i = 0; i < item_count_; ++i) segments_max = std::max(segments_max, items_[i].segments());
    if (segments_max > 1 && cpu_.threads() > 1 && item_count_ < 2 * cpu_.threads()) {
      attend_spread(segments_max);
    } else {
      cpu_.pool().parallel_for(item_count_, [this](int64_t i, int thread) { attend_item(items_[i], thread); });
    }
  }

 private:
  void list_items() {
    const int64_t block = block_rows(args_.shape);
    for (const KvSequence& s : args_.sequences) {
      for (int64_t row = 0; row < s.row_count; row += block) {
        for (int64_t h = 0; h < args_.shape.kv_heads; ++h) {
          items_[item_count_++] = {&s, row, std::min(block, s.row_count - row), h};
        }
      }
    }
  }

  void prepare_row(const KvSequence& s, int64_t row, int thread) {
    const int64_t position = s.position + row;
    const int64_t t = s.row_begin + row;
    float* cos = rope_ + thread * args_.rope->rope_dim();
    AttentionPrepareRow work;
    work.heads = args_.shape.heads;
    work.kv_heads = args_.shape.kv_heads;
    work.head_dim = args_.shape.head_dim;
    work.value_stride = value_stride(args_.shape);
    work.rope_half = args_.rope->rope_dim() / 2;
    work.eps = args_.shape.eps;
    work.scale = 1.0F / std::sqrt(static_cast<float>(args_.shape.head_dim));
    work.qg = args_.qg + t * args_.qg_stride;
    work.k = args_.k + t * args_.k_stride;
    work.v = args_.v + t * args_.v_stride;
    work.q_norm = args_.q_norm;
    work.k_norm = args_.k_norm;
    work.cos = cos;
    work.sin = cos + work.rope_half;
    args_.rope->at(position, cos, cos + work.rope_half);
    work.q = q_ + t * q_stride_;
    work.temp = temp_ + thread * temp_floats(args_.shape);
    std::byte* page = s.pages[position / kKvPageTokens] + args_.page_offset;
    work.column = position % kKvPageTokens;
    if (!args_.shape.fp8) work.page = reinterpret_cast<float*>(page);
    cpu_.kernels().attention_prepare_row(work);
    if (!args_.shape.fp8) return;
    const Fp8PageLayout layout = fp8_layout(args_.shape);
    for (int64_t h = 0; h < work.kv_heads; ++h) {
      const int64_t at = h * work.head_dim;
      write_fp8_token(layout, work.temp + at, work.v + at, work.head_dim, work.column, page + h * layout.bytes());
    }
  }

  void prepare() {
    int64_t tasks = 0;
    for (const KvSequence& s : args_.sequences) tasks += (s.row_count + kPrepareRows - 1) / kPrepareRows;
    if (rows_ <= kPrepareRows) {
      for (const KvSequence& s : args_.sequences) {
        for (int64_t row = 0; row < s.row_count; ++row) prepare_row(s, row, 0);
      }
      return;
    }
    cpu_.pool().parallel_for(tasks, [this](int64_t task, int thread) {
      for (const KvSequence& s : args_.sequences) {
        const int64_t own = (s.row_count + kPrepareRows - 1) / kPrepareRows;
        if (task >= own) {
          task -= own;
          continue;
        }
        const int64_t end = std::min(s.row_count, (task + 1) * kPrepareRows);
        for (int64_t row = task * kPrepareRows; row < end; ++row) prepare_row(s, row, thread);
        return;
      }
    });
  }

  void attend(const Item& item, int64_t segment, const AttendState& state, int thread) {
    const AttentionShape& shape = args_.shape;
    std::byte* memory = threads_ + thread * thread_bytes(shape);
    AttendSegment work;
    work.head_dim = shape.head_dim;
    work.value_stride = value_stride(shape);
    work.group = group_;
    work.rows = item.rows;
    work.position = item.sequence->position + item.row;
    work.first = item.sequence->first;
    work.q = q_ + (item.sequence->row_begin + item.row) * q_stride_ + item.kv_head * group_ * shape.head_dim;
    work.q_stride = q_stride_;
    work.pages = item.sequence->pages;
    work.page_offset = args_.page_offset + item.kv_head * kv_page_bytes(shape) / shape.kv_heads;
    work.token_begin = segment * kAttentionSegment;
    work.token_end = work.token_begin + kAttentionSegment;
    work.state = state;
    if (shape.fp8) {
      work.expanded = reinterpret_cast<float*>(memory);
      memory += expanded_floats(shape) * static_cast<int64_t>(sizeof(float));
    }
    work.rows_of_a = reinterpret_cast<const float**>(memory);
    work.scores = reinterpret_cast<float*>(memory + units_max(shape) * 16);
    cpu_.kernels().attend_segment(work);
  }

  void merge(const Item& item, const AttendState& into, const AttendState& from) {
    cpu_.kernels().attend_merge({item.rows * group_, value_stride(args_.shape), into, from});
  }

  void finish(const Item& item, const AttendState& state) {
    const AttentionShape& shape = args_.shape;
    const int64_t t = item.sequence->row_begin + item.row;
    const int64_t head = item.kv_head * group_;
    AttendFinish work;
    work.rows = item.rows;
    work.group = group_;
    work.head_dim = shape.head_dim;
    work.value_stride = value_stride(shape);
    work.state = state;
    work.gate = args_.qg + t * args_.qg_stride + head * 2 * shape.head_dim + shape.head_dim;
    work.gate_stride = args_.qg_stride;
    work.y = args_.y + t * args_.y_stride + head * shape.head_dim;
    work.y_stride = args_.y_stride;
    cpu_.kernels().attend_finish(work);
  }

  void attend_item(const Item& item, int thread) {
    const AttentionShape& shape = args_.shape;
    std::byte* memory = threads_ + (thread + 1) * thread_bytes(shape) - 2 * state_bytes(shape);
    const AttendState total = state_at(shape, memory);
    const AttendState part = state_at(shape, memory + state_bytes(shape));
    attend(item, 0, total, thread);
    for (int64_t segment = 1; segment < item.segments(); ++segment) {
      attend(item, segment, part, thread);
      merge(item, total, part);
    }
    finish(item, total);
  }

  // Few items with a long context: waves of segments in parallel, merged in ascending order between the waves.
  void attend_spread(int64_t segments_max) {
    const AttentionShape& shape = args_.shape;
    const int64_t wave = spread_states(cpu_.threads()) / item_count_ - 1;  // states: one total and `wave` parts an item
    const auto state = [&](int64_t item, int64_t index) {
      return state_at(shape, states_ + (item * (wave + 1) + index) * state_bytes(shape));
    };
    for (int64_t first = 0; first < segments_max; first += wave) {
      cpu_.pool().parallel_for(item_count_ * wave, [&](int64_t task, int thread) {
        const int64_t i = task / wave;
        const int64_t segment = first + task % wave;
        if (segment < items_[i].segments()) {
          attend(items_[i], segment, state(i, segment == 0 ? 0 : 1 + task % wave), thread);
        }
      });
      for (int64_t i = 0; i < item_count_; ++i) {
        const int64_t end = std::min(items_[i].segments(), first + wave);
        for (int64_t segment = std::max<int64_t>(1, first); segment < end; ++segment) {
          merge(items_[i], state(i, 0), state(i, 1 + segment - first));
        }
      }
    }
    for (int64_t i = 0; i < item_count_; ++i) finish(items_[i], state(i, 0));
  }

  Cpu& cpu_;
  const AttentionArgs& args_;
  int64_t group_;
  int64_t rows_ = 0;
  int64_t q_stride_ = 0;
  int64_t item_count_ = 0;
  float* q_ = nullptr;
  float* rope_ = nullptr;
  float* temp_ = nullptr;
  std::byte* threads_ = nullptr;
  std::byte* states_ = nullptr;
  Item* items_ = nullptr;
};

void check(const AttentionShape& shape) {
  WEIR_CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0, "{} heads over {}", shape.heads, shape.kv_heads);
  WEIR_CHECK(shape.head_dim > 0, "heads of {} values", shape.head_dim);
  WEIR_CHECK(shape.rope_dim % 2 == 0 && shape.rope_dim <= shape.head_dim, "rope over {} of {} dims", shape.rope_dim,
             shape.head_dim);
}

}  // namespace

int64_t kv_page_bytes(const AttentionShape& shape) {
  if (shape.fp8) return shape.kv_heads * fp8_layout(shape).bytes();
  return shape.kv_heads * kKvPageTokens * (shape.head_dim + value_stride(shape)) * static_cast<int64_t>(sizeof(float));
}

int64_t attention_scratch_bytes(const AttentionShape& shape, int64_t rows, int threads) {
  constexpr int64_t kBlocks = 6;  // take() calls of Attention, each rounded up to a cache line
  return rows * shape.heads * shape.head_dim * 4 + threads * (shape.rope_dim + 1 + temp_floats(shape)) * 4 +
         threads * thread_bytes(shape) + spread_states(threads) * state_bytes(shape) +
         rows * shape.kv_heads * static_cast<int64_t>(sizeof(Item)) + kBlocks * kCacheLine;
}

void attention(Cpu& cpu, const AttentionArgs& args) {
  check(args.shape);
  WEIR_CHECK(args.rope != nullptr && args.rope->rope_dim() == args.shape.rope_dim, "no rope table of {} dims",
             args.shape.rope_dim);
  if (args.sequences.empty()) return;
  for (const KvSequence& s : args.sequences) {
    WEIR_CHECK(s.first >= 0 && s.first < kAttentionBlock && s.first <= s.position, "tokens from {} on of a row at {}",
               s.first, s.position);
  }
  Cpu::Frame frame(cpu);
  Attention(cpu, args, frame).run();
}

}  // namespace weir
