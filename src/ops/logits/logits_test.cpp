#include "ops/logits/logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops/cases.h"

namespace weir {
namespace {

using cases::Floats;

TEST(Logits, LogSumExpAgreesWithDoublePrecisionOnEveryMachine) {
  for (const int64_t size : {1, 15, 5000, 100003}) {
    const Floats logits = cases::random_floats(1, size, 5.0F);
    double sum = 0;
    const float max = *std::max_element(logits.begin(), logits.end());
    for (const float l : logits) sum += std::exp(static_cast<double>(l) - static_cast<double>(max));
    double first = 0;
    for (const auto& cpu : cases::all_cpus(0)) {
      const LogitRow row = logit_row(*cpu, logits);
      EXPECT_EQ(row.max, max);
      EXPECT_EQ(logits[static_cast<size_t>(row.argmax)], max);
      EXPECT_NEAR(row.log_sum_exp, static_cast<double>(max) + std::log(sum), 3e-7) << size;
      if (first == 0) first = row.log_sum_exp;
      EXPECT_EQ(row.log_sum_exp, first) << isa_name(cpu->isa());
    }
  }
}

TEST(Logits, TopEntriesAreSortedWithTheLowestIdFirstAmongEquals) {
  Floats logits = cases::random_floats(2, 1000);
  for (float& l : logits) l = std::round(l * 4.0F);  // many equals
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  std::vector<LogitEntry> top(20);
  ASSERT_EQ(top_logits(logits, top), 20);
  for (size_t i = 0; i < top.size(); ++i) EXPECT_EQ(top[i].id, order[i]) << i;
  EXPECT_EQ(top_logits(std::span(logits).first(7), top), 7);
  EXPECT_EQ(top_logits(logits, std::span<LogitEntry>()), 0);
  for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(logit_rank(logits, order[i]), static_cast<int64_t>(i) + 1);
  std::vector<LogitEntry> all(logits.size());
  ASSERT_EQ(top_logits(logits, all), static_cast<int64_t>(logits.size()));
  for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].id, order[i]) << i;
}

}  // namespace
}  // namespace weir
