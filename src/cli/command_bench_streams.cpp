#include "cli/command_bench_streams.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <span>
#include <utility>
#include <vector>

namespace weir {
namespace {

struct Stream {
  int64_t first_us = 0;
  int64_t last_us = 0;  // of its end, or of the last output token that counts
  int64_t counted = 0;  // tokens since all decode
  bool ended = false;
};

class Runner {
 public:
  Runner(EngineHost& host, const LoadedModel& model, const StreamRun& what)
      : client_(host.client()), clock_(host.clock()), limits_(model.memory.limits), what_(what), random_(what.seed) {}

  Result<Measured> run() {
    WEIR_RETURN_IF_ERROR(submit());
    Event event;
    while (open_ > 0) {
      if (!client_.poll(&event)) {
        pollfd wait{client_.event_fd(), POLLIN, 0};
        ::poll(&wait, 1, 1000);
        continue;
      }
      WEIR_RETURN_IF_ERROR(take(event));
    }
    return measured();
  }

 private:
  // While the last prompts are computed the first streams decode: so many tokens more.
  int64_t tokens_max() const {
    const int64_t a_step = 1 + limits_.drafts_max;
    const int64_t rows = std::max<int64_t>(1, limits_.step_tokens_max - what_.streams * a_step);
    const int64_t others = (what_.streams - 1) * a_step * ((what_.prompt_tokens + rows - 1) / rows + 2);
    return std::min(what_.output_tokens + others, limits_.sequence_tokens_max - what_.prompt_tokens);
  }

  Status submit() {
    WEIR_ASSIGN_OR_RETURN(Ticket ticket, client_.try_reserve(static_cast<int32_t>(what_.streams)));
    start_us_ = clock_.now_us();
    for (int64_t i = 0; i < what_.streams; ++i) {
      std::vector<TokenId> prompt = what_.beginning;
      const auto more = random_tokens(what_.prompt_tokens - std::ssize(prompt), limits_.vocabulary, &random_);
      prompt.insert(prompt.end(), more.begin(), more.end());
      GenerateHeader header;
      header.id = client_.next_id();
      header.arrival_us = start_us_;
      header.sampling.temperature = 0;
      header.sampling.seed = static_cast<uint64_t>(i);  // of pinned acceptance: no stream's chances are another's
      header.sampling.max_tokens = static_cast<int32_t>(tokens_max());
      WEIR_RETURN_IF_ERROR(queue(&ticket, header, prompt));
      if (i == 0) first_ = header.id;
      streams_[header.id] = {};
    }
    waiting_ = open_ = what_.streams;
    return Ok{};
  }

  // The ring to the engine may be full of prompts that it has not read yet.
  Status queue(Ticket* ticket, const GenerateHeader& header, std::span<const TokenId> prompt) {
    constexpr int kTries = 1000;
    Status status = Ok{};
    for (int i = 0; i < kTries; ++i) {
      status = client_.submit(ticket, header, prompt);
      if (status.ok() || status.error().code != ErrorCode::kExhausted) return status;
      ::poll(nullptr, 0, 1);
    }
    return status;
  }

  Status take(const Event& event) {
    const EventHeader& header = event.header;
    Stream& stream = streams_.at(header.id);
    if (header.token_count > 0 && stream.first_us == 0) {
      stream.first_us = header.now_us;
      if (--waiting_ == 0) {
        begin_us_ = header.now_us;
        at_begin_ = client_.stats();
        if (what_.all_decode) what_.all_decode();
      }
    }
    if (header.id == first_) tokens_.insert(tokens_.end(), event.tokens.begin(), event.tokens.end());
    for (int32_t i = 0; i < header.token_count; ++i) token_times_.push_back(header.now_us);
    if (header.token_count > 0) step_times_.push_back(header.now_us);
    if (waiting_ == 0 && header.now_us > begin_us_ && stream.last_us == 0) {
      stream.counted += header.token_count;
      if (stream.counted >= what_.output_tokens - 1) {
        end(header.now_us, &stream);
        stream.ended = true;
        client_.cancel(header.id);
      }
    }
    if (header.finish == FinishReason::kNone) return Ok{};
    if (header.finish != FinishReason::kLength && !stream.ended) {
      return make_error(ErrorCode::kInternal, "a stream ended early: {}", event.message);
    }
    if (waiting_ > 0) {
      return Error{ErrorCode::kExhausted,
                   fmt::format("a stream filled its context before all {} decoded", what_.streams),
                   "raise --max-model-len, or lower --streams"};
    }
    if (stream.last_us == 0) end(header.now_us, &stream);
    --open_;
    return Ok{};
  }

