#include "runner/gpu_caches.h"

#include <utility>

#include "base/check.h"
#include "ops/gdn/slot.h"

namespace weir {

Result<std::unique_ptr<GpuCaches>> GpuCaches::create(const CacheLayout& layout, const std::vector<int32_t>& pages,
                                                     int32_t slots, device::Device* device, device::Stream* stream) {
  WEIR_CHECK(pages.size() == layout.classes.size(), "{} page counts for {} classes", pages.size(),
             layout.classes.size());
  std::unique_ptr<GpuCaches> caches(new GpuCaches());
  caches->stream_ = stream;
  for (size_t i = 0; i < pages.size(); ++i) {
    Class entry;
    entry.page_bytes = layout.classes[i].bytes_per_page;
    entry.count = pages[i];
    WEIR_ASSIGN_OR_RETURN(entry.memory,
                          device->allocate(entry.page_bytes * entry.count, layout.classes[i].name + " pages",
                                           "lower --kv-cache-memory-bytes or --max-model-len"));
    caches->classes_.push_back(std::move(entry));
  }
  caches->slot_bytes_ = layout.state_slot_bytes;
  caches->gdn_bytes_ = layout.state_slot_bytes - layout.hidden_ring_bytes;
  WEIR_ASSIGN_OR_RETURN(caches->slots_,
                        device->allocate(caches->slot_bytes_ * slots, "state slots", "lower --max-num-seqs"));
  caches->bases_.resize(static_cast<size_t>(slots));
  return caches;
}

std::byte* GpuCaches::page(PageClassId page_class, PageId page) const {
  const Class& entry = classes_.at(page_class.index());
  WEIR_CHECK(page.valid() && page.value() < entry.count, "page {} of {}", page.value(), entry.count);
  return entry.memory.data() + entry.page_bytes * page.value();
}

std::byte* GpuCaches::slot(StateSlotId slot) const {
  return gdn_bytes_ == 0 ? nullptr : memory(slot);
}

std::byte* GpuCaches::memory(StateSlotId slot) const {
  WEIR_CHECK(slot.valid() && slot.index() < bases_.size(), "state slot {} of {}", slot.value(), bases_.size());
  return slots_.data() + slot_bytes_ * slot.value();
}

void GpuCaches::zero_slot(StateSlotId id) {
  if (slot_bytes_ == 0) return;
  stream_->zero(memory(id), slot_bytes_);
  bases_[id.index()] = 0;
}

void GpuCaches::copy_page(PageClassId page_class, PageId from, PageId to) {
  stream_->copy(page(page_class, to), page(page_class, from), classes_.at(page_class.index()).page_bytes);
}

void GpuCaches::copy_slot(StateSlotId from, StateSlotId to) {
  if (slot_bytes_ == 0) return;
  stream_->copy(memory(to), memory(from), slot_bytes_);
  bases_[to.index()] = bases_[from.index()];
}

void GpuCaches::advance(const std::byte* slot, int64_t position) {
  bases_[index(slot)] = gdn_base_before(position);
}

int64_t GpuCaches::bytes() const {
  int64_t bytes = slots_.size();
  for (const Class& entry : classes_) bytes += entry.memory.size();
  return bytes;
}

}  // namespace weir
