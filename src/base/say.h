// Notes for whoever watches the process. A stream that cannot be written (a full disk, a reader that left, a closed
// descriptor) loses the note and nothing else: fmt::print would throw, which on a thread ends the process.
#pragma once

#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <utility>

namespace weir {

template <class... Args>
void say(std::FILE* stream, fmt::format_string<Args...> format, Args&&... args) {
  const std::string text = fmt::format(format, std::forward<Args>(args)...);
  static_cast<void>(std::fwrite(text.data(), 1, text.size(), stream));
  static_cast<void>(std::fflush(stream));
}

}  // namespace weir