  void end(int64_t now_us, Stream* stream) {
    stream->last_us = now_us;
    if (one_ended_) return;
    one_ended_ = true;
    at_end_ = client_.stats();
  }

  Measured measured() {
    int64_t end_us = INT64_MAX;
    for (const auto& [id, stream] : streams_) end_us = std::min(end_us, stream.last_us);
    Measured out;
    out.tokens = std::move(tokens_);
    out.first_token_s = static_cast<double>(begin_us_ - start_us_) / 1e6;
    const auto before =
        std::count_if(token_times_.begin(), token_times_.end(), [&](int64_t time) { return time <= begin_us_; });
    const auto inside = [&](int64_t time) { return time > begin_us_ && time <= end_us; };
    const auto counted = std::count_if(token_times_.begin(), token_times_.end(), inside);
    const auto steps = std::count_if(step_times_.begin(), step_times_.end(), inside);
    if (steps > 0) out.drafts.tokens_a_step = static_cast<double>(counted) / static_cast<double>(steps);
    out.drafts.drafted = at_end_.draft_tokens - at_begin_.draft_tokens;
    out.drafts.accepted = at_end_.accepted_tokens - at_begin_.accepted_tokens;
    out.context = what_.prompt_tokens + (before + counted / 2) / what_.streams;
    if (end_us > begin_us_) {
      out.decode_tokens_s = static_cast<double>(counted) / (static_cast<double>(end_us - begin_us_) / 1e6);
    }
    return out;
  }

  EngineClient client_;
  const Clock& clock_;
  const RunnerLimits& limits_;
  const StreamRun what_;
  std::mt19937 random_;
  std::map<SequenceId, Stream> streams_;
  SequenceId first_ = 0;
  std::vector<TokenId> tokens_;  // of the first
  std::vector<int64_t> token_times_;
  std::vector<int64_t> step_times_;  // of a stream's steps
  EngineStats at_begin_;             // when all decode
  EngineStats at_end_;               // when one has ended
  bool one_ended_ = false;
  int64_t start_us_ = 0;
  int64_t begin_us_ = 0;  // the last stream's first token
  int64_t waiting_ = 0;   // streams without a token
  int64_t open_ = 0;
};

// The label that every figure with drafts has.
std::string acceptance_label(const Options& options) {
  if (options.pinned_acceptance == 0) return "acceptance measured";
  return fmt::format("pinned acceptance {} (set, not measured)", options.pinned_acceptance);
}

}  // namespace

std::string drafts_text(const Options& options, const LoadedModel& model, const DraftsMeasured& drafts) {
  if (model.memory.limits.drafts_max == 0) return {};
  return fmt::format("; {:.2f} tokens a step, {} of {} drafts accepted; {}", drafts.tokens_a_step, drafts.accepted,
                     drafts.drafted, acceptance_label(options));
}

nlohmann::ordered_json drafts_json(const Options& options, const LoadedModel& model, const DraftsMeasured& drafts) {
  if (model.memory.limits.drafts_max == 0) return nlohmann::ordered_json::object();
  return {{"drafts_max", model.memory.limits.drafts_max},
          {"adaptive_drafts", options.adaptive_drafts},
          {"tokens_a_step", drafts.tokens_a_step},
          {"drafted", drafts.drafted},
          {"accepted", drafts.accepted},
          {"acceptance", acceptance_label(options)}};
}

std::vector<TokenId> random_tokens(int64_t count, int32_t vocabulary, std::mt19937* random) {
  std::vector<TokenId> tokens(static_cast<size_t>(std::max<int64_t>(0, count)));
  for (TokenId& token : tokens) token = static_cast<TokenId>((*random)() % static_cast<uint32_t>(vocabulary));
  return tokens;
}

Result<Measured> run_streams(EngineHost& host, const LoadedModel& model, const StreamRun& what) {
  return Runner(host, model, what).run();
}

Result<Measured> best_streams(EngineHost& host, const LoadedModel& model, int64_t repeats, const StreamRun& what) {
  Measured best;
  for (int64_t i = 0; i < repeats; ++i) {
    StreamRun once = what;
    once.seed = static_cast<uint32_t>(1000 * what.seed + i);
    WEIR_ASSIGN_OR_RETURN(const Measured one, run_streams(host, model, once));
    if (i == 0 || one.first_token_s < best.first_token_s) best.first_token_s = one.first_token_s;
    best.context = one.context;
    if (i > 0 && one.decode_tokens_s <= best.decode_tokens_s) continue;
    best.decode_tokens_s = one.decode_tokens_s;
    best.drafts = one.drafts;
  }
  return best;
}

}  // namespace weir
