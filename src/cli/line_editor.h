// Line input with editing and history where libedit is installed, plain lines where it is not.
#pragma once

#include <optional>
#include <string>

namespace weir {

class LineEditor {
 public:
  LineEditor();
  // A line without its newline; none at end of input.
  std::optional<std::string> read(const char* prompt);

 private:
  char* (*readline_)(const char*) = nullptr;
  int (*add_history_)(const char*) = nullptr;
};

}  // namespace weir
