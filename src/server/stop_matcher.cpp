#include "server/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace weir {

StopSet::StopSet(std::vector<std::string> strings) : strings_(std::move(strings)) {
  for (const std::string& text : strings_) {
    std::vector<int32_t> failure(text.size(), 0);
    for (size_t i = 1, length = 0; i < text.size(); ++i) {
      while (length > 0 && text[i] != text[length]) {
        length = static_cast<size_t>(failure[length - 1]);
      }
      length += text[i] == text[length] ? 1 : 0;
      failure[i] = static_cast<int32_t>(length);
    }
    failure_.push_back(std::move(failure));
  }
}

StopMatcher::StopMatcher(const StopSet* set, bool include)
    : set_(set), include_(include), state_(set->strings_.size(), 0) {}

bool StopMatcher::push(std::string_view piece, std::string* out) {
  if (matched_ >= 0) {
    return true;
  }
  if (set_->empty()) {
    *out += piece;
    return false;
  }
  for (char c : piece) {
    held_ += c;
    for (size_t k = 0; k < state_.size(); ++k) {
      const std::string& text = set_->strings_[k];
      auto length = static_cast<size_t>(state_[k]);
      while (length > 0 && text[length] != c) {
        length = static_cast<size_t>(set_->failure_[k][length - 1]);
      }
      length += text[length] == c ? 1 : 0;
      state_[k] = static_cast<int32_t>(length);
      if (length == text.size() && (matched_ < 0 || length > set_->strings_[static_cast<size_t>(matched_)].size())) {
        matched_ = static_cast<int32_t>(k);
      }
    }
    if (matched_ >= 0) {
      out->append(held_, 0, held_.size() - (include_ ? 0 : match().size()));
      held_.clear();
      return true;
    }
  }
  const auto keep = static_cast<size_t>(*std::max_element(state_.begin(), state_.end()));
  out->append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return false;
}

void StopMatcher::finish(std::string* out) {
  *out += held_;
  held_.clear();
}

}  // namespace weir
