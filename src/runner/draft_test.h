// For tests of drafting: a model that shows the logits which drafts are drawn from, and a driver that plans steps for a
// few sequences as a scheduler may, with what it does not know yet left to the runner.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <thread>

#include "runner/cpu_caches.h"
#include "runner/model_runner.h"
#include "runner/test_model.h"

namespace weir {

// Digests of the draft head's logits by (tokens before the row, place in the chain): a function of a sequence's tokens.
using DraftLog = std::map<std::pair<int64_t, int32_t>, uint64_t>;

inline uint64_t digest(std::span<const float> values) {
  uint64_t hash = 1469598103934665603U;
  for (const float value : values) hash = (hash ^ std::bit_cast<uint32_t>(value)) * 1099511628211U;
  return hash;
}

// What tests see of the executors and do to them.
struct Spy {
  std::map<int32_t, DraftLog> logs;  // by row of the batch table
  int32_t depth = 0;                 // passes of the draft head since the backbone's step
  Caches* caches = nullptr;          // made last
  // Logits are NaN: of the backbone behind as many tokens and more, of the draft head.
  int64_t broken_from = std::numeric_limits<int64_t>::max();
  bool broken_drafts = false;
  int64_t draft_logits = 0;  // of the draft head's last row
};

// The draft head's executor, looked at; or the backbone's, whose steps begin the chains.
class SpyExecutor final : public Executor {
 public:
  SpyExecutor(std::unique_ptr<Executor> inner, const Program* program, Spy* spy)
      : inner_(std::move(inner)), program_(program), spy_(spy) {}
  void set_hidden(int64_t first, int64_t count, const float* rows) override { inner_->set_hidden(first, count, rows); }
  void normed_rows(std::span<const int32_t> rows, float* out) override { inner_->normed_rows(rows, out); }
  int64_t buffer_bytes() const override { return inner_->buffer_bytes(); }
  void enqueue(const StepBatch& batch) override {
    batch_ = batch;
    if (!drafts()) spy_->depth = 0;
    inner_->enqueue(batch);
  }
  void collect(const Consume& consume) override {
    inner_->collect([&](const SampledBlock& block) {
      SampledBlock seen = block;
      look(block, &seen);
      consume(seen);
    });
    if (drafts()) ++spy_->depth;
  }

