// Where the linked Unicode data differ from the reference tokenizer's; the tables are generated.
#pragma once

#include <cstdint>
#include <span>

namespace weir {

// The general categories that occur in category_changes().
enum class GeneralCategory : uint8_t { kCf, kLl, kLm, kLo, kLu, kMc, kMn, kNd, kNo, kPd, kPo, kSm, kSo };

struct CategoryChange {
  char32_t first;
  char32_t last;
  GeneralCategory category;  // what the reference's regular expressions see
};

struct CodePointRange {
  char32_t first;
  char32_t last;
};

// Ascending. Code points that the linked regex engine puts in another category than the reference.
std::span<const CategoryChange> category_changes();

// Ascending. Code points that combine with nothing in the reference's normaliser but do in the linked one: those that
// got canonical properties after Unicode 9, and U+11A7, which utf8proc takes for an empty trailing consonant and drops.
std::span<const CodePointRange> nfc_barriers();

}  // namespace weir
