#include <gtest/gtest.h>

#include "hub/digest.h"
#include "hub/listing.h"
#include "hub/url.h"

namespace weir {
namespace {

TEST(Url, PartsAreFound) {
  const Url url = *parse_url("HTTPS://Example.com:8443/a/b?c=d#e");
  EXPECT_TRUE(url.tls);
  EXPECT_EQ(url.host, "example.com");
  EXPECT_EQ(url.port, "8443");
  EXPECT_EQ(url.target, "/a/b?c=d");
  EXPECT_EQ(url.text(), "https://example.com:8443/a/b?c=d");
  EXPECT_EQ(parse_url("http://h")->text(), "http://h/");
  EXPECT_EQ(parse_url("http://[::1]:81/")->host, "::1");
  EXPECT_EQ(parse_url("http://[::1]:81/")->authority(), "[::1]:81");
  EXPECT_EQ(parse_url("https://h:443/")->authority(), "h");
}

TEST(Url, WhatIsNotFetchedIsRefused) {
  for (const char* text :
       {"", "h", "ftp://h/", "file:///etc/passwd", "http://", "http:///x", "http://u:p@h/", "http://h:/",
        "http://h:99999/", "http://h:x/", "http://h/a b", "http://h/\r\nX: y", "http://[::1/", "http://[::1]x/"}) {
    EXPECT_FALSE(parse_url(text).ok()) << text;
  }
}

TEST(Url, RedirectsMayMoveButNotLoseEncryption) {
  const Url base = *parse_url("https://a.example/x");
  EXPECT_EQ(resolve_location(base, "/y?z")->text(), "https://a.example/y?z");
  EXPECT_EQ(resolve_location(base, "https://b.example/y")->text(), "https://b.example/y");
  EXPECT_FALSE(resolve_location(base, "http://a.example/y").ok());
  EXPECT_FALSE(resolve_location(base, "//b.example/y").ok());
  EXPECT_FALSE(resolve_location(base, "").ok());
  EXPECT_FALSE(resolve_location(base, "/y\r\nX: z").ok());
  EXPECT_FALSE(base.same_origin(*parse_url("http://a.example/x")));
  EXPECT_FALSE(base.same_origin(*parse_url("https://a.example:444/x")));
}

TEST(Url, PathsAreEncoded) {
  EXPECT_EQ(encode_path("a/b c%.x"), "a/b%20c%25.x");
  EXPECT_EQ(encode_path("refs/pr/1", true), "refs%2Fpr%2F1");
}

TEST(Digest, KnownContentsHaveTheirKnownNames) {
  Digest sha(DigestKind::kSha256, 3);
  sha.update(std::string_view("abc"));
  EXPECT_EQ(sha.finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Digest empty(DigestKind::kGitBlob, 0);
  EXPECT_EQ(empty.finish(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  Digest hello(DigestKind::kGitBlob, 6);
  hello.update(std::string_view("hel"));
  hello.update(std::string_view("lo\n"));
  EXPECT_EQ(hello.finish(), "ce013625030ba8dba906f756967f9e9ca394464a");
}

TEST(Listing, TheNextPageIsFoundAmongLinks) {
  EXPECT_EQ(next_link(R"(<https://h/a?b>; rel="next")"), "https://h/a?b");
  EXPECT_EQ(next_link(R"(<https://h/first>; rel="first", <https://h/n>; rel="next")"), "https://h/n");
  EXPECT_EQ(next_link(R"(<https://h/last>; rel="last")"), "");
  EXPECT_EQ(next_link("<unclosed; rel=next"), "");
  EXPECT_EQ(next_link(""), "");
}

TEST(Listing, ARevisionWithoutACommitIsRefused) {
  EXPECT_FALSE(parse_commit("{}").ok());
  EXPECT_FALSE(parse_commit("[]").ok());
  EXPECT_FALSE(parse_commit(R"({"sha":"../../x"})").ok());
  EXPECT_FALSE(parse_commit("not json").ok());
}

}  // namespace
}  // namespace weir
