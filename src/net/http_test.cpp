#include "net/http.h"

#include <gtest/gtest.h>

namespace weir::net {
namespace {

HttpRequest get() {
  HttpRequest request;
  request.method = "GET";
  return request;
}

TEST(HttpExchange, AWholeAnswerHasALengthAndOneBody) {
  HttpExchange exchange(get(), 1000);
  exchange.respond({200, "text/plain", {{"x-a", "b"}}, "body", false});
  const std::string out = exchange.take_output();
  EXPECT_TRUE(out.starts_with("HTTP/1.1 200 OK\r\nDate: ")) << out;
  EXPECT_NE(out.find("GMT\r\nContent-Type: text/plain\r\nx-a: b\r\nContent-Length: 4\r\n"), std::string::npos) << out;
  EXPECT_TRUE(out.ends_with("\r\n\r\nbody"));
  EXPECT_TRUE(exchange.finished());
  EXPECT_FALSE(exchange.close_after());
}

TEST(HttpExchange, HeadHasTheLengthAndNoBody) {
  HttpRequest request = get();
  request.method = "HEAD";
  HttpExchange exchange(request, 1000);
  exchange.respond({200, "text/plain", {}, "body", false});
  const std::string out = exchange.take_output();
  EXPECT_NE(out.find("Content-Length: 4\r\n"), std::string::npos);
  EXPECT_TRUE(out.ends_with("\r\n\r\n"));
}

TEST(HttpExchange, AStreamIsChunkedAndAnEmptyWriteDoesNotEndIt) {
  HttpExchange exchange(get(), 1000);
  exchange.start_stream({});
  exchange.take_output();
  exchange.sent();
  EXPECT_TRUE(exchange.write("0123456789abcdef!"));
  EXPECT_TRUE(exchange.write(""));
  exchange.finish();
  EXPECT_EQ(exchange.take_output(), "11\r\n0123456789abcdef!\r\n0\r\n\r\n");
}

TEST(HttpExchange, AnOldClientsStreamEndsWithTheConnection) {
  HttpRequest request = get();
  request.http_1_0 = true;
  HttpExchange exchange(request, 1000);
  exchange.start_stream({});
  exchange.take_output();
  exchange.sent();
  EXPECT_TRUE(exchange.write("ab"));
  exchange.finish();
  EXPECT_EQ(exchange.take_output(), "ab");
  EXPECT_TRUE(exchange.close_after());
}

TEST(HttpExchange, AReaderThatLeavesMoreThanTheBoundIsCutOffOnce) {
  HttpExchange exchange(get(), 300);
  int gone = 0;
  exchange.on_disconnect([&gone] { ++gone; });
  exchange.start_stream({});
  exchange.take_output();  // in flight until sent() says otherwise
  EXPECT_TRUE(exchange.write(std::string(100, 'x')));
  EXPECT_FALSE(exchange.write(std::string(200, 'x')));
  EXPECT_FALSE(exchange.write("x"));
  EXPECT_TRUE(exchange.cut_off());
  EXPECT_FALSE(exchange.alive());
  EXPECT_EQ(gone, 1);
}

TEST(HttpExchange, BytesThatWereSentNoLongerCount) {
  HttpExchange exchange(get(), 300);
  exchange.start_stream({});
  for (int i = 0; i < 50; ++i) {
    exchange.take_output();
    exchange.sent();
    ASSERT_TRUE(exchange.write(std::string(200, 'x')));
  }
}

TEST(HttpExchange, AClientThatLeavesAfterTheLastByteIsNoDisconnect) {
  HttpExchange exchange(get(), 300);
  exchange.on_disconnect([] { FAIL(); });
  exchange.respond({});
  exchange.disconnected();
}

TEST(Http, PercentEscapesAreDecodedAndBrokenOnesRefused) {
  EXPECT_EQ(percent_decode("/a%2Fb%c3%A9").value(), "/a/b\xC3\xA9");
  for (const char* broken : {"%", "%1", "%g0", "%0g", "a%00b"}) {
    EXPECT_FALSE(percent_decode(broken).ok()) << broken;
  }
}

TEST(Http, TargetsSplitIntoPathAndQuery) {
  EXPECT_EQ(split_target("/a?b=c?d").value().path, "/a");
  EXPECT_EQ(split_target("/a?b=c?d").value().query, "b=c?d");
  EXPECT_EQ(split_target("http://host:1/a").value().path, "/a");
  EXPECT_EQ(split_target("HTTP://host").value().path, "/");
  EXPECT_FALSE(split_target("a").ok());
  EXPECT_FALSE(split_target("").ok());
  EXPECT_EQ(query_value("a=1&b=%32&c", "b"), "2");
  EXPECT_EQ(query_value("a=1&b=2&c", "c"), "");
  EXPECT_EQ(query_value("a=1", "b"), std::nullopt);
}

}  // namespace
}  // namespace weir::net
