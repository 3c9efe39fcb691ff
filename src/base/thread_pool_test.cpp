#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace weir {
namespace {

TEST(ThreadPool, RunsEveryTaskOnceInEveryRegion) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool({.threads = threads, .pin = false, .spin_us = 20});
    for (int64_t region = 0; region < 2000; ++region) {
      const int64_t count = region % 37;
      std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
      pool.parallel_for(count, [&](int64_t task, int thread) {
        ASSERT_TRUE(thread >= 0 && thread < threads);
        runs[static_cast<size_t>(task)].fetch_add(1);
      });
      for (const auto& r : runs) ASSERT_EQ(r.load(), 1) << threads << " threads, region " << region;
    }
  }
}

TEST(ThreadPool, WhatARegionWroteIsSeenByTheNext) {
  ThreadPool pool({.threads = 4, .pin = false, .spin_us = 0});  // no spinning: every region wakes sleepers
  std::vector<int64_t> values(64, 0);
  for (int64_t region = 1; region <= 300; ++region) {
    pool.parallel_for(64, [&](int64_t task, int) {
      auto& value = values[static_cast<size_t>(63 - task)];
      ASSERT_EQ(value, region - 1);
      value = region;
    });
  }
}

TEST(ThreadPoolDeathTest, NestedRegionsAreAProgrammerError) {
  ThreadPool pool({.threads = 2, .pin = false, .spin_us = 1});
  EXPECT_DEATH(pool.parallel_for(4, [&](int64_t, int) { pool.parallel_for(2, [](int64_t, int) {}); }), "parallel_for");
}

}  // namespace
}  // namespace weir
