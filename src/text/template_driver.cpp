// Renders templates for a comparison with jinja2. Reads lines of JSON {"template", "context"} and answers each with a
// line {"text"} or {"error", "code"}. See tools/oracles/template_fuzz.py.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "text/template.h"

namespace {

using Json = nlohmann::ordered_json;

Json answer(const Json& request) {
  weir::TemplateRenderOptions options;
  options.local_time_s = 1'767'323'045;  // 2026-01-02 03:04:05, the moment that the oracle pretends
  const auto describe = [](const weir::Error& error) {
    return Json{{"error", error.message}, {"code", static_cast<int>(error.code)}};
  };
  auto parsed = weir::ChatTemplate::parse(request.at("template").get<std::string>());
  if (!parsed.ok()) {
    return describe(parsed.error());
  }
  auto rendered = (*parsed)->render(request.at("context"), options);
  return rendered.ok() ? Json{{"text", *rendered}} : describe(rendered.error());
}

}  // namespace

int main() {
  std::string line;
  while (std::getline(std::cin, line)) {
    const Json request = Json::parse(line, nullptr, false);
    if (!request.is_object() || !request.contains("template") || !request.contains("context")) {
      std::cerr << "template_driver: not an object with template and context: " << line << "\n";
      return 2;
    }
    std::cout << answer(request).dump() << std::endl;
  }
  return 0;
}
