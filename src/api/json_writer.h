// Appends JSON text to a string: what the streaming path writes for every token, without building a document.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace weir::api {

// A quoted, escaped string. Bytes that are not UTF-8 become U+FFFD, so that the output is always valid JSON.
void append_json_string(std::string_view text, std::string* out);
// null if `text` is empty.
void append_json_string_or_null(std::string_view text, std::string* out);
void append_json_int(int64_t value, std::string* out);
// The shortest decimal that reads back as the same float; never NaN or an infinity: those become -9999 (log of
// nothing).
void append_json_float(float value, std::string* out);

}  // namespace weir::api
