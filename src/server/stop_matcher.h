// Finds stop strings in text that arrives in pieces, and holds back what may become one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

// The stop strings of one request, with their failure functions (Knuth, Morris, Pratt): matching costs one step per
// byte and string, whatever the strings are. Immutable; shared by the request's choices.
class StopSet {
 public:
  explicit StopSet(std::vector<std::string> strings);
  bool empty() const { return strings_.empty(); }

 private:
  friend class StopMatcher;
  std::vector<std::string> strings_;
  std::vector<std::vector<int32_t>> failure_;
};

// The earliest-ending match wins, of two that end together the longer: the result does not depend on the pieces.
class StopMatcher {
 public:
  // `set` must outlive the matcher. `include`: the matched string stays in the text.
  StopMatcher(const StopSet* set, bool include);

  // Takes the next piece; appends to `out` what no stop string can contain any more. Returns true once a stop string
  // is complete: the text ends there and the rest of the piece is dropped.
  bool push(std::string_view piece, std::string* out);
  // The text ended without a match: appends what was held back.
  void finish(std::string* out);

  bool matched() const { return matched_ >= 0; }
  // The stop string that matched.
  std::string_view match() const { return set_->strings_[static_cast<size_t>(matched_)]; }

 private:
  const StopSet* set_;
  bool include_;
  std::vector<int32_t> state_;  // per string: how much of it the text ends with
  std::string held_;
  int32_t matched_ = -1;
};

}  // namespace weir
