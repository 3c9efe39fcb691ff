// From a request's body to token ids and sampling parameters: the costly part, done off the event loop.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "api/request.h"
#include "api/response.h"
#include "server/config.h"
#include "text/chat.h"

namespace weir {

struct PreparedPrompt {
  std::vector<TokenId> ids;
  int32_t suffix_count = 0;  // of the ids: see ChatPrompt
  SamplingParams sampling;   // seed filled per choice
};

// A generation request that the engine can take: one sequence per prompt and choice.
struct Prepared {
  api::ResponseKind kind = api::ResponseKind::kChat;
  api::GenerationOptions options;
  bool echo = false;
  CacheSalt salt{};
  std::vector<PreparedPrompt> prompts;

  int32_t sequence_count() const { return static_cast<int32_t>(prompts.size()) * options.n; }
};

// What requests are prepared against; borrowed by the work pool for the server's life.
struct PrepareContext {
  const ServerConfig* config = nullptr;
  const ModelText* model = nullptr;
  int64_t context_tokens = 0;
  std::array<uint64_t, 2> salt_key{};  // random: nobody can look for two salts with one digest
};

api::Parsed<Prepared> prepare_chat(std::string_view body, const PrepareContext& context);
api::Parsed<Prepared> prepare_completion(std::string_view body, const PrepareContext& context);

// The JSON bodies of /tokenize and /detokenize.
api::Parsed<std::string> answer_tokenize(std::string_view body, const PrepareContext& context);
api::Parsed<std::string> answer_detokenize(std::string_view body, const PrepareContext& context);
// {"object", "created", ...} of /v1/*/render: the token ids, without running the model.
std::string render_json(const Prepared& prepared, const std::string& model);

// Renders a conversation with the model's template and encodes it.
api::Parsed<ChatPrompt> encode_conversation(const api::Conversation& conversation, const ModelText& model);

// 404 unless `name` is empty or served.
std::optional<api::ApiError> check_model(const std::string& name, const ServerConfig& config);

// Messages as templates expect them: `reasoning` also as `reasoning_content`, arguments of tool calls as objects, and
// lists of text parts as one string unless the template reads parts itself.
nlohmann::ordered_json normalize_messages(const nlohmann::ordered_json& messages, bool template_reads_parts);

}  // namespace weir
