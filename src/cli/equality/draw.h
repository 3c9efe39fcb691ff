// Small draws from one generator.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

#include "plan/ids.h"

namespace weir::equality {

using Random = std::mt19937_64;

inline int64_t between(Random* random, int64_t low, int64_t high) {
  return low + static_cast<int64_t>((*random)() % static_cast<uint64_t>(high - low + 1));
}
inline bool one_in(Random* random, int64_t count) {
  return between(random, 1, count) == 1;
}
template <class T>
T pick(Random* random, std::initializer_list<T> values) {
  return *(values.begin() + between(random, 0, static_cast<int64_t>(values.size()) - 1));
}

inline std::vector<TokenId> draw_tokens(Random* random, int64_t count, int32_t vocabulary) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (TokenId& token : tokens) token = static_cast<TokenId>(between(random, 0, vocabulary - 1));
  return tokens;
}

}  // namespace weir::equality
