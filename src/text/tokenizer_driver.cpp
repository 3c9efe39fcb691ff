// Encodes texts for the differential fuzz against another implementation (tools/oracles/tokenizer_fuzz.py).
// tokenizer_driver TOKENIZER_JSON [plain|decode|bench]: reads texts from stdin, each a little-endian uint32 length and
// its bytes; writes for each a little-endian int32 count (-1: an error, whose text goes to stderr) and that many int32
// ids. "plain" encodes the text of special tokens like other text. "decode" reads lists of int32 ids, each after the
// length in bytes, and writes texts in the same form, each streamed token by token. "bench" reads one text, all of
// stdin, and prints the time to load and the rate of encoding it, first and best of ten.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace {

bool read_exactly(void* data, size_t size) {
  return std::fread(data, 1, size, stdin) == size;
}

void write_exactly(const void* data, size_t size) {
  std::fwrite(data, 1, size, stdout);
}

void encode_one(const weir::Tokenizer& tokenizer, const std::string& text, bool plain) {
  const auto ids = tokenizer.encode(text, {.parse_special = !plain});
  if (!ids.ok()) {
    std::fprintf(stderr, "%s\n", ids.error().text().c_str());
    const int32_t failed = -1;
    write_exactly(&failed, sizeof(failed));
    return;
  }
  const auto count = static_cast<int32_t>(ids->size());
  write_exactly(&count, sizeof(count));
  write_exactly(ids->data(), ids->size() * sizeof(int32_t));
}

void decode_one(const weir::Tokenizer& tokenizer, const std::string& data) {
  std::string text;
  weir::Detokenizer detokenizer(&tokenizer, false);
  for (size_t at = 0; at + 4 <= data.size(); at += 4) {
    int32_t id = 0;
    std::memcpy(&id, data.data() + at, 4);
    detokenizer.push(id, &text);
  }
  detokenizer.finish(&text);
  const auto size = static_cast<uint32_t>(text.size());
  write_exactly(&size, sizeof(size));
  write_exactly(text.data(), text.size());
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int bench(const weir::Tokenizer& tokenizer) {
  std::string text;
  char buffer[1 << 16];
  for (size_t got = 0; (got = std::fread(buffer, 1, sizeof(buffer), stdin)) > 0;) text.append(buffer, got);
  double first = 0;
  double best = 1e9;
  size_t count = 0;
  constexpr int kRuns = 10;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    const auto ids = tokenizer.encode(text);
    const double seconds = seconds_since(start);
    if (!ids.ok()) {
      std::fprintf(stderr, "%s\n", ids.error().text().c_str());
      return 4;
    }
    count = ids->size();
    if (run == 0) first = seconds;
    best = std::min(best, seconds);
  }
  const double megabytes = static_cast<double>(text.size()) / 1e6;
  std::printf("encode: %zu bytes, %zu ids, first %.1f MB/s, best of %d %.1f MB/s\n", text.size(), count,
              megabytes / first, kRuns, megabytes / best);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const bool decode = argc > 2 && std::strcmp(argv[2], "decode") == 0;
  const bool plain = argc > 2 && std::strcmp(argv[2], "plain") == 0;
  const bool timed = argc > 2 && std::strcmp(argv[2], "bench") == 0;
  if (argc < 2 || (argc > 2 && !decode && !plain && !timed)) {
    std::fprintf(stderr, "usage: tokenizer_driver TOKENIZER_JSON [plain|decode|bench]\n");
    return 2;
  }
  const auto start = std::chrono::steady_clock::now();
  const auto tokenizer = weir::Tokenizer::load(argv[1]);
  const double load_seconds = seconds_since(start);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.error().text().c_str());
    return 4;
  }
  if (timed) {
    std::printf("load: %.0f ms, %d ids\n", load_seconds * 1e3, (*tokenizer)->size());
    return bench(**tokenizer);
  }
  uint32_t size = 0;
  std::string data;
  while (read_exactly(&size, sizeof(size))) {
    data.resize(size);
    if (!read_exactly(data.data(), size)) return 2;
    if (decode) {
      decode_one(**tokenizer, data);
    } else {
      encode_one(**tokenizer, data, plain);
    }
  }
  return 0;
}
