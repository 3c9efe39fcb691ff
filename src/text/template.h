// Chat templates: the Jinja file that ships with a model, run by an engine of our own that can touch nothing but data.
//
// The language is the environment that Hugging Face's transformers sets up: jinja2's immutable sandbox with
// trim_blocks, lstrip_blocks, loop controls, `tojson` without HTML escapes, `raise_exception`, `strftime_now` and the
// `generation` block. `include`, `import` and `extends` are refused. Rendered text equals jinja2's byte for byte.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/result.h"

namespace weir {

// What a template may use. Every limit that is passed is an error that names it; none can be switched off.
struct TemplateLimits {
  // The largest template known to us is 17 kB; 1 MiB leaves room for generated ones.
  int64_t source_bytes_max = int64_t{1} << 20;
  // Nesting of expressions and blocks in the source. Published templates stay under 20.
  int32_t parse_depth_max = 150;
  // Nesting of evaluation: expressions within macro calls within blocks. Bounds the stack that a render uses.
  int32_t eval_depth_max = 600;
  // Nesting of lists and dicts, those of the request included.
  int32_t value_depth_max = 200;
  // Nodes evaluated, loop turns taken and items touched. A turn of a large template costs about 300.
  int64_t steps_max = 20'000'000;
  // One rendered prompt: four times a context of a million tokens at four bytes a token.
  int64_t output_bytes_max = int64_t{16} << 20;
  // Bytes of all strings and lists made while rendering, those dropped again included: a floor, and a share for each
  // byte of the request. A turn of a large template makes about 20 kB and ten copies of its text.
  int64_t work_bytes_floor = int64_t{256} << 20;
  int64_t work_bytes_per_input_byte = 64;
  // Items of one `range(...)`; the value of the sandbox this follows.
  int64_t range_items_max = 100'000;
  // Loops that are open at once.
  int32_t loop_depth_max = 32;
  // Time for one render.
  int64_t wall_us_max = 5'000'000;
};

// What one render takes from outside.
struct TemplateRenderOptions {
  // Measures wall_us_max; null: the steady clock.
  const Clock* clock = nullptr;
  // What `strftime_now` shows, in seconds since 1970-01-01 00:00 of the zone that the reader expects; absent: the
  // system's local time.
  std::optional<int64_t> local_time_s;
};

// A parsed template. Immutable: any number of threads may render at once.
class ChatTemplate {
 public:
  // Parses `source` (UTF-8). Errors: kCorrupt for a syntax error (message with the line), kUnsupported for a part of
  // Jinja that chat templates cannot use (include, import, extends, block), kTooLarge for a limit.
  static Result<std::unique_ptr<ChatTemplate>> parse(std::string source, TemplateLimits limits = {});
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // Renders with `context`, an object whose members are the template's variables: messages, tools,
  // add_generation_prompt, bos_token, eos_token and whatever the request adds. Errors: kInvalidArgument with the bare
  // text of `raise_exception` when the template refuses the conversation; kInvalidArgument with the template's line
  // when an expression fails on it (an undefined value used, a wrong type); kTooLarge for a limit, which is named.
  Result<std::string> render(const nlohmann::ordered_json& context, const TemplateRenderOptions& options = {}) const;

  const std::string& source() const;

 private:
  struct Parsed;
  explicit ChatTemplate(std::unique_ptr<Parsed> parsed);
  std::unique_ptr<Parsed> parsed_;
};

}  // namespace weir
