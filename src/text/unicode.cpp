#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <vector>

#include "base/check.h"
#include "text/unicode_tables.h"

namespace weir {
namespace {

// Below U+0300 nothing combines with what stands before it and every code point is its own NFC.
constexpr char32_t kFirstCombining = 0x300;
// U+0300 starts with this byte in UTF-8; text without a byte at or above it is ASCII and Latin only.
constexpr unsigned char kFirstCombiningLead = 0xCC;
// One code point decomposes into at most four (U+1F82 and its like).
constexpr int kDecompositionMax = 8;

constexpr char32_t kJamoVowelFirst = 0x1160;
constexpr char32_t kJamoTrailLast = 0x11FF;

bool is_continuation(unsigned char byte) {
  return (byte & 0xC0) == 0x80;
}

// The length of a valid sequence that starts at `s`, of which `left` bytes exist, or 0.
size_t sequence_length(const unsigned char* s, size_t left) {
  const unsigned char lead = s[0];
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;
  if (lead < 0xE0) return left >= 2 && is_continuation(s[1]) ? 2 : 0;
  if (lead < 0xF0) {
    const unsigned char low = lead == 0xE0 ? 0xA0 : 0x80;
    const unsigned char high = lead == 0xED ? 0x9F : 0xBF;
    return left >= 3 && s[1] >= low && s[1] <= high && is_continuation(s[2]) ? 3 : 0;
  }
  if (lead > 0xF4) return 0;
  const unsigned char low = lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xF4 ? 0x8F : 0xBF;
  return left >= 4 && s[1] >= low && s[1] <= high && is_continuation(s[2]) && is_continuation(s[3]) ? 4 : 0;
}

template <class Range>
const Range* find_range(std::span<const Range> ranges, char32_t value) {
  const auto it = std::upper_bound(ranges.begin(), ranges.end(), value,
                                   [](char32_t wanted, const Range& range) { return wanted < range.first; });
  if (it == ranges.begin()) return nullptr;
  const Range* range = &*(it - 1);
  return value <= range->last ? range : nullptr;
}

bool is_nfc_barrier(char32_t value) {
  return find_range(nfc_barriers(), value) != nullptr;
}

// Whether `value` alone is its own NFC and nothing before it can change because of it.
bool starts_segment(char32_t value) {
  if (value < kFirstCombining) return true;
  if (value >= kJamoVowelFirst && value <= kJamoTrailLast) return is_nfc_barrier(value);
  const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(value));
  // A Hangul syllable decomposes, but only what follows can change it.
  const bool hangul = value >= 0xAC00 && value <= 0xD7A3;
  const bool decomposes = property->decomp_seqindex != UINT16_MAX && property->decomp_type == 0 && !hangul;
  // comb_index marks both halves of a composition; a first half merely gets checked more closely.
  const bool plain = property->combining_class == 0 && !decomposes && property->comb_index == UINT16_MAX;
  return plain || is_nfc_barrier(value);
}

int combining_class(utf8proc_int32_t value) {
  return utf8proc_get_property(value)->combining_class;
}

// Orders each run of combining marks by class, keeping the order within a class. utf8proc's own ordering is quadratic
// in a run, which a text may choose.
void order_marks(std::vector<utf8proc_int32_t>* points) {
  constexpr int kPointBits = 21;
  constexpr int kIndexBits = 32;
  std::vector<uint64_t> keys;
  auto it = points->begin();
  while (it != points->end()) {
    it = std::find_if(it, points->end(), [](utf8proc_int32_t value) { return combining_class(value) != 0; });
    const auto end =
        std::find_if(it, points->end(), [](utf8proc_int32_t value) { return combining_class(value) == 0; });
    keys.clear();
    for (auto mark = it; mark != end; ++mark) {
      keys.push_back(static_cast<uint64_t>(combining_class(*mark)) << (kIndexBits + kPointBits) |
                     static_cast<uint64_t>(keys.size()) << kPointBits | static_cast<uint64_t>(*mark));
    }
    std::sort(keys.begin(), keys.end());
    for (const uint64_t key : keys) *it++ = static_cast<utf8proc_int32_t>(key & ((uint64_t{1} << kPointBits) - 1));
  }
}

// Appends the NFC of a segment that holds no barrier.
void append_composed(std::string_view segment, std::vector<utf8proc_int32_t>* points, std::string* out) {
  points->clear();
  for (size_t position = 0; position < segment.size();) {
    const CodePoint point = code_point_at(segment, position);
    position += point.length;
    utf8proc_int32_t parts[kDecompositionMax];
    int boundary = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(point.value), parts,
                                                           kDecompositionMax, UTF8PROC_DECOMPOSE, &boundary);
    WEIR_CHECK(count > 0 && count <= kDecompositionMax, "decomposition of U+{:04X}: {}",
               static_cast<uint32_t>(point.value), count);
    points->insert(points->end(), parts, parts + count);
  }
  order_marks(points);
  const utf8proc_ssize_t size =
      utf8proc_normalize_utf32(points->data(), static_cast<utf8proc_ssize_t>(points->size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  WEIR_CHECK(size >= 0, "composition failed: {}", size);
  for (utf8proc_ssize_t i = 0; i < size; ++i)
    append_utf8(static_cast<char32_t>((*points)[static_cast<size_t>(i)]), out);
}

// [category][length 3 or 4]: a code point of that category, unchanged since Unicode 7 or so.
constexpr char32_t kSubstitutes[][2] = {
    {0x2060, 0x110BD},  // Cf
    {0x1D00, 0x10428},  // Ll
    {0x1D2C, 0x16B40},  // Lm
    {0x1200, 0x10000},  // Lo
    {0x1E00, 0x10400},  // Lu
    {0x0903, 0x11000},  // Mc
    {0x1DC0, 0x101FD},  // Mn
    {0x0966, 0x104A0},  // Nd
    {0x2070, 0x10107},  // No
    {0x2010, 0x10EAD},  // Pd
    {0x2016, 0x10100},  // Po
    {0x2044, 0x1D6C1},  // Sm
    {0x2100, 0x1F300},  // So
};

char32_t substitute_for(const CategoryChange& change, size_t length) {
  return kSubstitutes[static_cast<size_t>(change.category)][length - 3];
}

// Marks the blocks of 256 code points in which a category changed, so that ordinary text costs one bit test.
const std::bitset<0x1100>& changed_blocks() {
  static const std::bitset<0x1100> blocks = [] {
    std::bitset<0x1100> marked;
    for (const CategoryChange& change : category_changes()) {
      for (char32_t block = change.first >> 8; block <= change.last >> 8; ++block) marked.set(block);
    }
    return marked;
  }();
  return blocks;
}

}  // namespace

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  const auto* s = reinterpret_cast<const unsigned char*>(text.data());
  for (size_t position = 0; position < text.size();) {
    const size_t length = sequence_length(s + position, text.size() - position);
    if (length == 0) return position;
    position += length;
  }
  return std::nullopt;
}

