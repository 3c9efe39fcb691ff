// Operating errors as values: Result<T> is a value or an Error that says what is wrong and what to do about it.
#pragma once

#include <fmt/core.h>

#include <string>
#include <utility>
#include <variant>

#include "base/check.h"

namespace weir {

// What kind of failure it is; the HTTP status or exit code follows from it.
enum class ErrorCode {
  kInvalidArgument,  // the caller's input is wrong: 400, exit 2
  kNotFound,         // a named thing does not exist: 404, exit 2
  kUnauthorized,     // 401
  kTooLarge,         // over a named limit: 413, exit 3
  kExhausted,        // a bounded resource is full now, later may work: 429, exit 3
  kUnsupported,      // known, but not served by this build: 400, exit 2
  kUnavailable,      // starting, draining or a peer does not answer: 503, exit 3
  kCorrupt,          // a file or message is damaged: exit 4
  kIo,               // the operating system refused: exit 4
  kInternal,         // our fault: 500, exit 70
};

// `message` says what is wrong with the values seen; `remedy` what the reader can do (may be empty).
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  std::string remedy;

  // "message (remedy)" on one line.
  std::string text() const { return remedy.empty() ? message : message + " (" + remedy + ")"; }
};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  T& value() & {
    WEIR_CHECK(ok(), "{}", std::get<1>(state_).text());
    return std::get<0>(state_);
  }
  const T& value() const& {
    WEIR_CHECK(ok(), "{}", std::get<1>(state_).text());
    return std::get<0>(state_);
  }
  T&& value() && {
    WEIR_CHECK(ok(), "{}", std::get<1>(state_).text());
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const& {
    WEIR_CHECK(!ok(), "error() of a Result that holds a value");
    return std::get<1>(state_);
  }
  Error&& error() && {
    WEIR_CHECK(!ok(), "error() of a Result that holds a value");
    return std::get<1>(std::move(state_));
  }

 private:
  std::variant<T, Error> state_;
};

// Success without a value: `return Ok{};`.
using Ok = std::monostate;
using Status = Result<Ok>;

template <class... Args>
Error make_error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) {
  return Error{code, fmt::format(format, std::forward<Args>(args)...), {}};
}

inline Error with_remedy(Error error, std::string remedy) {
  error.remedy = std::move(remedy);
  return error;
}

// Puts where it happened in front of an error's message: "PATH: MESSAGE".
inline Error in_context(Error error, std::string_view where) {
  error.message = fmt::format("{}: {}", where, error.message);
  return error;
}

// Returns the error of `expression` (a Status or Result) from the calling function.
#define WEIR_RETURN_IF_ERROR(expression)                      \
  do {                                                        \
    if (auto weir_status = (expression); !weir_status.ok()) { \
      return std::move(weir_status).error();                  \
    }                                                         \
  } while (false)

#define WEIR_CONCAT_INNER(a, b) a##b
#define WEIR_CONCAT(a, b) WEIR_CONCAT_INNER(a, b)

// Declares `target` from a Result, or returns its error: WEIR_ASSIGN_OR_RETURN(auto config, parse(text));
#define WEIR_ASSIGN_OR_RETURN(target, expression)                  \
  auto WEIR_CONCAT(weir_result_, __LINE__) = (expression);         \
  if (!WEIR_CONCAT(weir_result_, __LINE__).ok()) {                 \
    return std::move(WEIR_CONCAT(weir_result_, __LINE__)).error(); \
  }                                                                \
  target = std::move(WEIR_CONCAT(weir_result_, __LINE__)).value()

}  // namespace weir
