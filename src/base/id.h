// Strong integer ids: a page never converts to a slot.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace weir {

// An index into a table of things of kind Tag; negative means none.
template <class Tag>
class Id {
 public:
  constexpr Id() = default;
  constexpr explicit Id(int32_t value) : value_(value) {}
  template <class Integer>
  static constexpr Id from(Integer value) {
    return Id(static_cast<int32_t>(value));
  }
  constexpr int32_t value() const { return value_; }
  constexpr size_t index() const { return static_cast<size_t>(value_); }
  constexpr bool valid() const { return value_ >= 0; }
  friend constexpr auto operator<=>(Id, Id) = default;

 private:
  int32_t value_ = -1;
};

}  // namespace weir

template <class Tag>
struct std::hash<weir::Id<Tag>> {
  size_t operator()(weir::Id<Tag> id) const { return std::hash<int32_t>()(id.value()); }
};
