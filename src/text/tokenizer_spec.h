// What a tokenizer.json says, checked to be something this tokenizer executes exactly. Private to text/.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace weir {

struct AddedToken {
  int32_t id = 0;
  std::string text;
  bool single_word = false;  // matches only between characters that are not of words
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;
  bool normalized = false;  // matched in normalised text, else before normalisation
  bool special = false;
};

// Tokens of the vocabulary by id; `bytes` of an id that no token has is empty.
struct Vocabulary {
  std::string blob;               // all tokens' raw bytes
  std::vector<uint32_t> offsets;  // size ids + 1 into blob
  // Whether byte-pair merging may yield the token: false for one whose text is not in the byte alphabet.
  std::vector<bool> mergeable;

  int32_t size() const { return static_cast<int32_t>(mergeable.size()); }
  std::string_view bytes(int32_t id) const {
    const auto i = static_cast<size_t>(id);
    return std::string_view(blob).substr(offsets[i], offsets[i + 1] - offsets[i]);
  }
};

// One merge; its rank is its index in the file.
struct MergeRule {
  int32_t left;
  int32_t right;
  int32_t rank;
  int32_t merged;
};

struct TokenizerSpec {
  bool nfc = false;
  std::vector<std::string> split_patterns;  // applied one after another
  bool add_prefix_space = false;            // each piece gets a space in front unless it starts with one
  bool gpt2_split = false;                  // ByteLevel's own pattern, after the prefix
  bool ignore_merges = false;               // a piece that is a token is that token
  bool needs_all_bytes = false;             // an unknown token is named: it must not be reachable
  Vocabulary vocabulary;
  std::vector<MergeRule> merges;
  std::vector<AddedToken> added;  // ascending id, unique texts
};

// See Tokenizer::parse() for the errors.
Result<TokenizerSpec> parse_tokenizer_json(std::string_view json);

// Maps a token's text in the byte alphabet of GPT-2 (each byte is one printable code point) back to bytes, appending to
// `out`. False, and `out` unchanged, when a character is not of that alphabet.
bool append_alphabet_bytes(std::string_view token_text, std::string* out);

}  // namespace weir
