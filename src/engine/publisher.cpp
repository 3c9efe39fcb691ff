#include "engine/publisher.h"

#include <algorithm>

namespace weir {

namespace {

constexpr int64_t kHeaderBytes = sizeof(EventHeader);

FinishReason reason_of(StopReason stop) {
  switch (stop) {
    case StopReason::kNone:
      return FinishReason::kNone;
    case StopReason::kStopId:
      return FinishReason::kStop;
    case StopReason::kLength:
      return FinishReason::kLength;
    case StopReason::kNotFinite:
      return FinishReason::kError;
  }
  return FinishReason::kError;
}

int32_t logprob_total(std::span<const LogprobRow> rows) {
  int32_t total = 0;
  for (const LogprobRow& row : rows) total += 1 + row.top_count;
  return total;
}

template <class T>
int64_t bytes_of(int64_t count) {
  return count * static_cast<int64_t>(sizeof(T));
}

// An event without what its tokens add: the padding of a frame, and the one message that a result may lead to.
int64_t frame_bytes_max() {
  return ByteRing::frame_bytes(kHeaderBytes + static_cast<int64_t>(kNotFiniteMessage.size())) + 8;
}

}  // namespace

int64_t step_event_bytes_max(const RunnerLimits& limits) {
  const int64_t rows = static_cast<int64_t>(limits.step_tokens_max) + limits.rows_max;
  return limits.rows_max * (frame_bytes_max() + bytes_of<TokenId>(1 + limits.drafts_max)) +
         rows * (bytes_of<LogprobRow>(1) + bytes_of<TokenLogprob>(1 + kTopLogprobsMax));
}

int64_t result_event_bytes(const StepResult& result) {
  const auto size = [](const auto& values) { return static_cast<int64_t>(values.size()); };
  return size(result.sequences) * frame_bytes_max() + bytes_of<TokenId>(size(result.tokens)) +
         bytes_of<LogprobRow>(size(result.rows)) + bytes_of<TokenLogprob>(size(result.logprobs));
}

bool Publisher::has_room_for_end() const {
  return has_room(ByteRing::frame_bytes(kHeaderBytes + kMessageBytesMax));
}

EventHeader Publisher::header_of(const Sequence& sequence, FinishReason reason, int64_t now_us) {
  EventHeader header;
  header.id = sequence.key.id;
  header.finish = reason;
  header.first_index = sequence.generated;
  header.prompt_count = sequence.prompt_count;
  header.cached_count = sequence.reuse.reused;
  header.matched_count = sequence.reuse.matched;
  header.evicted_count = sequence.reuse.lost_to_eviction;
  header.preemption_count = sequence.preemption_count;
  header.arrival_us = sequence.arrival_us;
  header.admitted_us = sequence.admitted_us;
  header.first_token_us = sequence.first_token_us;
  header.now_us = now_us;
  EngineGauges& gauges = shared_->gauges;
  gauges.finished_stop.add(reason == FinishReason::kStop ? 1 : 0);
  gauges.finished_length.add(reason == FinishReason::kLength ? 1 : 0);
  gauges.finished_abort.add(reason == FinishReason::kAbort ? 1 : 0);
  gauges.finished_error.add(reason == FinishReason::kError ? 1 : 0);
  written_ = true;
  return header;
}

void Publisher::end_not_finite(const Sequence& sequence, int64_t now_us) {
  shared_->gauges.not_finite.add(1);
  end(sequence, FinishReason::kError, kNotFiniteMessage, now_us, ErrorCode::kCorrupt);
}

void Publisher::end(const Sequence& sequence, FinishReason reason, std::string_view message, int64_t now_us,
                    ErrorCode error) {
  EventHeader header = header_of(sequence, reason, now_us);
  header.error = error;
  header.message_bytes =
      static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(message.size()), kMessageBytesMax));
  ByteRing& ring = shared_->events;
  ring.begin(kHeaderBytes + header.message_bytes);
  ring.put(&header, kHeaderBytes);
  ring.put(message.data(), header.message_bytes);
  ring.commit();
}

void Publisher::advance(const Sequence& sequence, const StepResult& result, const SequenceResult& item,
                        int32_t prompt_first, int32_t skip, StopReason stop, int64_t now_us) {
  const auto rows_at = [&result](int32_t first, int32_t count) {
    return std::span(result.rows).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  };
  const int32_t prompt_rows = std::max(0, item.prompt_row_count - skip);
  if (prompt_rows == 0 && item.token_count == 0 && stop == StopReason::kNone) return;
  const auto prompts =
      prompt_rows > 0 ? rows_at(item.prompt_first_row + skip, prompt_rows) : std::span<const LogprobRow>();
  const bool wants_rows = sequence.sampling.logprobs >= 0 && item.token_count > 0;
  const auto sampled = wants_rows ? rows_at(item.first_row, item.token_count) : std::span<const LogprobRow>();

  EventHeader header = header_of(sequence, reason_of(stop), now_us);
  header.token_count = item.token_count;
  header.first_index = sequence.generated - item.token_count;
  header.prompt_row_count = prompt_rows;
  header.prompt_first = prompt_first;
  header.row_count = static_cast<int32_t>(prompts.size() + sampled.size());
  header.logprob_count = logprob_total(prompts) + logprob_total(sampled);
  ByteRing& ring = shared_->events;
  ring.begin(kHeaderBytes + bytes_of<TokenId>(header.token_count) + bytes_of<LogprobRow>(header.row_count) +
             bytes_of<TokenLogprob>(header.logprob_count));
  ring.put(&header, kHeaderBytes);
  if (item.token_count > 0) {
    ring.put(&result.tokens[static_cast<size_t>(item.first_token)], bytes_of<TokenId>(item.token_count));
  }
  int32_t next = 0;
  put_rows(result, prompts, &next);
  put_rows(result, sampled, &next);
  put_logprobs(result, prompts);
  put_logprobs(result, sampled);
  ring.commit();
}

void Publisher::put_rows(const StepResult& result, std::span<const LogprobRow> rows, int32_t* next) {
  for (const LogprobRow& row : rows) {
    WEIR_CHECK(row.first >= 0 && static_cast<size_t>(row.first + row.top_count) < result.logprobs.size(),
               "log-probability row {} + {} of {}", row.first, row.top_count, result.logprobs.size());
    const LogprobRow moved{*next, row.top_count};
    shared_->events.put(&moved, sizeof(moved));
    *next += 1 + row.top_count;
  }
}

void Publisher::put_logprobs(const StepResult& result, std::span<const LogprobRow> rows) {
  for (const LogprobRow& row : rows) {
    shared_->events.put(&result.logprobs[static_cast<size_t>(row.first)], bytes_of<TokenLogprob>(1 + row.top_count));
  }
}

bool Publisher::flush() {
  if (!written_) return false;
  written_ = false;
  shared_->server_wake.notify();
  return true;
}

}  // namespace weir
