// Pages and state slots of the CPU backend: one reserved range, touched only as it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "models/config.h"
#include "models/program.h"
#include "plan/layout.h"
#include "runner/cache_places.h"
#include "runner/model.h"

namespace weir {

// Address space of a fixed size whose pages the kernel supplies on first touch.
class ReservedBytes {
 public:
  ReservedBytes() = default;
  static Result<ReservedBytes> reserve(int64_t bytes);
  ReservedBytes(ReservedBytes&& other) noexcept;
  ReservedBytes& operator=(ReservedBytes&& other) noexcept;
  ~ReservedBytes();
  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

// How caches of such layers are laid out. `draft_kv`: with what the draft head needs, a page class and, at the end of a
// slot, a ring of kHiddenRing hidden rows.
CacheLayout cache_layout(const ModelConfig& config, const CacheSizes& sizes, bool draft_kv);

class CpuCaches final : public Caches {
 public:
  // `pages` per class of `layout`, and `slots` state slots.
  static Result<CpuCaches> create(const ModelConfig& config, const CacheLayout& layout,
                                  const std::vector<int32_t>& pages, int32_t slots);

  std::byte* page(PageClassId page_class, PageId page) const override;
  std::byte* slot(StateSlotId slot) const override;
  float* hidden_row(StateSlotId slot, int64_t position) const override;
  void zero_slot(StateSlotId slot) override;
  void copy_page(PageClassId page_class, PageId from, PageId to) override;
  void copy_slot(StateSlotId from, StateSlotId to) override;
  int64_t bytes() const override { return places_.bytes(); }

 private:
  // The slot's memory, whatever is in it.
  std::byte* memory(StateSlotId slot) const;

  const ModelConfig* config_ = nullptr;
  CachePlaces places_;
  ReservedBytes memory_;
  int64_t slot_bytes_ = 0;
  int64_t gdn_bytes_ = 0;  // of a slot; behind them the ring of hidden rows
};

}  // namespace weir
