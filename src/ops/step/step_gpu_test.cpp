// What a step exchanges with the host arrives whole, step by step, through the mailbox that is its own.
#include "ops/step/step_gpu.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "ops/embed/embed_gpu.h"
#include "ops/gpu/gpu_test.h"

namespace weir {
namespace {

constexpr int64_t kHead = sizeof(GpuStepHead);
constexpr uint8_t kUntouched = 0xa5;
constexpr int32_t kUnreported = 0x5a5a5a5a;

class Step : public GpuTest {
 protected:
  struct Mailbox {
    device::PinnedBytes tables;
    device::PinnedBytes tokens;
    device::Event done;
  };

  // Mailboxes of `bytes` and of `tokens`, and the device's side of them; the device's count begins at `number`.
  void make(int64_t bytes, int64_t tokens, uint32_t number) {
    for (Mailbox& mailbox : mailboxes_) {
      mailbox.tables = device_->allocate_pinned(bytes, "tables").value();
      mailbox.tokens = device_->allocate_pinned((1 + tokens) * static_cast<int64_t>(sizeof(int32_t)), "tokens").value();
      mailbox.done = device_->event();
    }
    tables_ = OnDevice<uint8_t>(gpu(), static_cast<size_t>(bytes), kUntouched);
    // Nobody has cleared the fault.
    fault_ = OnDevice<int32_t>(gpu(), 1, 17);
    number_ = OnDevice<uint32_t>(gpu(), 1, number);
  }
  Mailbox& mailbox(uint32_t number) { return mailboxes_.at(number % kStepMailboxes); }
  int32_t* reported(uint32_t number) { return reinterpret_cast<int32_t*>(mailbox(number).tokens.data()); }

  void fetch(int64_t ahead) {
    GpuStepFetchArgs args;
    for (size_t i = 0; i < mailboxes_.size(); ++i) {
      args.from[i] = reinterpret_cast<const uint8_t*>(mailboxes_[i].tables.data());
    }
    args.to = tables_.data();
    args.number = number_.data();
    args.fault = fault_.data();
    args.bytes_max = static_cast<int64_t>(tables_.size());
    args.ahead = ahead;
    Gpu g = gpu();
    step_fetch(g, args);
  }
  void report(const int32_t* tokens, int32_t count) {
    GpuStepReportArgs args;
    for (size_t i = 0; i < mailboxes_.size(); ++i) {
      args.to[i] = reinterpret_cast<int32_t*>(mailboxes_[i].tokens.data());
    }
    args.tokens = tokens;
    args.fault = fault_.data();
    args.number = number_.data();
    args.count = count;
    Gpu g = gpu();
    step_report(g, args);
  }
  void set_head(uint32_t number, uint32_t said, int64_t bytes) {
    const GpuStepHead head{said, 0, bytes};
    std::memcpy(mailbox(number).tables.data(), &head, sizeof(head));
  }
  void wait() {
    const Status status = stream_.wait();
    ASSERT_TRUE(status.ok()) << status.error().text();
  }

