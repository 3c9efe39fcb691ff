#include "server/generation.h"

#include <algorithm>
#include <utility>

namespace weir {

namespace {

double seconds(int64_t from_us, int64_t to_us) {
  return from_us > 0 && to_us > from_us ? static_cast<double>(to_us - from_us) * 1e-6 : 0.0;
}

net::HttpResponse stream_head(std::vector<net::HttpHeader> headers) {
  net::HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.headers = std::move(headers);
  head.headers.push_back({"Cache-Control", "no-cache"});
  head.headers.push_back({"X-Accel-Buffering", "no"});  // proxies of the nginx family buffer streams otherwise
  return head;
}

}  // namespace

Generation::Generation(GenerationSetup setup)
    : prepared_(std::move(setup.prepared)),
      exchange_(std::move(setup.exchange)),
      headers_(std::move(setup.headers)),
      writer_(prepared_.kind, std::move(setup.response_id), setup.created_s, std::move(setup.model_name)),
      stops_(prepared_.options.stop),
      tokenizer_(setup.tokenizer),
      metrics_(setup.metrics),
      arrival_us_(setup.arrival_us),
      last_write_us_(setup.arrival_us) {
  const api::GenerationOptions& options = prepared_.options;
  ChoiceTextOptions text;
  text.tokenizer = tokenizer_;
  text.stops = &stops_;
  text.skip_special = options.skip_special_tokens;
  text.include_stop = options.include_stop;
  text.min_tokens = options.min_tokens;
  text.keep_tokens = options.logprobs >= 0 || options.return_token_ids;
  for (size_t prompt = 0; prompt < prepared_.prompts.size(); ++prompt) {
    for (int32_t i = 0; i < options.n; ++i) {
      choices_.emplace_back(text);
      choices_.back().prompt = static_cast<int32_t>(prompt);
    }
  }
  open_choices_ = choice_count();
  include_usage_ = options.include_usage || setup.force_include_usage;
  writer_.set_null_usage(options.stream && include_usage_ && !options.continuous_usage);
}

void Generation::count_start() {
  for (const PreparedPrompt& prompt : prepared_.prompts) {
    metrics_->prompt_tokens_total += static_cast<int64_t>(prompt.ids.size());
    metrics_->params_max_tokens.observe(prompt.sampling.max_tokens);
  }
  metrics_->params_n.observe(prepared_.options.n);
}

const PreparedPrompt& Generation::prompt_of(int32_t choice) const {
  return prepared_.prompts[static_cast<size_t>(choices_[static_cast<size_t>(choice)].prompt)];
}

bool Generation::on_event(int32_t index, const Event& event) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  const EventHeader& header = event.header;
  choice.last = header;
  if (header.finish == FinishReason::kError || header.finish == FinishReason::kAbort) {
    choice.done = true;
    --open_choices_;
    const bool fault = header.finish == FinishReason::kError;
    metrics_->finish(fault ? Outcome::kError : Outcome::kAbort, {}, header.prompt_count, choice.text.token_count());
    fail(api::from_error({fault ? header.error : ErrorCode::kUnavailable,
                          fault ? event.message : std::string("The server is shutting down"),
                          {}}));
    return false;
  }
  take_prompt_rows(&choice, event);
  if (prepared_.echo && !choice.echoed && (header.token_count > 0 || header.finish != FinishReason::kNone)) {
    choice.echoed = true;
    choice.text.push_prompt(prompt_of(index).ids, choice.prompt_rows, choice.prompt_logprobs);
    choice.prompt_rows = {};
    choice.prompt_logprobs = {};
  }
  take_tokens(&choice, event);
  const bool cut = choice.text.stopped();
  if (cut || header.finish != FinishReason::kNone) {
    choice.text.finish();
    finish_choice(&choice, cut || header.finish == FinishReason::kStop ? "stop" : "length", header.now_us);
  }
  emit(&choice);
  if (open_choices_ == 0 && !complete_) {
    complete_response();
  }
  return cut && header.finish == FinishReason::kNone;
}

