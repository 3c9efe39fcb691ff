#include "server/routes.h"

#include <gtest/gtest.h>

#include "server/auth.h"
#include "server/metrics.h"

namespace weir {
namespace {

TEST(Routes, MethodsAndPathsAreMatched) {
  EXPECT_EQ(match_route("POST", "/v1/chat/completions").route->id, RouteId::kChat);
  EXPECT_EQ(match_route("HEAD", "/health").route->id, RouteId::kHealth);
  EXPECT_EQ(match_route("GET", "/v1/models/org/name").route->id, RouteId::kModel);
  EXPECT_EQ(match_route("GET", "/v1/models").route->id, RouteId::kModels);
  EXPECT_EQ(match_route("GET", "/v1/chat/completions").allowed, "POST, OPTIONS");
  EXPECT_TRUE(match_route("GET", "/v1/models/").allowed.empty());
  EXPECT_TRUE(match_route("GET", "/nothing").allowed.empty());
}

TEST(Routes, OnlyProbesAreOpen) {
  for (const Route& route : route_table()) {
    const bool probe =
        route.path == "/health" || route.path == "/ready" || route.path == "/live" || route.path == "/ping";
    EXPECT_EQ(route.open, probe) << route.path;
    EXPECT_FALSE(route.open && route.work);
  }
}

TEST(Auth, EqualMeansEqual) {
  EXPECT_TRUE(constant_time_equal("secret", "secret"));
  for (const char* wrong : {"", "secre", "secrets", "Secret", "secretsecret"}) {
    EXPECT_FALSE(constant_time_equal(wrong, "secret")) << wrong;
  }
  EXPECT_FALSE(constant_time_equal("x", ""));
  EXPECT_FALSE(constant_time_equal(std::string_view("\0", 1), ""));
}

TEST(Histogram, ObservationsFallIntoTheFirstBucketThatHoldsThem) {
  Histogram histogram({1, 2, 5});
  for (double value : {0.5, 1.0, 1.5, 5.0, 6.0}) {
    histogram.observe(value);
  }
  EXPECT_EQ(histogram.cumulative(), (std::vector<int64_t>{2, 3, 4, 5}));
  EXPECT_EQ(histogram.count(), 5);
  EXPECT_DOUBLE_EQ(histogram.sum(), 14.0);
}

TEST(Metrics, LabelsAreEscaped) {
  EXPECT_EQ(escape_label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
}

}  // namespace
}  // namespace weir