CodePoint code_point_at(std::string_view text, size_t position) {
  const auto* s = reinterpret_cast<const unsigned char*>(text.data()) + position;
  const char32_t lead = s[0];
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (s[1] & 0x3Fu), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu), 3};
  return {(lead & 0x07) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu), 4};
}

CodePoint code_point_before(std::string_view text, size_t position) {
  do {
    --position;
  } while (position > 0 && is_continuation(static_cast<unsigned char>(text[position])));
  return code_point_at(text, position);
}

void append_utf8(char32_t value, std::string* out) {
  const auto put = [out](char32_t byte) { out->push_back(static_cast<char>(static_cast<unsigned char>(byte))); };
  if (value < 0x80) {
    put(value);
  } else if (value < 0x800) {
    put(0xC0 | value >> 6);
    put(0x80 | (value & 0x3F));
  } else if (value < 0x10000) {
    put(0xE0 | value >> 12);
    put(0x80 | (value >> 6 & 0x3F));
    put(0x80 | (value & 0x3F));
  } else {
    put(0xF0 | value >> 18);
    put(0x80 | (value >> 12 & 0x3F));
    put(0x80 | (value >> 6 & 0x3F));
    put(0x80 | (value & 0x3F));
  }
}

bool is_white_space(char32_t value) {
  if (value < 0x80) return value == ' ' || (value >= 0x09 && value <= 0x0D);
  return value == 0x85 || value == 0xA0 || value == 0x1680 || (value >= 0x2000 && value <= 0x200A) || value == 0x2028 ||
         value == 0x2029 || value == 0x202F || value == 0x205F || value == 0x3000;
}

std::optional<std::string> normalize_nfc(std::string_view text) {
  const bool simple = std::none_of(text.begin(), text.end(),
                                   [](char byte) { return static_cast<unsigned char>(byte) >= kFirstCombiningLead; });
  if (simple) return std::nullopt;
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> points;
  for (size_t start = 0; start < text.size();) {
    const CodePoint first = code_point_at(text, start);
    size_t end = start + first.length;
    bool changes = !starts_segment(first.value);
    // A barrier combines with nothing on either side, so it is a segment of its own.
    while (end < text.size() && !is_nfc_barrier(first.value)) {
      const CodePoint next = code_point_at(text, end);
      if (starts_segment(next.value)) break;
      changes = true;
      end += next.length;
    }
    const std::string_view segment = text.substr(start, end - start);
    if (changes) {
      append_composed(segment, &points, &out);
    } else {
      out.append(segment);
    }
    start = end;
  }
  if (out == text) return std::nullopt;
  return out;
}

std::optional<std::string> substitute_categories(std::string_view text) {
  const std::bitset<0x1100>& blocks = changed_blocks();
  std::optional<std::string> out;
  for (size_t position = 0; position < text.size();) {
    // Nothing below U+0800 (two bytes) changed.
    if (static_cast<unsigned char>(text[position]) < 0xE0) {
      ++position;
      continue;
    }
    const CodePoint point = code_point_at(text, position);
    if (blocks.test(point.value >> 8)) {
      if (const CategoryChange* change = find_range(category_changes(), point.value)) {
        if (!out) out.emplace(text);
        std::string replacement;
        append_utf8(substitute_for(*change, point.length), &replacement);
        out->replace(position, point.length, replacement);
      }
    }
    position += point.length;
  }
  return out;
}

bool touches_substitutes(char32_t first, char32_t last) {
  for (const auto& pair : kSubstitutes) {
    for (const char32_t value : pair) {
      if (value >= first && value <= last) return true;
    }
  }
  const auto changes = category_changes();
  return std::any_of(changes.begin(), changes.end(),
                     [=](const CategoryChange& change) { return change.first <= last && change.last >= first; });
}

}  // namespace weir