void Generation::take_prompt_rows(Choice* choice, const Event& event) {
  for (int32_t i = 0; i < event.header.prompt_row_count; ++i) {
    LogprobRow row = event.rows[static_cast<size_t>(i)];
    const auto from = event.logprobs.begin() + row.first;
    row.first = static_cast<int32_t>(choice->prompt_logprobs.size());
    choice->prompt_logprobs.insert(choice->prompt_logprobs.end(), from, from + 1 + row.top_count);
    choice->prompt_rows.push_back(row);
  }
}

void Generation::take_tokens(Choice* choice, const Event& event) {
  const EventHeader& header = event.header;
  if (header.token_count == 0) {
    return;
  }
  observe_tokens(choice, header);
  const bool has_rows = header.row_count > header.prompt_row_count;
  for (int32_t i = 0; i < header.token_count; ++i) {
    const TokenId token = event.tokens[static_cast<size_t>(i)];
    const LogprobRow* row = has_rows ? &event.rows[static_cast<size_t>(header.prompt_row_count + i)] : nullptr;
    const bool is_stop = header.finish == FinishReason::kStop && i + 1 == header.token_count;
    const auto& requested = prepared_.options.stop_token_ids;
    if (is_stop && std::find(requested.begin(), requested.end(), token) != requested.end()) {
      choice->stop_id = token;
    }
    if (choice->text.push(token, row, event.logprobs, is_stop)) {
      choice->stop_id.reset();
      return;
    }
  }
}

void Generation::observe_tokens(Choice* choice, const EventHeader& header) {
  metrics_->generation_tokens_total += header.token_count;
  if (choice->last_token_us == 0) {
    metrics_->time_to_first_token.observe(seconds(header.arrival_us, header.now_us));
  } else {
    metrics_->inter_token_latency.observe(seconds(choice->last_token_us, header.now_us) / header.token_count,
                                          header.token_count);
  }
  choice->last_token_us = header.now_us;
}

void Generation::finish_choice(Choice* choice, std::string_view reason, int64_t now_us) {
  choice->done = true;
  choice->finish_reason = reason;
  --open_choices_;
  const EventHeader& last = choice->last;
  RequestTimes times;
  times.end_to_end = seconds(last.arrival_us, now_us);
  times.queue = seconds(last.arrival_us, last.admitted_us);
  times.prefill = seconds(last.admitted_us, last.first_token_us);
  times.decode = seconds(last.first_token_us, now_us);
  metrics_->finish(reason == "stop" ? Outcome::kStop : Outcome::kLength, times, last.prompt_count,
                   choice->text.token_count());
}

api::ChoicePart Generation::part_of(const Choice& choice, const TextPiece& piece) const {
  const api::GenerationOptions& options = prepared_.options;
  api::ChoicePart part;
  part.index = index_of(&choice);
  part.text = piece.text;
  part.with_logprobs = options.logprobs >= 0;
  part.entries = piece.entries;
  part.with_token_ids = options.return_token_ids;
  part.token_ids = piece.ids;
  if (choice.done) {
    part.finish_reason = choice.finish_reason;
    part.stop_string = choice.text.stop_string();
    part.stop_id = choice.stop_id;
  }
  return part;
}

void Generation::emit(Choice* choice) {
  TextPiece piece = choice->text.take();
  if (!prepared_.options.stream) {
    TextPiece& whole = choice->whole;
    whole.text += piece.text;
    std::move(piece.entries.begin(), piece.entries.end(), std::back_inserter(whole.entries));
    whole.ids.insert(whole.ids.end(), piece.ids.begin(), piece.ids.end());
    return;
  }
  if (complete_ || (piece.empty() && !choice->done)) {
    return;
  }
  start_stream();
  const bool carries_prompt = !choice->opened && (prepared_.echo || prepared_.options.return_token_ids);
  const std::vector<TokenId>* prompt_ids =
      prepared_.options.return_token_ids && !choice->opened ? &prompt_of(index_of(choice)).ids : nullptr;
  std::string frame;
  if (prepared_.kind == api::ResponseKind::kChat && !choice->opened) {
    writer_.append_role(index_of(choice), prompt_ids, chunk_usage(), &frame);
    prompt_ids = nullptr;
  }
  choice->opened = true;
  api::ChoicePart part = part_of(*choice, piece);
  part.prompt_token_ids = prompt_ids;
  writer_.append_part(part, chunk_usage(), &frame);
  last_write_us_ = std::max(last_write_us_, choice->last.now_us);
  if (carries_prompt) {
    exchange_->allow_unsent(static_cast<int64_t>(frame.size()));
  }
  write_frame(frame);
}

