// Some seconds of what `equality_sim --schedules 10000` does at length.
#include <gtest/gtest.h>

#include "cli/equality/equality.h"
#include "runner/test_model.h"

namespace weir::equality {
namespace {

class Equality : public testing::TestWithParam<const char*> {};

TEST_P(Equality, ReuseAndCrowdsChangeNoBit) {
  auto model = load_golden_model(GetParam(), 4096);
  ASSERT_TRUE(model.ok()) << model.error().text();
  Judge judge(model->get());
  Reach reach{};
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    ASSERT_EQ(judge.run(seed, &reach), std::vector<std::string>()) << "seed " << seed;
  }
  for (const Reached what : {Reached::kHitOnGrid, Reached::kHitInsidePage, Reached::kHitInGenerated,
                             Reached::kPreempted, Reached::kEvicted}) {
    EXPECT_GT(reach[static_cast<size_t>(what)], 0) << kReachedNames[static_cast<size_t>(what)];
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Equality, testing::Values("moe-odd", "next", "moe-fp8"), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace weir::equality
