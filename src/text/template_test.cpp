// Limits, errors and hostile templates. What the language computes is compared with jinja2 in template_goldens_test.
#include "text/template.h"

#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

namespace weir {
namespace {

using Json = nlohmann::ordered_json;

Result<std::string> render(const std::string& source, const Json& context = Json::object(), TemplateLimits limits = {},
                           const TemplateRenderOptions& options = {}) {
  auto parsed = ChatTemplate::parse(source, limits);
  if (!parsed.ok()) {
    return parsed.error();
  }
  return (*parsed)->render(context, options);
}

void expect_error(const Result<std::string>& result, ErrorCode code, const std::string& part) {
  ASSERT_FALSE(result.ok()) << result.value();
  EXPECT_EQ(result.error().code, code) << result.error().text();
  EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
}

TEST(Template, ASyntaxErrorNamesTheLine) {
  expect_error(render("one\ntwo {{ 1 + }}"), ErrorCode::kCorrupt, "line 2");
  expect_error(render("{% if x %}\n\n"), ErrorCode::kCorrupt, "endif");
  expect_error(render("\n\n{{ x|frobnicate }}"), ErrorCode::kCorrupt, "line 3: no filter named 'frobnicate'");
}

TEST(Template, WhatReachesOutsideTheTemplateIsRefusedByName) {
  for (const char* source : {"{% include 'a' %}", "{% import 'a' as b %}", "{% extends 'a' %}",
                             "{% from 'a' import b %}", "{% block a %}{% endblock %}"}) {
    expect_error(render(source), ErrorCode::kUnsupported, "not supported");
  }
}

TEST(Template, AFailedExpressionIsTheCallersFaultAndNamesTheLine) {
  expect_error(render("a\n{{ messages[0].content + 'x' }}", {{"messages", Json::array({Json::object()})}}),
               ErrorCode::kInvalidArgument, "chat template line 2: 'dict object' has no attribute 'content'");
  expect_error(render("{% set x = 1 %}\n\n{{ x() }}"), ErrorCode::kInvalidArgument, "line 3: 'int' object");
}

TEST(Template, RaiseExceptionPassesItsTextOnBare) {
  const auto result = render("\n{{ raise_exception('No ' ~ x) }}", {{"x", "user"}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(result.error().message, "No user");
}

TEST(Template, NothingButDataCanBeReached) {
  for (const char* source :
       {"{{ ''.__class__.__mro__[1] }}", "{{ x.__init__.__globals__ }}", "{{ x.append(1) }}", "{{ d.update({}) }}",
        "{{ self._TemplateReference__context }}", "{{ cycler.__init__ }}x{{ cycler.__init__.x }}",
        "{{ lipsum.__globals__['os'] }}", "{{ ''.format.__self__.x.y }}", "{{ '{0.__class__.x.y}'.format(x) }}",
        "{{ (x|attr('__class__')).x }}", "{{ get_flashed_messages.x }}", "{{ request.application }}"}) {
    const auto result = render(source, {{"x", Json::array({1})}, {"d", Json::object()}});
    EXPECT_FALSE(result.ok()) << source << " gave " << *result;
  }
}

struct Limit {
  const char* name;
  const char* source;
  void (*lower)(TemplateLimits&);
};

TEST(Template, EveryLimitIsAnErrorThatNamesIt) {
  const Limit kLimits[] = {
      {"source_bytes_max", "0123456789", [](TemplateLimits& l) { l.source_bytes_max = 9; }},
      {"parse_depth_max", "{{ ((((((((1)))))))) }}", [](TemplateLimits& l) { l.parse_depth_max = 5; }},
      {"parse_depth_max", "{{ 1+1+1+1+1+1+1+1+1 }}", [](TemplateLimits& l) { l.parse_depth_max = 5; }},
      {"parse_depth_max", "{{ x.a.a.a.a.a.a.a.a }}", [](TemplateLimits& l) { l.parse_depth_max = 5; }},
      {"parse_depth_max", "{{ x|e|e|e|e|e|e|e|e }}", [](TemplateLimits& l) { l.parse_depth_max = 5; }},
      {"eval_depth_max", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", [](TemplateLimits&) {}},
      {"value_depth_max", "{% set n = namespace(x=[]) %}{% for i in range(999) %}{% set n.x = [n.x] %}{% endfor %}",
       [](TemplateLimits&) {}},
      {"steps_max", "{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}",
       [](TemplateLimits& l) { l.steps_max = 10'000; }},
      {"output_bytes_max", "{% for i in range(99) %}0123456789{% endfor %}",
       [](TemplateLimits& l) { l.output_bytes_max = 900; }},
      {"work_bytes", "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
       [](TemplateLimits&) {}},
      {"work_bytes", "{{ 'x' * 10**12 }}", [](TemplateLimits&) {}},
      {"work_bytes", "{{ [1, 2] * 10**30 }}", [](TemplateLimits&) {}},
      {"work_bytes", "{{ 'x'|indent(10**12, true) }}", [](TemplateLimits&) {}},
      {"work_bytes", "{{ 'x'.ljust(10**12) }}", [](TemplateLimits&) {}},
      {"work_bytes", "{{ ('a' * 10**5).replace('a', 'b' * 10**5) }}", [](TemplateLimits&) {}},
      {"work_bytes", "{{ (['a'] * 10**5)|join('b' * 10**5) }}", [](TemplateLimits&) {}},
      {"items", "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}",
       [](TemplateLimits&) {}},
      {"range_items_max", "{{ range(10**9)|length }}", [](TemplateLimits&) {}},
      {"range_items_max", "{{ range(0 - 10**18, 10**18) }}", [](TemplateLimits&) {}},
      {"loop_depth_max", "{% for a in [[1, [2]]] recursive %}{{ loop([a]) if a is iterable }}{% endfor %}",
       [](TemplateLimits&) {}},
  };
  // Time stands still, so that a slow machine meets the limit that is meant.
  const ManualClock clock;
  TemplateRenderOptions options;
  options.clock = &clock;
  for (const Limit& limit : kLimits) {
    SCOPED_TRACE(limit.source);
    TemplateLimits limits;
    limits.work_bytes_floor = int64_t{16} << 20;
    limit.lower(limits);
    expect_error(render(limit.source, Json::object(), limits, options), ErrorCode::kTooLarge, limit.name);
  }
}

// Each reading of the clock lets a millisecond pass.
class SlowClock final : public Clock {
 public:
  int64_t now_us() const override { return now_us_ += 1000; }

 private:
  mutable int64_t now_us_ = 0;
};

TEST(Template, TheTimeOfARenderIsLimited) {
  SlowClock clock;
  TemplateRenderOptions options;
  options.clock = &clock;
  TemplateLimits limits;
  limits.wall_us_max = 20'000;
  const std::string source = "{% for i in range(999) %}{% for j in range(999) %}{% endfor %}{% endfor %}";
  expect_error(render(source, Json::object(), limits, options), ErrorCode::kTooLarge, "wall_us_max");
  EXPECT_TRUE(render("{{ 1 }}", Json::object(), limits, options).ok());
}

TEST(Template, ARequestNestedTooDeepIsRefused) {
  Json deep = 1;
  for (int i = 0; i < 300; ++i) {
    deep = Json::array({deep});
  }
  expect_error(render("{{ x }}", {{"x", deep}}), ErrorCode::kTooLarge, "value_depth_max");
}

TEST(Template, DeepRecursionStaysWithinAThreadsStack) {
  // The deepest that the limits let through: every level of a macro goes through many statements and expressions.
  std::string body = "{{ m(n + 1) }}";
  for (int i = 0; i < 40; ++i) {
    body = "{% if true %}{% with a = (n) %}" + body + "{% endwith %}{% endif %}";
  }
  const ManualClock clock;
  TemplateRenderOptions options;
  options.clock = &clock;
  const auto result = render("{% macro m(n) %}" + body + "{% endmacro %}{{ m(0) }}", Json::object(), {}, options);
  expect_error(result, ErrorCode::kTooLarge, "eval_depth_max");
}

TEST(Template, AMacroOutlivesTheLoopThatMadeIt) {
  const std::string source =
      "{% set ns = namespace() %}{% for x in [1, 2] %}{% set y = x * 10 %}{% macro m() %}{{ y }}{% endmacro %}"
      "{% set ns.m = m %}{% set ns.loop = loop %}{% endfor %}{{ ns.m() }} {{ ns.loop.index }} {{ ns.loop.last }}";
  const auto result = render(source);
  ASSERT_TRUE(result.ok()) << result.error().text();
  EXPECT_EQ(*result, "20 2 True");
}

TEST(Template, ANamespaceMayHoldItself) {
  const auto result = render("{% set n = namespace() %}{% set n.n = [n] %}{{ n.n[0].n is defined }}{{ n }}");
  expect_error(result, ErrorCode::kInvalidArgument, "holds itself");
}

TEST(Template, IntegersAreExactUpTo128Bits) {
  EXPECT_EQ(*render("{{ x }} {{ x + 1 }} {{ 2 ** 126 }}", {{"x", 18446744073709551615U}}),
            "18446744073709551615 18446744073709551616 85070591730234615865843651857942052864");
  expect_error(render("{{ 2 ** 127 }}"), ErrorCode::kInvalidArgument, "overflow");
  expect_error(render("{{ -(-2 ** 126) * 2 - 1 }}{{ (-(2 ** 126) - 2 ** 126) // -1 }}"), ErrorCode::kInvalidArgument,
               "overflow");
}

TEST(Template, BytesThatAreNotUtf8AreReplacedInDataAndRefusedInTheTemplate) {
  EXPECT_EQ(*render("{{ x }}{{ x|length }}", {{"x", "a\xFF\xC3"}}),
            "a\xEF\xBF\xBD\xEF\xBF\xBD"
            "3");
  expect_error(render("\xFF"), ErrorCode::kCorrupt, "UTF-8");
}

TEST(Template, TheDateIsTheOnePassedIn) {
  TemplateRenderOptions options;
  options.local_time_s = 951'782'400;  // 2000-02-29 00:00:00
  EXPECT_EQ(*render("{{ strftime_now('%d %b %Y %H:%M') }}", Json::object(), {}, options), "29 Feb 2000 00:00");
  expect_error(render("{{ strftime_now('%099999d') }}"), ErrorCode::kInvalidArgument, "strftime_now");
}

TEST(Template, ThreadsRenderOneTemplateAtOnce) {
  auto parsed = ChatTemplate::parse(
      "{% macro m(x) %}<{{ x }}>{% endmacro %}{% for i in range(200) %}{{ m(i ~ who) }}{% endfor %}");
  ASSERT_TRUE(parsed.ok());
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&parsed, &wrong, t] {
      const Json context = {{"who", std::to_string(t)}};
      const auto first = (*parsed)->render(context);
      for (int i = 0; i < 20; ++i) {
        const auto again = (*parsed)->render(context);
        wrong += first.ok() && again.ok() && *first == *again ? 0 : 1;
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace weir
