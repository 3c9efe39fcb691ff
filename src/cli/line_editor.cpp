#include "cli/line_editor.h"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>

namespace weir {

LineEditor::LineEditor() {
  if (isatty(STDIN_FILENO) == 0) return;
  // Loaded at run time, so that the program starts on machines without it; its readline interface is stable since 3.1.
  void* library = dlopen("libedit.so.2", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return;
  readline_ = reinterpret_cast<char* (*)(const char*)>(dlsym(library, "readline"));
  add_history_ = reinterpret_cast<int (*)(const char*)>(dlsym(library, "add_history"));
}

std::optional<std::string> LineEditor::read(const char* prompt) {
  if (readline_ != nullptr && add_history_ != nullptr) {
    char* line = readline_(prompt);
    if (line == nullptr) return std::nullopt;
    std::string text(line);
    if (!text.empty()) add_history_(line);
    std::free(line);
    return text;
  }
  if (isatty(STDIN_FILENO) != 0) {
    std::fputs(prompt, stdout);
    std::fflush(stdout);
  }
  std::string text;
  if (!std::getline(std::cin, text)) return std::nullopt;
  return text;
}

}  // namespace weir
