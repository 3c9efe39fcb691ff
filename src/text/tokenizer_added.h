// Finds added tokens in a text before it is split. Private to text/.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer_spec.h"

namespace weir {

// A part of a text: an added token, or text between them (id -1).
struct TextPart {
  int32_t id;
  uint32_t begin;
  uint32_t end;
};

class AddedMatcher {
 public:
  struct Pattern {
    std::string text;         // as it is searched for
    const AddedToken* token;  // must outlive the matcher
  };

  // Texts must be distinct and not empty.
  explicit AddedMatcher(std::vector<Pattern> patterns);

  bool empty() const { return patterns_.empty(); }

  // Appends the parts of `text`, in order, empty ones left out. At each place the leftmost and there the longest
  // pattern counts; one that its flags discard is skipped whole. `skip_special`: special tokens are discarded.
  void split(std::string_view text, bool skip_special, std::vector<TextPart>* parts) const;

 private:
  const Pattern* longest_at(std::string_view text, size_t position) const;

  std::vector<Pattern> patterns_;  // by text
  uint32_t first_[257];            // patterns_ index by first byte
};

}  // namespace weir
