#include "net/work_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <latch>

namespace weir::net {
namespace {

TEST(WorkPool, RunsEverythingThatWasTaken) {
  std::atomic<int> done = 0;
  {
    WorkPool pool(3, 1000);
    for (int i = 0; i < 500; ++i) {
      ASSERT_TRUE(pool.submit([&done] { ++done; }));
    }
  }
  EXPECT_EQ(done, 500);
}

TEST(WorkPool, RefusesMoreThanItsCapacity) {
  std::latch started(1);
  std::latch release(1);
  WorkPool pool(1, 2);
  ASSERT_TRUE(pool.submit([&] {
    started.count_down();
    release.wait();
  }));
  started.wait();
  EXPECT_TRUE(pool.submit([] {}));
  EXPECT_TRUE(pool.submit([] {}));
  EXPECT_FALSE(pool.submit([] {}));
  release.count_down();
}

}  // namespace
}  // namespace weir::net
