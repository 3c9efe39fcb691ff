#include "base/ring.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "base/wake.h"

namespace weir {
namespace {

void put_text(ByteRing* ring, const std::string& text) {
  ring->begin(static_cast<int64_t>(text.size()));
  ring->put(text.data(), static_cast<int64_t>(text.size()));
  ring->commit();
}

std::string take_text(ByteRing* ring) {
  std::string text(static_cast<size_t>(ring->front()), ' ');
  ring->take(text.data(), static_cast<int64_t>(text.size()));
  ring->pop();
  return text;
}

TEST(ByteRing, FramesOfAnySizeComeOutWholeAcrossTheEnd) {
  ByteRing ring(64);
  int64_t written = 0;
  int64_t read = 0;
  const auto text_of = [](int64_t i) {
    return std::string(static_cast<size_t>(i % 23), static_cast<char>('a' + i % 26));
  };
  for (int64_t i = 0; i < 1000; ++i) {
    while (ring.free_bytes() >= ByteRing::frame_bytes(written % 23)) put_text(&ring, text_of(written++));
    EXPECT_EQ(take_text(&ring), text_of(read++));
  }
  while (ring.front() >= 0) EXPECT_EQ(take_text(&ring), text_of(read++));
  EXPECT_EQ(read, written);
  EXPECT_EQ(ring.free_bytes(), ring.capacity());
}

TEST(ByteRing, AFullRingHasNoRoom) {
  ByteRing ring(64);
  put_text(&ring, std::string(56, 'x'));
  EXPECT_EQ(ring.free_bytes(), 0);
  EXPECT_DEATH(ring.begin(1), "frame of");
}

TEST(ByteRing, TwoThreadsAndAWakeLoseNothing) {
  constexpr int64_t kCount = 20'000;
  ByteRing ring(256);
  Wake filled;
  Wake emptied;
  std::thread producer([&] {
    for (int64_t i = 0; i < kCount; ++i) {
      while (ring.free_bytes() < ByteRing::frame_bytes(sizeof(i))) emptied.wait(100'000);
      ring.begin(sizeof(i));
      ring.put(&i, sizeof(i));
      ring.commit();
      filled.notify();
    }
  });
  int64_t expected = 0;
  while (expected < kCount) {
    if (ring.front() < 0) {
      filled.wait(100'000);
      continue;
    }
    int64_t got = -1;
    ring.take(&got, sizeof(got));
    ring.pop();
    emptied.notify();
    ASSERT_EQ(got, expected++);
  }
  producer.join();
}

TEST(Wake, ANotificationBeforeTheWaitIsNotLost) {
  Wake wake;
  EXPECT_FALSE(wake.wait(0));
  wake.notify();
  wake.notify();
  EXPECT_TRUE(wake.wait(10'000'000));
  EXPECT_FALSE(wake.wait(0));
}

}  // namespace
}  // namespace weir