 private:
  bool drafts() const { return program_->hidden_in.valid(); }
  void look(const SampledBlock& block, SampledBlock* seen) {
    const auto width = static_cast<size_t>(program_->buffer(program_->logits).width);
    if (drafts()) spy_->draft_logits = static_cast<int64_t>(width);
    logits_.assign(block.logits, block.logits + static_cast<size_t>(block.count) * width);
    seen->logits = logits_.data();
    for (int64_t i = 0; i < block.count; ++i) {
      const std::span<float> logits = std::span(logits_).subspan(static_cast<size_t>(i) * width, width);
      const int64_t row = batch_.sampled[static_cast<size_t>(block.first + i)];
      const auto sequence = std::find_if(batch_.kv.begin(), batch_.kv.end(),
                                         [row](const KvSequence& kv) { return row < kv.row_begin + kv.row_count; });
      const int64_t position = sequence->position + row - sequence->row_begin;
      if (drafts()) {
        const auto index = static_cast<size_t>(sequence - batch_.kv.begin());
        spy_->logs[batch_.sequences[index].row][{position - spy_->depth, spy_->depth}] = digest(logits);
      }
      if (drafts() ? spy_->broken_drafts : position >= spy_->broken_from) {
        logits[width / 2] = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }

  std::unique_ptr<Executor> inner_;
  const Program* program_;
  Spy* spy_;
  StepBatch batch_;
  std::vector<float> logits_;
};

struct SpyModel final : Model {
  explicit SpyModel(std::unique_ptr<Model> of) : inner(std::move(of)) {
    config = inner->config;
    program = inner->program;
    draft_ids = inner->draft_ids;
    CpuOptions options;
    options.threads = 2;
    cpu = std::make_unique<Cpu>(options);
  }
  bool has_draft_head() const override { return inner->has_draft_head(); }
  std::string device_text() const override { return inner->device_text(); }
  int64_t weight_bytes() const override { return inner->weight_bytes(); }
  CacheSizes cache_sizes() const override { return inner->cache_sizes(); }
  Result<std::unique_ptr<Caches>> make_caches(const CacheLayout& layout, const std::vector<int32_t>& pages,
                                              int32_t slots) override {
    WEIR_ASSIGN_OR_RETURN(auto caches, inner->make_caches(layout, pages, slots));
    spy.caches = caches.get();
    return caches;
  }
  Result<std::unique_ptr<Executor>> make_executor(const Program& of, Caches* caches,
                                                  const ExecutorLimits& limits) override {
    WEIR_ASSIGN_OR_RETURN(auto executor, inner->make_executor(of, caches, limits));
    return std::unique_ptr<Executor>(new SpyExecutor(std::move(executor), &of, &spy));
  }

  std::unique_ptr<Model> inner;
  Spy spy;
};

// What a sequence yielded.
struct Yielded {
  std::vector<TokenId> tokens;
  std::vector<std::pair<TokenId, uint32_t>> logprobs;  // with the bits of the value
  StopReason stop = StopReason::kNone;
  DraftLog drafts;
};

// A sequence to be run: known tokens (prompt, then generated ones computed again), then steps of its own.
struct Request {
  std::vector<TokenId> known;
  int32_t prompt_length = 0;
  SamplingParams sampling;
  int32_t drafts = 0;
  // Sharing, of the row before: its first tokens' pages, and its state in this slot.
  RowId giver;
  StateSlotId checkpoint;
  int32_t reused = 0;
};

struct DriveOptions {
  int32_t chunk = 512;
  int32_t in_flight = 1;
  // Pages of these classes only for what a step must have.
  bool tight_pages = false;
  bool tight_draft_pages = false;
  bool pauses = false;  // two steps of five ask for no drafts
  int32_t max_steps = 1 << 20;
};

// How often drafts went which way.
struct DraftCounts {
  std::array<int64_t, kDraftsMax> accepted{};
  std::array<int64_t, kDraftsMax> rejected{};
  int64_t cut_at_grid = 0;
  int64_t saved_behind = 0;  // states saved with the cursor beyond
  int64_t steps = 0;
  int64_t tokens = 0;
};

inline constexpr int32_t kTestRows = 5;
inline constexpr int32_t kTestPages = 6;  // of a row
inline constexpr int32_t kTestSlots = kTestRows + 1;

class Driver {
 public:
  Driver(SpyModel* model, int32_t drafts_max, int64_t pinned_acceptance = -1) : model_(model) {
    limits_.rows_max = kTestRows;
    limits_.step_tokens_max = 1024;
    limits_.state_slots = kTestSlots;
    limits_.sequence_tokens_max = kTestPages * kGridTokens;
    limits_.vocabulary = static_cast<int32_t>(model->config.vocabulary);
    limits_.drafts_max = drafts_max;
    limits_.pinned_acceptance = pinned_acceptance;
    const CacheLayout layout = cache_layout(model->config, model->cache_sizes(), drafts_max > 0);
    limits_.pages.assign(layout.classes.size(), kTestRows * kTestPages);
    auto runner = ModelRunner::create(model, layout, limits_, [] {});
    EXPECT_TRUE(runner.ok()) << runner.error().text();
    runner_ = std::move(*runner);
    caches_ = model->spy.caches;
    for (const PageClass& pages : layout.classes) page_bytes_.push_back(pages.bytes_per_page);
  }

  DraftCounts counts;

  // Joins the request to a free row.
  void join(RowId row, Request request) {
    Row& target = rows_[row.index()];
    target = Row();
    target.request = std::move(request);
    target.live = true;
    model_->spy.logs[row.value()].clear();
    plan_.sampling.push_back(target.request.sampling);
    Edit& edit = add_edit(EditKind::kJoin, row);
    edit.first = static_cast<int32_t>(plan_.sampling.size()) - 1;
    edit.state = StateSlotId(row.value());
    edit.prompt_length = target.request.prompt_length;
    if (target.request.reused > 0) reuse(row);
  }
  void save(RowId row, int64_t position, StateSlotId to) {
    Edit& edit = add_edit(EditKind::kSaveState, row);
    edit.state = to;
    edit.position = position;
    rows_[row.index()].save_position = position;
  }
  Yielded leave(RowId row) {
    Row& target = rows_[row.index()];
    add_edit(EditKind::kLeave, row);
    target.live = false;
    target.yielded.drafts = model_->spy.logs[row.value()];
    return target.yielded;
  }
  const Yielded& yielded(RowId row) const { return rows_[row.index()].yielded; }

  // Steps until every row has ended, or max_steps have been planned.
  void drive(const DriveOptions& options) {
    int32_t planned = 0;
    while (true) {
      if (planned < options.max_steps && static_cast<int32_t>(flights_.size()) < options.in_flight && submit(options)) {
        ++planned;
        continue;
      }
      if (flights_.empty()) return;
      collect();
    }
  }

 private:
  struct Row {
    bool live = false;
    Request request;
    Yielded yielded;
    int64_t computed = 0;           // of the known tokens, planned
    int64_t position = 0;           // tokens computed for certain
    int64_t in_flight = 0;          // at most, of steps not seen
    std::vector<int32_t> pages[2];  // appended
    int64_t save_position = -1;
  };
  struct Flight {
    StepPlan plan;
    StepResult result;
    std::vector<int64_t> most;  // per work: tokens it may compute
  };

  Edit& add_edit(EditKind kind, RowId row) {
    Edit& edit = plan_.edits.emplace_back();
    edit.kind = kind;
    edit.row = row;
    return edit;
  }
  int32_t classes() const { return static_cast<int32_t>(limits_.pages.size()); }

  void append(RowId row, int32_t page_class, int32_t page) {
    Edit& edit = add_edit(EditKind::kAppendPages, row);
    edit.page_class = PageClassId(page_class);
    edit.first = static_cast<int32_t>(plan_.pages.size());
    edit.count = 1;
    plan_.pages.push_back(PageId(page));
    rows_[row.index()].pages[page_class].push_back(page);
  }
  // The row's next page that nobody else has, full of NaN: nothing may be read that was not written.
  void append_own(RowId row, int32_t page_class) {
    const auto page = row.value() * kTestPages + static_cast<int32_t>(rows_[row.index()].pages[page_class].size());
    std::memset(caches_->page(PageClassId(page_class), PageId(page)), 0xff,
                static_cast<size_t>(page_bytes_[static_cast<size_t>(page_class)]));
    append(row, page_class, page);
  }
  void grow(RowId row, int32_t page_class, int64_t tokens) {
    if (page_class >= classes()) return;
    const auto& pages = rows_[row.index()].pages[page_class];
    while (static_cast<int64_t>(pages.size()) * kGridTokens < std::min(tokens, limits_.sequence_tokens_max)) {
      append_own(row, page_class);
    }
  }

  // Whole pages of the giver, a copy of the page in part, and the state.
  void reuse(RowId row) {
    Row& target = rows_[row.index()];
    const Request& request = target.request;
    const int32_t whole = request.reused / kGridTokens;
    for (int32_t c = 0; c < classes(); ++c) {
      for (int32_t i = 0; i < whole; ++i)
        append(row, c, rows_[request.giver.index()].pages[c].at(static_cast<size_t>(i)));
      if (request.reused % kGridTokens == 0) continue;
      append_own(row, c);
      Edit& edit = add_edit(EditKind::kCopyPage, row);
      edit.page_class = PageClassId(c);
      edit.first = static_cast<int32_t>(plan_.pages.size());
      plan_.pages.push_back(PageId(rows_[request.giver.index()].pages[c].at(static_cast<size_t>(whole))));
      plan_.pages.push_back(PageId(row.value() * kTestPages + whole));
    }
    Edit& edit = add_edit(EditKind::kRestoreState, row);
    edit.state = request.checkpoint;
    edit.position = request.reused;
    target.computed = request.reused;
    target.position = request.reused;
  }

  bool submit(const DriveOptions& options) {
    std::vector<int64_t> most;
    for (int32_t i = 0; i < kTestRows; ++i) {
      if (rows_[static_cast<size_t>(i)].live) most.push_back(plan_row(RowId(i), options));
      if (!most.empty() && most.back() == 0) most.pop_back();
    }
    if (plan_.work.empty()) return false;
    Flight& flight = flights_.emplace_back();
    flight.plan = std::move(plan_);
    flight.most = std::move(most);
    plan_ = StepPlan();
    flight.plan.id = ++steps_;
    runner_->submit(&flight.plan, &flight.result);
    return true;
  }

  // Plans the row's next work; how many tokens it may compute.
  int64_t plan_row(RowId id, const DriveOptions& options) {
    Row& row = rows_[id.index()];
    const Request& request = row.request;
    const auto known = static_cast<int64_t>(request.known.size());
    SequenceWork work;
    work.row = id;
    int64_t most = 0;
    if (row.computed < known) {
      const bool prompt = row.computed < request.prompt_length;
      const int64_t end = prompt ? request.prompt_length : known;
      work.role = prompt ? RowRole::kPrompt : RowRole::kGenerated;
      work.position = row.computed;
      work.token_count = static_cast<int32_t>(std::min<int64_t>(options.chunk, end - row.computed));
      // A checkpoint of the known tokens is the end of a chunk.
      if (row.save_position > row.computed) {
        work.token_count = static_cast<int32_t>(std::min<int64_t>(work.token_count, row.save_position - row.computed));
      }
      work.first_token = static_cast<int32_t>(plan_.tokens.size());
      const auto begin = request.known.begin() + row.computed;
      plan_.tokens.insert(plan_.tokens.end(), begin, begin + work.token_count);
      row.computed += work.token_count;
      work.sample = row.computed == known;
      most = work.token_count;
    } else {
      if (row.yielded.stop != StopReason::kNone) return 0;
      work.role = RowRole::kGenerated;
      work.sample = true;
      work.token_count = 1;
      work.draft_count = request.drafts;
      work.position = std::min<int64_t>(row.position + row.in_flight, limits_.sequence_tokens_max);
      // No step for a row that will have ended whatever becomes of its drafts.
      const auto end = static_cast<int64_t>(request.prompt_length) + request.sampling.max_tokens;
      if (row.position + static_cast<int64_t>(flights_.size()) + 1 > end) return 0;
      most = 1 + work.draft_count;
    }
    if (work.sample) work.propose_count = options.pauses && steps_ % 5 < 2 ? 0 : request.drafts;
    const int64_t begin = row.position + row.in_flight;
    const int64_t least = begin + work.token_count;
    const int64_t plenty = begin + most + 1 + request.drafts;
    grow(id, 0, options.tight_pages ? least : plenty);
    grow(id, 1, options.tight_pages || options.tight_draft_pages ? least : plenty);
    row.in_flight += most;
    plan_.work.push_back(work);
    return most;
  }

  void collect() {
    Flight& flight = flights_.front();
    while (runner_->poll() == 0) std::this_thread::yield();
    const StepResult& result = flight.result;
    ASSERT_EQ(result.fault, "");
    for (size_t i = 0; i < flight.plan.work.size(); ++i)
      take(flight.plan.work[i], flight.most[i], result, result.sequences[i]);
    flights_.pop_front();
  }

  void take(const SequenceWork& work, int64_t most, const StepResult& result, const SequenceResult& item) {
    Row& row = rows_[work.row.index()];
    row.in_flight -= most;
    if (item.stop != StopReason::kNone) row.yielded.stop = item.stop;
    if (item.stop == StopReason::kNotFinite) return;
    ASSERT_LE(item.drafted_count, work.draft_count);
    ASSERT_LE(item.token_count, 1 + item.drafted_count);
    for (int32_t i = 0; i < item.token_count; ++i) {
      row.yielded.tokens.push_back(result.tokens.at(static_cast<size_t>(item.first_token + i)));
      if (row.request.sampling.logprobs < 0) continue;
      const LogprobRow& logprobs = result.rows.at(static_cast<size_t>(item.first_row + i));
      for (int32_t k = 0; k <= logprobs.top_count; ++k) {
        const TokenLogprob& p = result.logprobs.at(static_cast<size_t>(logprobs.first + k));
        row.yielded.logprobs.emplace_back(p.token, std::bit_cast<uint32_t>(p.logprob));
      }
    }
    const int64_t before = row.position;
    if (work.first_token >= 0) {
      row.position += work.token_count;
    } else {
      row.position += item.token_count;
      count(work, before, item);
    }
    if (before < row.save_position && row.position > row.save_position) ++counts.saved_behind;
  }

  void count(const SequenceWork& work, int64_t position, const SequenceResult& item) {
    if (item.token_count == 0) return;
    ++counts.steps;
    counts.tokens += item.token_count;
    const int64_t grid =
        (position + 1) / kGridTokens * kGridTokens + kGridTokens;  // the first at position + 2 or behind
    ASSERT_LT(position + item.drafted_count, grid);
    if (item.drafted_count < work.draft_count && position + item.drafted_count + 1 == grid) ++counts.cut_at_grid;
    for (int32_t i = 0; i + 1 < item.token_count; ++i) ++counts.accepted[static_cast<size_t>(i)];
    if (item.token_count <= item.drafted_count && item.stop == StopReason::kNone) {
      ++counts.rejected[static_cast<size_t>(item.token_count - 1)];
    }
  }

  SpyModel* model_;
  RunnerLimits limits_;
  std::unique_ptr<ModelRunner> runner_;
  Caches* caches_ = nullptr;
  std::vector<int64_t> page_bytes_;
  std::array<Row, kTestRows> rows_;
  std::deque<Flight> flights_;
  StepPlan plan_;
  StepId steps_ = 0;
};

}  // namespace weir
