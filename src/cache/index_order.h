// Orders of records that stand in an array and are known by their index: every change takes constant time.
// `link_of(index)` is the record's link in the order that is meant.
#pragma once

#include <cstdint>

namespace weir {

// A record's neighbours; -1: none.
struct OrderLink {
  int32_t before = -1;
  int32_t behind = -1;
};

// -1: there are none.
struct IndexOrder {
  int32_t first = -1;
  int32_t last = -1;

  template <class LinkOf>
  void append(int32_t index, const LinkOf& link_of) {
    link_of(index) = {last, -1};
    (last >= 0 ? link_of(last).behind : first) = index;
    last = index;
  }
  template <class LinkOf>
  void prepend(int32_t index, const LinkOf& link_of) {
    link_of(index) = {-1, first};
    (first >= 0 ? link_of(first).before : last) = index;
    first = index;
  }
  template <class LinkOf>
  void take_out(int32_t index, const LinkOf& link_of) {
    const OrderLink own = link_of(index);
    (own.before >= 0 ? link_of(own.before).behind : first) = own.behind;
    (own.behind >= 0 ? link_of(own.behind).before : last) = own.before;
  }
};

}  // namespace weir
