#include "api/error.h"

#include <fmt/format.h>

#include "api/json_writer.h"

namespace weir::api {

namespace {

// A step of a large model under load takes tens of milliseconds and a queue drains in about a second.
constexpr int kRetryAfterFullS = 1;
// Draining or loading takes longer than one step; load balancers move on meanwhile.
constexpr int kRetryAfterUnavailableS = 5;

}  // namespace

std::string_view error_type(int status) {
  if (status == 401 || status == 403) {
    return "authentication_error";
  }
  if (status == 429) {
    return "rate_limit_error";
  }
  return status >= 500 ? "server_error" : "invalid_request_error";
}

std::string error_json(const ApiError& error) {
  std::string out = "{\"error\":{\"message\":";
  append_json_string(error.message, &out);
  out += ",\"type\":";
  append_json_string(error_type(error.status), &out);
  out += ",\"param\":";
  append_json_string_or_null(error.param, &out);
  out += ",\"code\":";
  append_json_string_or_null(error.code, &out);
  out += "}}";
  return out;
}

ApiError bad_field(std::string_view param, std::string message, std::string_view code) {
  return ApiError{400, std::move(message), std::string(param), std::string(code), 0};
}

ApiError from_error(const Error& error, std::string_view param) {
  ApiError out{500, error.text(), std::string(param), "internal_error", 0};
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
      out.status = 400, out.code = "invalid_value";
      break;
    case ErrorCode::kUnsupported:
      out.status = 400, out.code = "unsupported_value";
      break;
    case ErrorCode::kTooLarge:
      out.status = 400, out.code = "too_large";
      break;
    case ErrorCode::kNotFound:
      out.status = 404, out.code = "not_found";
      break;
    case ErrorCode::kUnauthorized:
      out.status = 401, out.code = "invalid_api_key";
      break;
    case ErrorCode::kExhausted:
      out.status = 429, out.code = "queue_full", out.retry_after_s = kRetryAfterFullS;
      break;
    case ErrorCode::kUnavailable:
      out.status = 503, out.code = "unavailable", out.retry_after_s = kRetryAfterUnavailableS;
      break;
    case ErrorCode::kCorrupt:
    case ErrorCode::kIo:
    case ErrorCode::kInternal:
      break;
  }
  return out;
}

ApiError context_overflow(long long context_tokens, long long prompt_tokens, long long output_tokens,
                          std::string_view param) {
  return bad_field(param,
                   fmt::format("This model's maximum context length is {} tokens. However, you requested {} tokens "
                               "({} in the prompt, {} in the completion). Please reduce the length of the prompt or "
                               "completion.",
                               context_tokens, prompt_tokens + output_tokens, prompt_tokens, output_tokens),
                   "context_length_exceeded");
}

}  // namespace weir::api
