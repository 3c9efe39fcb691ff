#include "text/template.h"

#include <utility>

#include "text/jinja/evaluator.h"
#include "text/jinja/from_json.h"
#include "text/jinja/parser.h"
#include "text/unicode.h"

namespace weir {

struct ChatTemplate::Parsed {
  std::string source;
  TemplateLimits limits;
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Parsed> parsed) : parsed_(std::move(parsed)) {}
ChatTemplate::~ChatTemplate() = default;

const std::string& ChatTemplate::source() const {
  return parsed_->source;
}

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::parse(std::string source, TemplateLimits limits) {
  if (find_invalid_utf8(source)) {
    return with_remedy(make_error(ErrorCode::kCorrupt, "the chat template is not valid UTF-8"),
                       "save the template as UTF-8");
  }
  WEIR_ASSIGN_OR_RETURN(jinja::Body body, jinja::parse_template(source, limits));
  auto parsed = std::make_unique<Parsed>(Parsed{std::move(source), limits, std::move(body)});
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(parsed)));
}

Result<std::string> ChatTemplate::render(const nlohmann::ordered_json& context,
                                         const TemplateRenderOptions& options) const {
  int64_t input_bytes = 0;
  WEIR_ASSIGN_OR_RETURN(const jinja::Value variables,
                        jinja::value_from_json(context, parsed_->limits.value_depth_max, input_bytes));
  if (!variables.is_dict()) {
    return make_error(ErrorCode::kInvalidArgument, "the context of a chat template must be an object");
  }
  jinja::Runtime runtime(parsed_->limits, options, input_bytes);
  jinja::Evaluator evaluator(runtime, variables);
  auto result = evaluator.run(parsed_->body);
  if (!result.ok() && !runtime.raised) {
    return in_context(std::move(result).error(), fmt::format("chat template line {}", evaluator.line()));
  }
  return result;
}

}  // namespace weir
