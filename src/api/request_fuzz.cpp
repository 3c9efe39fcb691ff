// Any bytes as the body of each endpoint: a typed request or an error that names a status, never a crash.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/request.h"
#include "base/check.h"

namespace {

template <class T>
void check(const weir::api::Parsed<T>& parsed) {
  if (const auto* error = std::get_if<weir::api::ApiError>(&parsed)) {
    WEIR_CHECK(error->status == 400 && !error->message.empty() && !error->code.empty());
    WEIR_CHECK(!weir::api::error_json(*error).empty());
  }
}

void check_options(const weir::api::GenerationOptions& options) {
  WEIR_CHECK(options.n >= 1 && options.n <= 16 && options.stop.size() <= 16);
  WEIR_CHECK(options.logprobs >= -1 && options.logprobs <= weir::kTopLogprobsMax);
  const weir::GenerationDefaults defaults;
  weir::SamplingParams sampling;
  if (!weir::api::make_sampling(options, {4096, 1000, &defaults}, 5, 16, &sampling).has_value()) {
    WEIR_CHECK(sampling.max_tokens >= 0 && sampling.max_tokens <= 4091 && sampling.min_tokens <= sampling.max_tokens);
    WEIR_CHECK(sampling.top_p > 0 && sampling.top_p <= 1 && sampling.repetition_penalty > 0 && sampling.top_k >= 0);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const auto chat = weir::api::parse_chat(body);
  check(chat);
  if (const auto* request = std::get_if<weir::api::ChatRequest>(&chat)) {
    check_options(request->options);
  }
  const auto completion = weir::api::parse_completion(body);
  check(completion);
  if (const auto* request = std::get_if<weir::api::CompletionRequest>(&completion)) {
    check_options(request->options);
  }
  check(weir::api::parse_tokenize(body));
  check(weir::api::parse_detokenize(body));
  return 0;
}
