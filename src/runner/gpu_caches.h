// Pages and state slots in a GPU's memory, in the layout that the CPU's have.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/gpu/gpu.h"
#include "runner/cache_places.h"
#include "runner/model.h"

namespace weir {

class GpuCaches final : public Caches {
 public:
  // Borrows device and stream. kTooLarge: the device's memory does not hold them.
  static Result<std::unique_ptr<GpuCaches>> create(const CacheLayout& layout, const std::vector<int32_t>& pages,
                                                   int32_t slots, device::Device* device, device::Stream* stream);

  std::byte* page(PageClassId page_class, PageId page) const override;
  std::byte* slot(StateSlotId slot) const override;
  void zero_slot(StateSlotId slot) override;
  void copy_page(PageClassId page_class, PageId from, PageId to) override;
  void copy_slot(StateSlotId from, StateSlotId to) override;
  int64_t bytes() const override { return places_.bytes(); }

  // Where the slot keeps the last hidden rows; null where it keeps none.
  float* hidden_ring(StateSlotId slot) const {
    return gdn_bytes_ == slot_bytes_ ? nullptr : reinterpret_cast<float*>(memory(slot) + gdn_bytes_);
  }
  // The multiple of 64 at which the state of the slot at `slot` stands; kept on the host, which decides every change.
  int64_t base(const std::byte* slot) const { return bases_[index(slot)]; }
  // Rows up to `position` (exclusive) have been computed on the slot.
  void advance(const std::byte* slot, int64_t position);

 private:
  GpuCaches() = default;
  // The slot's memory, whatever is in it.
  std::byte* memory(StateSlotId slot) const;
  size_t index(const std::byte* slot) const { return places_.slot_at(slot - memory_.data()); }

  device::Stream* stream_ = nullptr;
  CachePlaces places_;
  device::Bytes memory_;
  int64_t slot_bytes_ = 0;
  int64_t gdn_bytes_ = 0;  // of a slot
  std::vector<int64_t> bases_;
};

}  // namespace weir
