// Tables of the character database, sorted by code point; see unicode.h for what uses them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace weir::jinja {

struct CodeRange {
  uint32_t first;
  uint32_t last;
};

// Every `stride`-th code point from first to last maps to itself plus delta.
struct CaseRun {
  uint32_t first;
  uint32_t last;
  uint32_t stride;
  int32_t delta;
};

struct CaseSpecial {
  uint32_t code;
  const char* text;  // UTF-8
};

extern const CaseRun kUpperRuns[];
extern const size_t kUpperRuns_count;
extern const CaseRun kLowerRuns[];
extern const size_t kLowerRuns_count;
extern const CaseSpecial kUpperSpecial[];
extern const size_t kUpperSpecial_count;
extern const CaseSpecial kLowerSpecial[];
extern const size_t kLowerSpecial_count;
// Where the titlecase form is not the uppercase form.
extern const CaseSpecial kTitleSpecial[];
extern const size_t kTitleSpecial_count;
extern const CodeRange kNotPrintable[];
extern const size_t kNotPrintable_count;
extern const CodeRange kAlpha[];
extern const size_t kAlpha_count;
extern const CodeRange kAlnum[];
extern const size_t kAlnum_count;
extern const CodeRange kDigit[];
extern const size_t kDigit_count;

}  // namespace weir::jinja
