// A bounded queue of frames of bytes between one producer and one consumer. Its state is two counters and a block of
// bytes, so the same layout works in memory that two processes share.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>

#include "base/check.h"

namespace weir {

class ByteRing {
 public:
  // Reserves `capacity` bytes, rounded up to a power of two; pages are touched when first written.
  explicit ByteRing(int64_t capacity)
      : capacity_(std::bit_ceil(static_cast<uint64_t>(capacity))), bytes_(new char[capacity_]) {}

  int64_t capacity() const { return static_cast<int64_t>(capacity_); }
  // What a frame with this payload occupies.
  static int64_t frame_bytes(int64_t payload) { return kPrefix + (payload + 7) / 8 * 8; }

  // Producer: room for frames, in frame_bytes.
  int64_t free_bytes() const {
    return capacity() - static_cast<int64_t>(write_ - read_end_.load(std::memory_order_acquire));
  }
  // Producer: begin a frame of exactly `payload` bytes (it must fit), put its parts, commit.
  void begin(int64_t payload) {
    WEIR_CHECK(frame_bytes(payload) <= free_bytes(), "frame of {} bytes, {} free", payload, free_bytes());
    frame_end_ = write_ + static_cast<uint64_t>(frame_bytes(payload));
    put(&payload, kPrefix);
  }
  void put(const void* data, int64_t size) {
    const auto count = static_cast<uint64_t>(size);
    WEIR_CHECK(write_ + count <= frame_end_, "frame overrun by {} bytes", write_ + count - frame_end_);
    const uint64_t at = write_ & (capacity_ - 1);
    const uint64_t first = std::min(count, capacity_ - at);
    if (first > 0) std::memcpy(&bytes_[at], data, first);
    if (count > first) std::memcpy(&bytes_[0], static_cast<const char*>(data) + first, count - first);
    write_ += count;
  }
  void commit() {
    WEIR_CHECK(frame_end_ - write_ < 8, "frame is short by {} bytes", frame_end_ - write_);
    write_ = frame_end_;
    write_end_.store(write_, std::memory_order_release);
  }

  // Either side: no frame is waiting.
  bool empty() const { return write_end_.load(std::memory_order_acquire) == read_end_.load(std::memory_order_acquire); }
  // Consumer: payload bytes of the oldest frame, -1 if there is none. Then take its parts and pop.
  int64_t front() {
    read_ = read_end_.load(std::memory_order_relaxed);
    if (write_end_.load(std::memory_order_acquire) == read_) return -1;
    int64_t payload = 0;
    take(&payload, kPrefix);
    front_end_ = read_ + static_cast<uint64_t>(frame_bytes(payload) - kPrefix);
    return payload;
  }
  void take(void* data, int64_t size) {
    const auto count = static_cast<uint64_t>(size);
    const uint64_t at = read_ & (capacity_ - 1);
    const uint64_t first = std::min(count, capacity_ - at);
    if (first > 0) std::memcpy(data, &bytes_[at], first);
    if (count > first) std::memcpy(static_cast<char*>(data) + first, &bytes_[0], count - first);
    read_ += count;
  }
  void pop() {
    WEIR_CHECK(read_ <= front_end_, "read {} bytes past the frame", read_ - front_end_);
    read_end_.store(front_end_, std::memory_order_release);
  }

 private:
  static constexpr int64_t kPrefix = sizeof(int64_t);

  uint64_t capacity_;
  std::unique_ptr<char[]> bytes_;
  // Counters of bytes ever written and read; each side's own on a cache line of its own (64 bytes on x86-64 and
  // Neoverse).
  alignas(64) std::atomic<uint64_t> write_end_{0};
  uint64_t write_ = 0;
  uint64_t frame_end_ = 0;
  alignas(64) std::atomic<uint64_t> read_end_{0};
  uint64_t read_ = 0;
  uint64_t front_end_ = 0;
};

}  // namespace weir