void Generation::start_stream() {
  if (!exchange_->started()) {
    exchange_->start_stream(stream_head(headers_));
  }
}

void Generation::write_frame(const std::string& frame) {
  if (!exchange_->write(frame)) {
    complete_ = true;
  }
}

void Generation::complete_response() {
  if (prepared_.options.stream) {
    start_stream();
    std::string frame;
    if (include_usage_) {
      writer_.append_usage(usage(), &frame);
    }
    api::ResponseWriter::append_done(&frame);
    write_frame(frame);
    if (!complete_) {
      exchange_->finish();
    }
  } else {
    std::vector<api::ChoicePart> parts;
    for (const Choice& choice : choices_) {
      parts.push_back(part_of(choice, choice.whole));
      if (prepared_.options.return_token_ids) {
        parts.back().prompt_token_ids = &prompt_of(index_of(&choice)).ids;
      }
    }
    net::HttpResponse response;
    response.headers = headers_;
    response.body = writer_.whole(parts, usage());
    exchange_->respond(response);
  }
  int64_t longest = 0;
  for (const Choice& choice : choices_) {
    longest = std::max<int64_t>(longest, choice.text.token_count());
  }
  metrics_->max_generation_tokens.observe(static_cast<double>(longest));
  complete_ = true;
}

void Generation::fail(const api::ApiError& error) {
  if (complete_) {
    return;
  }
  complete_ = true;
  if (exchange_->started()) {
    if (exchange_->write("data: " + api::error_json(error) + "\n\n")) {
      exchange_->finish(true);
    }
    return;
  }
  net::HttpResponse response;
  response.status = error.status;
  response.headers = headers_;
  if (error.retry_after_s > 0) {
    response.headers.push_back({"Retry-After", std::to_string(error.retry_after_s)});
  }
  response.body = api::error_json(error);
  exchange_->respond(response);
}

void Generation::abandon(int64_t now_us) {
  complete_ = true;
  for (Choice& choice : choices_) {
    if (!choice.done) {
      choice.done = true;
      RequestTimes times;
      times.end_to_end = seconds(arrival_us_, now_us);
      metrics_->finish(Outcome::kAbort, times, static_cast<int64_t>(prompt_of(index_of(&choice)).ids.size()),
                       choice.text.token_count());
    }
  }
}

void Generation::keep_alive(int64_t before_us, int64_t now_us) {
  if (complete_ || !prepared_.options.stream || last_write_us_ > before_us) {
    return;
  }
  start_stream();
  last_write_us_ = now_us;
  ++metrics_->keep_alive_comments_total;
  write_frame(": keep-alive\n\n");
}

api::Usage Generation::usage() const {
  api::Usage usage;
  for (const PreparedPrompt& prompt : prepared_.prompts) {
    usage.prompt_tokens += static_cast<int64_t>(prompt.ids.size());
  }
  for (const Choice& choice : choices_) {
    usage.completion_tokens += choice.text.token_count();
    // The choices of one prompt share it: it is counted once.
    if (index_of(&choice) % prepared_.options.n != 0) continue;
    usage.cached_tokens += choice.last.cached_count;
    usage.matched_tokens += choice.last.matched_count;
    usage.evicted_tokens += choice.last.evicted_count;
  }
  return usage;
}

std::optional<api::Usage> Generation::chunk_usage() const {
  return prepared_.options.continuous_usage ? std::optional(usage()) : std::nullopt;
}

}  // namespace weir
