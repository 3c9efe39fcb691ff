// Parses the input as a template and renders it with a small conversation, under limits that keep a run short.
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "text/template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto context = nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi \u4e16"},
                 {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
                 {"role": "tool", "content": [{"type": "text", "text": "r"}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "n": -7, "f": 2.5, "s": "a,b c", "t": true, "none": null, "add_generation_prompt": true})");
  weir::TemplateLimits limits;
  limits.steps_max = 20'000;
  limits.work_bytes_floor = 1 << 20;
  limits.output_bytes_max = 1 << 18;
  weir::TemplateRenderOptions options;
  options.local_time_s = 0;
  auto parsed = weir::ChatTemplate::parse(std::string(reinterpret_cast<const char*>(data), size), limits);
  if (parsed.ok()) {
    const auto text = (*parsed)->render(context, options);
    WEIR_CHECK(!text.ok() || text->size() <= static_cast<size_t>(limits.output_bytes_max));
  }
  return 0;
}
