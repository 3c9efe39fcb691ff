#include "cli/generation.h"

#include <poll.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "text/detokenizer.h"

namespace weir {
namespace {

// How often an interrupt is looked for while no event comes.
constexpr int kPollMs = 50;

using Json = nlohmann::ordered_json;

}  // namespace

Result<ChatPrompt> conversation_prompt(const TextAssets& text, const std::vector<ChatTurn>& turns, bool thinking) {
  if (text.templates.standard == nullptr) {
    return Error{ErrorCode::kInvalidArgument, "this model has no chat template", "give --chat-template FILE, or --raw"};
  }
  Json messages = Json::array();
  for (const ChatTurn& turn : turns) messages.push_back({{"role", turn.role}, {"content", turn.content}});
  Json kwargs = Json::parse(text.template_kwargs);
  kwargs["enable_thinking"] = thinking;
  Json special = Json::object();
  for (const auto& [name, token] : text.special_tokens) special[name] = token;
  return encode_chat(*text.tokenizer, text.templates.choose(false), messages, Json(), kwargs, special);
}

SamplingParams terminal_sampling(const Options& options, const TextAssets& text, int64_t tokens_left) {
  const GenerationDefaults& defaults = text.defaults;
  SamplingParams sampling;
  sampling.temperature =
      options.temperature >= 0 ? static_cast<float>(options.temperature) : defaults.temperature.value_or(1.0F);
  sampling.top_p = options.top_p > 0 ? static_cast<float>(options.top_p) : defaults.top_p.value_or(1.0F);
  sampling.min_p = options.min_p >= 0 ? static_cast<float>(options.min_p) : defaults.min_p.value_or(0.0F);
  sampling.top_k = options.top_k >= 0 ? static_cast<int32_t>(options.top_k) : defaults.top_k.value_or(0);
  sampling.repetition_penalty = defaults.repetition_penalty.value_or(1.0F);
  sampling.seed = static_cast<uint64_t>(options.seed);
  sampling.max_tokens =
      static_cast<int32_t>(options.max_tokens > 0 ? std::min(options.max_tokens, tokens_left) : tokens_left);
  for (const int32_t id : defaults.eos_ids) {
    if (sampling.stop_id_count < kStopIdsMax) {
      sampling.stop_ids[static_cast<size_t>(sampling.stop_id_count++)] = id;
    }
  }
  return sampling;
}

std::string reuse_text(const Reuse& reuse, int64_t prompt_count) {
  std::string out = fmt::format("reused {} of {} prompt tokens", reuse.reused, prompt_count);
  if (reuse.matched > reuse.reused) {
    out += fmt::format("; {} more were known, without a recurrent state to go on from", reuse.matched - reuse.reused);
  }
  if (reuse.evicted > 0) out += fmt::format("; {} more had been known until their pages were needed", reuse.evicted);
  return out;
}

Result<Answer> generate(EngineHost& host, const TextAssets& text, const ChatPrompt& prompt,
                        const SamplingParams& sampling, const std::function<void(std::string_view)>& emit,
                        const std::function<bool()>& interrupted) {
  EngineClient client = host.client();
  WEIR_ASSIGN_OR_RETURN(Ticket ticket, client.try_reserve(1));
  GenerateHeader header;
  header.id = client.next_id();
  header.arrival_us = host.clock().now_us();
  header.suffix_count = prompt.suffix_count;
  header.sampling = sampling;
  WEIR_RETURN_IF_ERROR(client.submit(&ticket, header, prompt.ids));

  Answer answer;
  Detokenizer detokenizer(text.tokenizer.get(), true);
  std::string piece;
  Event event;
  bool cancelled = false;
  while (answer.finish == FinishReason::kNone) {
    if (!client.poll(&event)) {
      pollfd wait{client.event_fd(), POLLIN, 0};
      ::poll(&wait, 1, kPollMs);
      if (!cancelled && interrupted()) {
        client.cancel(header.id);
        cancelled = true;
      }
      continue;
    }
    if (event.header.id != header.id) continue;
    piece.clear();
    for (const TokenId token : event.tokens) {
      answer.tokens.push_back(token);
      detokenizer.push(token, &piece);
    }
    answer.finish = event.header.finish;
    answer.code = event.header.error;
    answer.error = event.message;
    answer.reuse = {event.header.matched_count, event.header.cached_count, event.header.evicted_count};
    if (answer.finish != FinishReason::kNone) detokenizer.finish(&piece);
    if (!piece.empty()) emit(piece);
    answer.text += piece;
    if (event.header.first_token_us > 0) answer.first_token_us = event.header.first_token_us - header.arrival_us;
    answer.total_us = event.header.now_us - header.arrival_us;
  }
  return answer;
}

}  // namespace weir