  std::array<Mailbox, kStepMailboxes> mailboxes_;
  OnDevice<uint8_t> tables_;
  OnDevice<int32_t> fault_;
  OnDevice<uint32_t> number_;
};

TEST_F(Step, TablesOfAnySizeArriveAndNothingBehindThem) {
  constexpr int64_t kMost = (2 << 20) + 48;
  constexpr int64_t kTile = int64_t{kStepFetchThreads} * kStepFetchLoads * 16;
  constexpr int64_t kPass = kTile * kStepFetchBlocks;
  uint32_t number = 0xfffffffcU;  // it begins again at 0 on the way
  make(kMost, 0, number);
  std::mt19937_64 random(3);
  for (const int64_t bytes : {kHead, int64_t{32}, int64_t{256}, int64_t{3328}, kTile - 16, kTile, kTile + 16, 3 * kTile,
                              int64_t{100'000}, kPass, kPass + 16, 3 * kPass - 32, kMost}) {
    for (const int64_t ahead : {int64_t{0}, int64_t{256}, bytes, 2 * bytes, 2 * kMost}) {
      std::vector<uint8_t> sent(static_cast<size_t>(kMost));
      for (size_t i = 0; i < sent.size(); i += sizeof(uint64_t)) {
        const uint64_t word = random();
        std::memcpy(sent.data() + i, &word, std::min(sizeof(word), sent.size() - i));
      }
      std::memcpy(mailbox(number).tables.data(), sent.data(), sent.size());
      set_head(number, number, bytes);
      std::memcpy(sent.data(), mailbox(number).tables.data(), kHead);
      std::fill(sent.begin() + bytes, sent.end(), kUntouched);
      tables_ = OnDevice<uint8_t>(gpu(), sent.size(), kUntouched);
      *reported(number) = kUnreported;
      fetch(ahead);
      report(nullptr, 0);
      wait();
      EXPECT_EQ(*reported(number), 0) << bytes << " bytes, " << ahead << " ahead";
      ASSERT_TRUE(tables_.read() == sent) << bytes << " bytes, " << ahead << " ahead";
      ++number;
    }
  }
  EXPECT_EQ(number_.read().front(), number);
}

TEST_F(Step, TokensArriveAndNothingBehindThem) {
  constexpr int32_t kMost = 1500;
  make(256, kMost + 1, 0);
  std::vector<int32_t> tokens(kMost);
  for (int32_t i = 0; i < kMost; ++i) tokens[static_cast<size_t>(i)] = 7 * i + 1;
  const OnDevice<int32_t> sampled = upload(tokens);
  uint32_t number = 0;
  for (const int32_t count : {0, 1, 3, 64, 255, 256, 257, kMost}) {
    set_head(number, number, kHead);
    std::fill_n(reported(number), kMost + 2, kUnreported);
    fetch(0);
    report(sampled.data(), count);
    wait();
    EXPECT_EQ(reported(number)[0], 0);
    for (int32_t i = 0; i < kMost + 1; ++i) {
      const int32_t expected = i < count ? tokens[static_cast<size_t>(i)] : kUnreported;
      ASSERT_EQ(reported(number)[1 + i], expected) << "token " << i << " of " << count;
    }
    ++number;
  }
}

TEST_F(Step, AStepThatFindsAnothersTablesSaysSo) {
  make(512, 0, 5);
  for (uint32_t number = 5; number < 9; ++number) {
    const bool right = number != 6;
    tables_ = OnDevice<uint8_t>(gpu(), 512, kUntouched);
    set_head(number, right ? number : number - 2, 512);
    fetch(512);
    report(nullptr, 0);
    wait();
    EXPECT_EQ(*reported(number), right ? 0 : kStepFaultTables);
    const std::vector<uint8_t> got = tables_.read();
    EXPECT_EQ(std::count(got.begin(), got.end(), kUntouched) == 512, !right) << number;
  }
}

// One recording for both mailboxes, laid out anew as soon as the step before last is back, as the runner does it: each
// step's rows are looked up by its own ids, and a fault is of its step alone.
TEST_F(Step, ARecordedStepTakesItsOwnMailboxWithTwoInFlight) {
  constexpr int64_t kRows = 60;
  constexpr int32_t kVocabulary = 5000;
  constexpr int kSteps = 600;
  constexpr int64_t kBytes = kHead + kRows * static_cast<int64_t>(sizeof(int32_t));
  static_assert(kBytes % 16 == 0);
  make(kBytes, kRows, 0);
  std::vector<float> values(kVocabulary);
  for (int32_t i = 0; i < kVocabulary; ++i) values[static_cast<size_t>(i)] = static_cast<float>(3 * i + 1);
  const OnDevice<float> table = upload(values);
  const OnDevice<float> looked_up = zeros<float>(kRows);
  GpuEmbedArgs embedding;
  embedding.table.data = reinterpret_cast<const uint8_t*>(table.data());
  embedding.table.format = kGpuF32;
  embedding.table.n = kVocabulary;
  embedding.table.k = 1;
  embedding.table.row_bytes = sizeof(float);
  embedding.ids = reinterpret_cast<const int32_t*>(tables_.data() + kHead);
  embedding.y = looked_up.data();
  embedding.y_stride = 1;
  embedding.fault = fault_.data();
  const auto step = [&] {
    fetch(256);
    Gpu g = gpu();
    embed(g, embedding, kRows);
    report(reinterpret_cast<const int32_t*>(looked_up.data()), kRows);
  };
  stream_.begin_graph();
  step();
  auto graph = stream_.end_graph();
  ASSERT_TRUE(graph.ok()) << graph.error().text();

  std::mt19937_64 random(11);
  std::array<std::vector<int32_t>, kStepMailboxes> ids;
  const auto check = [&](uint32_t number) {
    ASSERT_TRUE(mailbox(number).done.wait().ok());
    const std::vector<int32_t>& asked = ids.at(number % kStepMailboxes);
    int32_t fault = 0;
    for (int32_t t = 0; t < kRows; ++t) {
      int32_t id = asked[static_cast<size_t>(t)];
      if (id >= kVocabulary) {
        fault = t + 1;
        id = 0;
      }
      const auto expected = std::bit_cast<int32_t>(values[static_cast<size_t>(id)]);
      ASSERT_EQ(reported(number)[1 + t], expected) << "step " << number << ", row " << t;
    }
    ASSERT_EQ(reported(number)[0], fault) << "step " << number;
  };
  for (uint32_t number = 0; number < kSteps; ++number) {
    if (number >= kStepMailboxes) {
      ASSERT_NO_FATAL_FAILURE(check(number - kStepMailboxes));
    }
    std::vector<int32_t>& asked = ids.at(number % kStepMailboxes);
    asked.resize(kRows);
    for (int32_t& id : asked) id = static_cast<int32_t>(random() % kVocabulary);
    if (number % 7 == 3) asked[random() % kRows] = kVocabulary;
    set_head(number, number, kBytes);
    std::memcpy(mailbox(number).tables.data() + kHead, asked.data(), asked.size() * sizeof(int32_t));
    // Steps that are not recorded come between.
    if (number % 5 == 4) {
      step();
    } else {
      stream_.replay(*graph);
    }
    stream_.record(&mailbox(number).done);
  }
  for (uint32_t number = kSteps - kStepMailboxes; number < kSteps; ++number) {
    ASSERT_NO_FATAL_FAILURE(check(number));
  }
}

}  // namespace
}  // namespace weir
