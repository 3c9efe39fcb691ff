// Errors as clients see them: a status code and {"error": {"message", "type", "param", "code"}}.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace weir::api {

struct ApiError {
  int status = 400;
  std::string message;
  std::string param;      // the request field at fault; empty: null
  std::string code;       // machine-readable kind; empty: null
  int retry_after_s = 0;  // Retry-After; 0: no header
};

// The "type" that goes with a status: invalid_request_error, authentication_error, rate_limit_error or server_error.
std::string_view error_type(int status);

// {"error": {...}} without a line break.
std::string error_json(const ApiError& error);

// A bad value of the field `param`.
ApiError bad_field(std::string_view param, std::string message, std::string_view code = "invalid_value");

// The wire form of an error of the engine or the text half. 429 and 503 carry Retry-After.
ApiError from_error(const Error& error, std::string_view param = {});

// Prompt and requested output do not fit the context. Clients classify by the phrase "maximum context length is".
ApiError context_overflow(long long context_tokens, long long prompt_tokens, long long output_tokens,
                          std::string_view param);

}  // namespace weir::api
