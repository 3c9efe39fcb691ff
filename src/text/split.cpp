#include "text/split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/check.h"
#include "text/unicode.h"

namespace weir {

const std::string_view kGpt2SplitPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

// The stack of compiled code: small at first, 1 MiB when a match needs more; deeper nesting is an error.
constexpr size_t kJitStackStart = size_t{64} << 10;
constexpr size_t kJitStackMax = size_t{1} << 20;

std::string message_of(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct SplitScratch::State {
  pcre2_match_data* match = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;
};

SplitScratch::SplitScratch() : state_(std::make_unique<State>()) {
  state_->match = pcre2_match_data_create(1, nullptr);
  state_->context = pcre2_match_context_create(nullptr);
  WEIR_CHECK(state_->match != nullptr && state_->context != nullptr, "out of memory");
  pcre2_set_match_limit(state_->context, SplitPattern::kMatchStepsMax);
}

SplitScratch::~SplitScratch() {
  pcre2_match_context_free(state_->context);
  pcre2_match_data_free(state_->match);
  if (state_->stack != nullptr) pcre2_jit_stack_free(state_->stack);
}

struct SplitPattern::Code {
  pcre2_code* compiled = nullptr;
  ~Code() { pcre2_code_free(compiled); }
};

SplitPattern::SplitPattern(std::unique_ptr<Code> code) : code_(std::move(code)) {}
SplitPattern::~SplitPattern() = default;

Result<std::unique_ptr<SplitPattern>> SplitPattern::compile(std::string_view pattern) {
  if (pattern.size() > kPatternBytesMax) {
    return make_error(ErrorCode::kTooLarge, "split pattern of {} bytes: more than {}", pattern.size(),
                      kPatternBytesMax);
  }
  WEIR_RETURN_IF_ERROR(check_split_syntax(pattern));
  auto code = std::make_unique<Code>();
  int error = 0;
  PCRE2_SIZE offset = 0;
  code->compiled = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                                 &error, &offset, nullptr);
  if (code->compiled == nullptr) {
    return make_error(ErrorCode::kCorrupt, "split pattern at byte {}: {}", offset, message_of(error));
  }
  uint32_t matches_empty = 0;
  pcre2_pattern_info(code->compiled, PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0) return make_error(ErrorCode::kUnsupported, "split pattern can match the empty text");
  // Without a just-in-time compiler (a hardened kernel) the interpreter gives the same matches, slower.
  pcre2_jit_compile(code->compiled, PCRE2_JIT_COMPLETE);
  return std::unique_ptr<SplitPattern>(new SplitPattern(std::move(code)));
}

Status SplitPattern::split(std::string_view text, SplitScratch* scratch, std::vector<uint32_t>* ends) const {
  const std::optional<std::string> substituted = substitute_categories(text);
  const std::string_view subject = substituted ? std::string_view(*substituted) : text;
  SplitScratch::State* state = scratch->state_.get();
  const auto* bytes = reinterpret_cast<PCRE2_SPTR>(subject.data());
  size_t position = 0;
  while (position < subject.size()) {
    int result =
        pcre2_match(code_->compiled, bytes, subject.size(), position, PCRE2_NO_UTF_CHECK, state->match, state->context);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT && state->stack == nullptr) {
      state->stack = pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr);
      WEIR_CHECK(state->stack != nullptr, "out of memory");
      pcre2_jit_stack_assign(state->context, nullptr, state->stack);
      continue;
    }
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result < 0) {
      return make_error(ErrorCode::kTooLarge, "the tokenizer's split pattern gave up at byte {} of {}: {}", position,
                        text.size(), message_of(result));
    }
    const PCRE2_SIZE* match = pcre2_get_ovector_pointer(state->match);
    WEIR_CHECK(match[0] >= position && match[1] > match[0], "match [{}, {}) from {}", match[0], match[1], position);
    if (match[0] > position) ends->push_back(static_cast<uint32_t>(match[0]));
    ends->push_back(static_cast<uint32_t>(match[1]));
    position = match[1];
  }
  if (position < subject.size()) ends->push_back(static_cast<uint32_t>(subject.size()));
  return Ok{};
}

}  // namespace weir
