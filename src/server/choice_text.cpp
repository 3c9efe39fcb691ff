#include "server/choice_text.h"

#include <algorithm>
#include <utility>

namespace weir {

namespace {

int64_t code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; });
}

std::string lossy(const Tokenizer& tokenizer, TokenId id) {
  return tokenizer.decode(std::span<const TokenId>(&id, 1), false);
}

}  // namespace

ChoiceText::ChoiceText(const ChoiceTextOptions& options)
    : options_(options),
      detokenizer_(options.tokenizer, options.skip_special),
      matcher_(options.stops, options.include_stop) {}

void ChoiceText::push_prompt(std::span<const TokenId> ids, std::span<const LogprobRow> rows,
                             std::span<const TokenLogprob> logprobs) {
  Detokenizer prompt(options_.tokenizer, false);
  for (size_t i = 0; i < ids.size(); ++i) {
    std::string text;
    prompt.push(ids[i], &text);
    if (i + 1 == ids.size()) {
      prompt.finish(&text);
    }
    const bool has_row = i > 0 && i - 1 < rows.size();
    if (options_.keep_tokens) {
      add_entry(ids[i], text, has_row ? &rows[i - 1] : nullptr, logprobs, true);
    }
    ready_.text += text;
    released_bytes_ += static_cast<int64_t>(text.size());
  }
  release(false);
}

bool ChoiceText::push(TokenId id, const LogprobRow* row, std::span<const TokenLogprob> logprobs, bool is_stop) {
  ++token_count_;
  std::string text;
  if (!is_stop) {
    detokenizer_.push(id, &text);
  }
  if (options_.keep_tokens) {
    const bool rendered = !is_stop && !(options_.skip_special && options_.tokenizer->is_special(id));
    add_entry(id, text, row, logprobs, rendered);
  }
  const size_t before = ready_.text.size();
  bool stopped = false;
  if (token_count_ > options_.min_tokens) {
    stopped = matcher_.push(text, &ready_.text);
  } else {
    ready_.text += text;
  }
  released_bytes_ += static_cast<int64_t>(ready_.text.size() - before);
  release(stopped);
  return stopped;
}

void ChoiceText::finish() {
  if (matcher_.matched()) {
    return;
  }
  std::string rest;
  detokenizer_.finish(&rest);
  if (!rest.empty() && !pending_.empty()) {
    // Half a code point at the end of the answer: its replacement belongs to the last token that has text.
    pending_.back().entry.text += rest;
    pending_.back().end += static_cast<int64_t>(rest.size());
  }
  matcher_.finish(&ready_.text);
  ready_.text += rest;
  released_bytes_ = produced_bytes_ + static_cast<int64_t>(rest.size());
  release(true);
}

TextPiece ChoiceText::take() {
  return std::exchange(ready_, TextPiece());
}

void ChoiceText::add_entry(TokenId id, std::string_view text, const LogprobRow* row,
                           std::span<const TokenLogprob> logprobs, bool rendered) {
  Pending pending;
  api::TokenEntry& entry = pending.entry;
  entry.id = id;
  entry.text = text;
  entry.text_offset = produced_points_;
  if (row != nullptr) {
    const auto first = static_cast<size_t>(row->first);
    entry.has_logprob = true;
    entry.logprob = logprobs[first].logprob;
    entry.own_text = lossy(*options_.tokenizer, id);
    if (rendered) {
      entry.bytes = options_.tokenizer->bytes(id);
    }
    for (size_t k = 1; k <= static_cast<size_t>(row->top_count); ++k) {
      const TokenLogprob& top = logprobs[first + k];
      entry.top.push_back({top.token, lossy(*options_.tokenizer, top.token),
                           std::string(options_.tokenizer->bytes(top.token)), top.logprob});
    }
  }
  produced_bytes_ += static_cast<int64_t>(text.size());
  produced_points_ += code_points(text);
  pending.end = produced_bytes_;
  pending_.push_back(std::move(pending));
}

// Moves entries whose text has left; `all`: the rest too, cut to the text that there is. The last entry stays while
// half a code point is held back, because finish() may have to add to its text.
void ChoiceText::release(bool all) {
  const size_t keep = !all && detokenizer_.holds_back() ? 1 : 0;
  while (pending_.size() > keep && (all || pending_.front().end <= released_bytes_)) {
    Pending& front = pending_.front();
    const int64_t begin = front.end - static_cast<int64_t>(front.entry.text.size());
    if (front.end > released_bytes_) {
      front.entry.text.resize(static_cast<size_t>(std::max<int64_t>(0, released_bytes_ - begin)));
    }
    ready_.ids.push_back(front.entry.id);
    ready_.entries.push_back(std::move(front.entry));
    pending_.pop_front();
  }
}

}  // namespace weir
