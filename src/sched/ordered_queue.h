// Sequences in the order in which they deserve to run.
#pragma once

#include <algorithm>
#include <compare>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "plan/ids.h"

namespace weir {

// Priority and age in one number that never changes: arrival_us + priority * aging_us. Of two sequences the one with
// the smaller key would also win at any time by "priority minus waiting time in units of aging_us", so ageing needs no
// update, order within a priority is by arrival, and nobody is overtaken by a request that arrives more than
// (kPriorityMax - kPriorityMin) * aging_us later.
struct OrderKey {
  int64_t due_us = 0;
  SequenceId id = 0;
  friend auto operator<=>(const OrderKey&, const OrderKey&) = default;
};

// A sorted array with reserved room: a few hundred to a few thousand entries of 24 bytes, so that insertion and removal
// in the middle are one short move.
class OrderedQueue {
 public:
  struct Entry {
    OrderKey key;
    int32_t index = -1;  // of the sequence
  };

  explicit OrderedQueue(size_t capacity) { entries_.reserve(capacity); }

  bool empty() const { return entries_.empty(); }
  int32_t size() const { return static_cast<int32_t>(entries_.size()); }
  // 0: the first to run.
  const Entry& at(int32_t position) const { return entries_[static_cast<size_t>(position)]; }
  const Entry& first() const { return entries_.front(); }
  const Entry& last() const { return entries_.back(); }

  void insert(OrderKey key, int32_t index) {
    WEIR_CHECK(entries_.size() < entries_.capacity(), "queue of {} entries is full", entries_.capacity());
    entries_.insert(std::lower_bound(entries_.begin(), entries_.end(), key, before), Entry{key, index});
  }
  void remove(OrderKey key) {
    const auto entry = std::lower_bound(entries_.begin(), entries_.end(), key, before);
    WEIR_CHECK(entry != entries_.end() && entry->key == key, "sequence {} is not in the queue", key.id);
    entries_.erase(entry);
  }

 private:
  static bool before(const Entry& entry, const OrderKey& key) { return entry.key < key; }
  std::vector<Entry> entries_;
};

}  // namespace weir
