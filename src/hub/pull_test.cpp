// `pull` against a hub and a CDN on two loopback ports.
#include "hub/pull.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "hub/digest.h"
#include "hub/listing.h"
#include "hub/test_server.h"

namespace weir {
namespace {

namespace fs = std::filesystem;

const std::string kCommit(40, 'c');

std::string digest_of(DigestKind kind, const std::string& content) {
  Digest digest(kind, static_cast<int64_t>(content.size()));
  digest.update(content);
  return digest.finish();
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

struct Hosted {
  std::string content;
  bool large = false;
};

// A hub as hub.md describes it: a paged listing, small files from itself, large ones by redirect to the CDN.
class Hub : public testing::Test {
 protected:
  Hub() {
    std::string name = (fs::temp_directory_path() / "weir-hub-XXXXXX").string();
    WEIR_CHECK(::mkdtemp(name.data()) != nullptr);
    folder = name;
    std::string weights;
    for (int i = 0; i < 600'000; ++i) weights.push_back(static_cast<char>(i * 31 % 251));
    files["config.json"] = {"{\"model_type\": \"x\"}", false};
    files["tokenizer.json"] = {std::string(3000, 't'), true};
    files["model.safetensors"] = {weights, true};
    files["pytorch_model.bin"] = {"pickle", true};
    files["modeling.py"] = {"import os", false};
    files["onnx/model.safetensors"] = {"other", true};
    settings.endpoint = hub.url();
    settings.cache = folder + "/hub";
    settings.idle_ms_max = 5000;
    settings.pause = [this](int64_t ms) { pauses.push_back(ms); };
  }
  ~Hub() override { fs::remove_all(folder); }

  std::string entry(const std::string& path) const {
    const Hosted& file = files.at(path);
    if (!file.large) {
      return fmt::format(R"({{"type":"file","path":"{}","size":{},"oid":"{}"}})", path, file.content.size(),
                         digest_of(DigestKind::kGitBlob, file.content));
    }
    return fmt::format(
        R"({{"type":"file","path":"{}","size":{},"oid":"{}","lfs":{{"oid":"{}","size":{},"pointerSize":9}}}})", path,
        file.content.size(), std::string(40, '0'), digest_of(DigestKind::kSha256, file.content), file.content.size());
  }

  TestReply listing(const TestRequest& request) const {
    // Two entries a page.
    std::vector<std::string> all = extra_entries;
    for (const auto& [path, file] : files) all.push_back(entry(path));
    const size_t at = request.target.find("cursor=");
    const size_t first = at == std::string::npos ? 0 : std::stoul(request.target.substr(at + 7));
    std::string body = "[";
    for (size_t i = first; i < std::min(first + 2, all.size()); ++i) body += (i == first ? "" : ",") + all[i];
    TestReply reply{200, {}, body + "]"};
    if (first + 2 < all.size()) {
      reply.headers.push_back(
          {"Link", fmt::format("<{}/api/models/org/name/tree/{}?recursive=true&cursor={}>; rel=\"next\"",
                               next_host.empty() ? hub.url() : next_host, kCommit, first + 2)});
    }
    return reply;
  }

  TestReply answer_hub(const TestRequest& request) {
    if (hub_fault) {
      if (std::optional<TestReply> fault = hub_fault(request)) return *fault;
    }
    if (request.target == "/api/models/org/name/revision/main") {
      return {200, {}, fmt::format(R"({{"sha":"{}","siblings":[],"gated":false}})", kCommit)};
    }
    if (request.target.starts_with("/api/models/org/name/tree/" + kCommit)) return listing(request);
    const std::string prefix = "/org/name/resolve/" + kCommit + "/";
    if (!request.target.starts_with(prefix)) return {404, {}, "{}"};
    const std::string path = request.target.substr(prefix.size());
    const auto file = files.find(path);
    if (file == files.end()) return {404, {}, "{}"};
    if (!file->second.large) return {200, {{"X-Repo-Commit", kCommit}}, file->second.content};
    return {302,
            {{"Location", cdn.url() + "/signed/" + path + "?expires=1"},
             {"X-Repo-Commit", kCommit},
             {"X-Linked-Etag", "\"" + digest_of(DigestKind::kSha256, file->second.content) + "\""}},
            "moved"};
  }

  TestReply answer_cdn(const TestRequest& request) {
    if (cdn_fault) {
      if (std::optional<TestReply> fault = cdn_fault(request)) return *fault;
    }
    const std::string path = request.target.substr(8, request.target.find('?') - 8);
    return ranged(request, files.at(path).content);
  }

  static TestReply ranged(const TestRequest& request, const std::string& content) {
    const auto range = request.headers.find("range");
    if (range == request.headers.end()) return {200, {}, content};
    const size_t first = std::stoul(range->second.substr(6));
    return {206,
            {{"Content-Range", fmt::format("bytes {}-{}/{}", first, content.size() - 1, content.size())}},
            content.substr(first)};
  }

  Result<PullResult> pull_it() { return pull("org/name", "main", settings); }
  std::string error_text() {
    const Result<PullResult> result = pull_it();
    return result.ok() ? "fetched" : result.error().text();
  }
  fs::path root() const { return folder + "/hub/models--org--name"; }
  fs::path blob(const std::string& name) const {
    const Hosted& file = files.at(name);
    return root() / "blobs" / digest_of(file.large ? DigestKind::kSha256 : DigestKind::kGitBlob, file.content);
  }

  std::string folder;
  std::map<std::string, Hosted> files;
  std::vector<std::string> extra_entries;
  std::string next_host;
  std::function<std::optional<TestReply>(const TestRequest&)> hub_fault;
  std::function<std::optional<TestReply>(const TestRequest&)> cdn_fault;
  std::vector<int64_t> pauses;
  HubSettings settings;
  TestServer cdn{[this](const TestRequest& request) { return answer_cdn(request); }};
  TestServer hub{[this](const TestRequest& request) { return answer_hub(request); }};
};

TEST_F(Hub, FetchesWhatATextModelNeedsIntoTheSharedLayout) {
  const Result<PullResult> result = pull_it();
  ASSERT_TRUE(result.ok()) << result.error().text();
  EXPECT_EQ(result->files, 3);
  EXPECT_EQ(result->commit, kCommit);
  EXPECT_EQ(fs::path(result->directory), root() / "snapshots" / kCommit);
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    const fs::path link = fs::path(result->directory) / name;
    EXPECT_EQ(read_file(link), files[name].content) << name;
    ASSERT_TRUE(fs::is_symlink(link));
    EXPECT_EQ(fs::read_symlink(link), fs::path("../../blobs") / blob(name).filename());
  }
  EXPECT_EQ(read_file(root() / "refs" / "main"), kCommit);
  EXPECT_FALSE(fs::exists(fs::path(result->directory) / "modeling.py")) << "never code";
  EXPECT_FALSE(fs::exists(fs::path(result->directory) / "pytorch_model.bin")) << "never pickles";
  EXPECT_EQ(result->bytes_fetched, result->bytes_total);
}

TEST_F(Hub, ASecondPullFetchesNothing) {
  ASSERT_TRUE(pull_it().ok());
  const size_t before = cdn.requests().size();
  const Result<PullResult> again = pull_it();
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->bytes_fetched, 0);
  EXPECT_EQ(cdn.requests().size(), before);
}

TEST_F(Hub, TheTokenGoesToTheHubAndNeverToTheCdn) {
  settings.token = "hf_secret";
  ASSERT_TRUE(pull_it().ok());
  for (const TestRequest& request : hub.requests()) {
    EXPECT_EQ(request.headers.at("authorization"), "Bearer hf_secret") << request.target;
  }
  ASSERT_FALSE(cdn.requests().empty());
  for (const TestRequest& request : cdn.requests()) EXPECT_FALSE(request.headers.contains("authorization"));
}

TEST_F(Hub, ACutTransferResumesBehindItsLastByte) {
  int cuts = 0;
  cdn_fault = [&](const TestRequest& request) -> std::optional<TestReply> {
    if (request.target.find("model.safetensors") == std::string::npos || cuts == 3) return std::nullopt;
    TestReply reply = ranged(request, files["model.safetensors"].content);
    reply.cut_after = 150'000;
    ++cuts;
    return reply;
  };
  const Result<PullResult> result = pull_it();
  ASSERT_TRUE(result.ok()) << result.error().text();
  EXPECT_EQ(read_file(blob("model.safetensors")), files["model.safetensors"].content);
  EXPECT_EQ(result->bytes_fetched, result->bytes_total) << "no byte twice";
  std::vector<std::string> ranges;
  for (const TestRequest& request : cdn.requests()) {
    if (request.headers.contains("range")) ranges.push_back(request.headers.at("range"));
  }
  EXPECT_EQ(ranges, (std::vector<std::string>{"bytes=150000-", "bytes=300000-", "bytes=450000-"}));
}

TEST_F(Hub, AStoppedPullIsResumedByTheNext) {
  int64_t calls = 0;
  const Result<PullResult> stopped = pull("org/name", "main", settings, [&](const PullProgress& progress) {
    return !(progress.file == "model.safetensors" && progress.bytes_done > 200'000) || ++calls < 1;
  });
  ASSERT_FALSE(stopped.ok());
  EXPECT_NE(stopped.error().text().find("resumes"), std::string::npos) << stopped.error().text();
  EXPECT_TRUE(fs::exists(blob("model.safetensors").string() + ".incomplete"));
  EXPECT_FALSE(fs::exists(root() / "refs" / "main"));
  const Result<PullResult> result = pull_it();
  ASSERT_TRUE(result.ok()) << result.error().text();
  EXPECT_LT(result->bytes_fetched, 600'000);
  EXPECT_EQ(read_file(blob("model.safetensors")), files["model.safetensors"].content);
  EXPECT_FALSE(fs::exists(blob("model.safetensors").string() + ".incomplete"));
}

TEST_F(Hub, AnExpiredAddressIsAskedForAgain) {
  int refused = 0;
  cdn_fault = [&](const TestRequest&) -> std::optional<TestReply> {
    return refused++ < 2 ? std::optional<TestReply>({403, {}, "expired"}) : std::nullopt;
  };
  EXPECT_EQ(error_text(), "fetched");
  EXPECT_EQ(pauses.size(), 2u);
}

TEST_F(Hub, ADamagedTransferIsRemovedAndNamed) {
  cdn_fault = [&](const TestRequest& request) -> std::optional<TestReply> {
    if (request.target.find("model.safetensors") == std::string::npos) return std::nullopt;
    std::string content = files["model.safetensors"].content;
    content[300'000] = static_cast<char>(content[300'000] ^ 1);
    return TestReply{200, {}, content};
  };
  const std::string error = error_text();
  EXPECT_NE(error.find("model.safetensors: digest"), std::string::npos) << error;
  EXPECT_FALSE(fs::exists(blob("model.safetensors")));
  EXPECT_FALSE(fs::exists(blob("model.safetensors").string() + ".incomplete"));
  EXPECT_FALSE(fs::exists(root() / "refs" / "main"));
}

TEST_F(Hub, ADamagedRestOfAnEarlierRunIsFetchedAnew) {
  fs::create_directories(root() / "blobs");
  std::ofstream(blob("model.safetensors").string() + ".incomplete") << std::string(1000, 'x');
  EXPECT_EQ(error_text(), "fetched");
  EXPECT_EQ(read_file(blob("model.safetensors")), files["model.safetensors"].content);
}

TEST_F(Hub, AServerThatIgnoresRangesSendsTheWholeAgain) {
  fs::create_directories(root() / "blobs");
  std::ofstream(blob("model.safetensors").string() + ".incomplete") << files["model.safetensors"].content.substr(0, 99);
  cdn_fault = [&](const TestRequest& request) -> std::optional<TestReply> {
    if (request.target.find("model.safetensors") == std::string::npos) return std::nullopt;
    return TestReply{200, {}, files["model.safetensors"].content};
  };
  EXPECT_EQ(error_text(), "fetched");
  EXPECT_EQ(read_file(blob("model.safetensors")), files["model.safetensors"].content);
}

TEST_F(Hub, AWrongContentRangeIsNotAppended) {
  fs::create_directories(root() / "blobs");
  std::ofstream(blob("model.safetensors").string() + ".incomplete") << files["model.safetensors"].content.substr(0, 99);
  cdn_fault = [&](const TestRequest& request) -> std::optional<TestReply> {
    if (!request.headers.contains("range")) return std::nullopt;
    return TestReply{206, {{"Content-Range", "bytes 100-599999/600000"}}, std::string(599'900, 'y')};
  };
  EXPECT_NE(error_text().find("asked for bytes from 99"), std::string::npos);
}

TEST_F(Hub, MoreBytesThanListedAreAnError) {
  cdn_fault = [&](const TestRequest& request) -> std::optional<TestReply> {
    if (request.target.find("tokenizer.json") == std::string::npos) return std::nullopt;
    return TestReply{200, {}, std::string(4000, 't')};
  };
  EXPECT_NE(error_text().find("more bytes than the 3000"), std::string::npos);
}

TEST_F(Hub, AnotherEtagThanListedIsAnError) {
  hub_fault = [&](const TestRequest& request) -> std::optional<TestReply> {
    if (request.target.find("resolve") == std::string::npos || !request.target.ends_with(".safetensors"))
      return std::nullopt;
    return TestReply{302, {{"Location", cdn.url() + "/signed/model.safetensors?"}, {"X-Linked-Etag", "\"abc\""}}, ""};
  };
  EXPECT_NE(error_text().find("other content than its listing"), std::string::npos);
}

TEST_F(Hub, TooManyRequestsWaitsAsLongAsTheServerAsks) {
  int refused = 0;
  hub_fault = [&](const TestRequest&) -> std::optional<TestReply> {
    return refused++ < 2 ? std::optional<TestReply>({429, {{"Retry-After", "7"}}, ""}) : std::nullopt;
  };
  EXPECT_EQ(error_text(), "fetched");
  EXPECT_EQ(pauses, (std::vector<int64_t>{7000, 7000}));
}

TEST_F(Hub, ServerErrorsAreRetriedWithDoublingPausesAndThenGivenUp) {
  cdn_fault = [](const TestRequest&) { return std::optional<TestReply>({503, {}, ""}); };
  EXPECT_NE(error_text().find("answers 503"), std::string::npos);
  EXPECT_EQ(pauses, (std::vector<int64_t>{1000, 2000, 4000, 8000}));
}

TEST_F(Hub, RefusalsSayWhatToDo) {
  const struct {
    int status;
    ErrorCode code;
    const char* remedy;
  } cases[] = {{401, ErrorCode::kUnauthorized, "set HF_TOKEN"},
               {403, ErrorCode::kUnauthorized, "accept the licence at"},
               {404, ErrorCode::kNotFound, "spelling"}};
  for (const auto& refusal : cases) {
    hub_fault = [&](const TestRequest&) { return std::optional<TestReply>({refusal.status, {}, "{}"}); };
    const Result<PullResult> result = pull_it();
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, refusal.code);
    EXPECT_NE(result.error().text().find(refusal.remedy), std::string::npos) << result.error().text();
  }
  EXPECT_TRUE(pauses.empty()) << "a refusal is not retried";
}

TEST_F(Hub, AListingThatLeavesItsFolderIsRefusedBeforeAnythingIsWritten) {
  for (const char* path : {"../evil.safetensors", "/etc/evil.safetensors", "a/../../evil.safetensors",
                           "a\\\\evil.safetensors", "evil\\u0000.safetensors", "./evil.safetensors", ""}) {
    extra_entries = {fmt::format(R"({{"type":"file","path":"{}","size":1,"oid":"{}"}})", path, std::string(40, 'a'))};
    EXPECT_NE(error_text().find("not a path inside a folder"), std::string::npos) << path;
  }
  EXPECT_FALSE(fs::exists(root() / "snapshots" / kCommit));
}

TEST_F(Hub, AListingWithoutDigestsOrSizesIsRefused) {
  for (const char* entry :
       {R"({"type":"file","path":"a.safetensors","size":1})",
        R"({"type":"file","path":"a.safetensors","size":1,"oid":"../../../x"})",
        R"({"type":"file","path":"a.safetensors","size":-1,"oid":"0000000000000000000000000000000000000000"})",
        R"({"type":"file","path":"a.safetensors","oid":"0000000000000000000000000000000000000000"})"}) {
    extra_entries = {entry};
    EXPECT_NE(error_text().find("without a"), std::string::npos) << entry;
  }
}

TEST_F(Hub, AListingThatContinuesElsewhereIsRefused) {
  next_host = cdn.url();
  EXPECT_NE(error_text().find("continues on"), std::string::npos);
  EXPECT_TRUE(cdn.requests().empty());
}

TEST_F(Hub, ARepositoryWithoutSafetensorsIsNamed) {
  files.erase("model.safetensors");
  EXPECT_NE(error_text().find("no safetensors"), std::string::npos);
}

TEST_F(Hub, EndlessRedirectsEnd) {
  hub_fault = [&](const TestRequest& request) -> std::optional<TestReply> {
    return TestReply{302, {{"Location", request.target}}, ""};
  };
  EXPECT_NE(error_text().find("redirects"), std::string::npos);
}

TEST_F(Hub, BadNamesNeverReachTheNetwork) {
  for (const char* name : {"", "a/b/c", "../x", "org/..", "org/na me", "org/name?x", "org//name", "/org", "org/\nx"}) {
    EXPECT_EQ(pull(name, "main", settings).error().code, ErrorCode::kInvalidArgument) << name;
  }
  for (const char* revision : {"", "../main", "a b", "x/../y", "main?"}) {
    EXPECT_EQ(pull("org/name", revision, settings).error().code, ErrorCode::kInvalidArgument) << revision;
  }
  EXPECT_TRUE(hub.requests().empty());
}

TEST_F(Hub, NobodyListeningIsAClearError) {
  int port = 0;
  {
    const TestServer gone([](const TestRequest&) { return TestReply{}; });
    port = gone.port();
  }
  settings.endpoint = fmt::format("http://127.0.0.1:{}", port);
  const Result<PullResult> result = pull_it();
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(pauses.size(), 4u);
}

TEST_F(Hub, ProgressRunsToTheTotal) {
  PullProgress last;
  int64_t previous = 0;
  bool monotonic = true;
  ASSERT_TRUE(pull("org/name", "main", settings, [&](const PullProgress& progress) {
                monotonic = monotonic && progress.bytes_done >= previous;
                previous = progress.bytes_done;
                last = progress;
                return true;
              }).ok());
  EXPECT_TRUE(monotonic);
  EXPECT_EQ(last.bytes_done, last.bytes_total);
  EXPECT_EQ(last.file_count, 3);
  PullProgress line = {"model.safetensors", 1, 3, 250'000'000, 500'000'000, 1e8, 2.5};
  EXPECT_EQ(progress_line(line), "model.safetensors  2/3  250.00 of 500.00 MB  100.0 MB/s  3s left");
}

TEST(HubTls, ACertificateNobodyVouchesForIsRefused) {
  const TestCertificate made = make_certificate("localhost");
  const TestServer server([](const TestRequest&) { return TestReply{404, {}, "{}"}; }, made.certificate, made.key);
  std::string name = (fs::temp_directory_path() / "weir-tls-XXXXXX").string();
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  const std::string authority = name + "/ca.pem";
  std::ofstream(authority) << made.certificate;
  HubSettings settings;
  settings.cache = name;
  settings.pause = [](int64_t) {};
  settings.endpoint = fmt::format("https://localhost:{}", server.port());
  Result<PullResult> result = pull("org/name", "main", settings);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().text().find("certificate"), std::string::npos) << result.error().text();
  EXPECT_TRUE(server.requests().empty()) << "nothing may be sent before the certificate is good";

  settings.ca_file = authority;
  result = pull("org/name", "main", settings);
  EXPECT_EQ(result.error().code, ErrorCode::kNotFound) << result.error().text();
  EXPECT_EQ(server.requests().size(), 1u);

  settings.endpoint = fmt::format("https://127.0.0.1:{}", server.port());
  result = pull("org/name", "main", settings);
  EXPECT_NE(result.error().text().find("certificate"), std::string::npos) << "a certificate for another name";
  fs::remove_all(name);
}

TEST(HubSettingsTest, FollowsTheVariablesThatOtherToolsUse) {
  std::map<std::string, std::string> variables = {{"HOME", "/home/u"}};
  const auto get = [&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  };
  EXPECT_EQ(hub_settings(get)->cache, "/home/u/.cache/huggingface/hub");
  variables["XDG_CACHE_HOME"] = "/x";
  EXPECT_EQ(hub_settings(get)->cache, "/x/huggingface/hub");
  variables["HF_HOME"] = "/h";
  EXPECT_EQ(hub_settings(get)->cache, "/h/hub");
  variables["HF_HUB_CACHE"] = "/c";
  variables["HF_TOKEN"] = "hf_x";
  variables["HF_ENDPOINT"] = "http://mirror:8080";
  const Result<HubSettings> settings = hub_settings(get);
  EXPECT_EQ(settings->cache, "/c");
  EXPECT_EQ(settings->token, "hf_x");
  EXPECT_EQ(settings->endpoint, "http://mirror:8080");
  variables["HF_TOKEN"] = "hf x\r\ninjected: 1";
  ASSERT_FALSE(hub_settings(get).ok());
  EXPECT_EQ(hub_settings(get).error().text().find("injected"), std::string::npos) << "a token is never shown";
  variables["HF_ENDPOINT"] = "mirror";
  EXPECT_FALSE(hub_settings(get).ok());
  variables.clear();
  EXPECT_FALSE(hub_settings(get).ok());
}

}  // namespace
}  // namespace weir
