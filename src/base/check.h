// Programmer errors stop the process with text and values, in release builds too.
#pragma once

#include <fmt/core.h>

#include <string_view>

namespace weir {

// Prints "file:line: check failed: condition: text" to stderr and aborts.
[[noreturn]] void check_failed(const char* file, int line, const char* condition, std::string_view text);

}  // namespace weir

#define WEIR_CHECK(condition, ...)                                                         \
  do {                                                                                     \
    if (!(condition)) [[unlikely]] {                                                       \
      ::weir::check_failed(__FILE__, __LINE__, #condition, ::fmt::format("" __VA_ARGS__)); \
    }                                                                                      \
  } while (false)
