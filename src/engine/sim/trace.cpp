#include "engine/sim/trace.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string_view>

#include "engine/sim/script.h"

namespace weir::sim {

namespace {

constexpr int64_t kHashMax = 1 << 24;    // an id is an index here: 16 million blocks are 8 billion tokens
constexpr int64_t kLengthMax = 1 << 24;  // tokens of a request

// The digits behind `"name":`; -1: there are none.
int64_t number_of(const std::string& line, std::string_view name) {
  const size_t found = line.find(fmt::format("\"{}\":", name));
  if (found == std::string::npos) return -1;
  const char* digits = line.c_str() + found + name.size() + 3;
  char* end = nullptr;
  const long long value = std::strtoll(digits, &end, 10);
  return end == digits ? -1 : value;
}

TokenId made_up(uint64_t what) {
  return static_cast<TokenId>(mix(what + kScriptStart) % kTraceVocabulary);
}

}  // namespace

Result<Trace> Trace::read(const std::string& path, int64_t requests_max, TraceTurns turns) {
  std::ifstream file(path);
  if (!file) return Error{ErrorCode::kNotFound, fmt::format("cannot read {}", path), "give a trace in JSON lines"};
  Trace trace;
  trace.turns_ = turns;
  std::string line;
  for (int64_t number = 1; number <= requests_max && std::getline(file, line); ++number) {
    WEIR_RETURN_IF_ERROR(trace.parse(line, number));
  }
  trace.find_turns();
  return trace;
}

Status Trace::parse(const std::string& line, int64_t number) {
  const auto bad = [&](std::string_view what) {
    return Error{ErrorCode::kInvalidArgument, fmt::format("line {}: {}", number, what), "give a trace in JSON lines"};
  };
  const int64_t timestamp_ms = number_of(line, "timestamp");
  const int64_t input = number_of(line, "input_length");
  const int64_t output = number_of(line, "output_length");
  if (timestamp_ms < 0 || input < 1 || output < 1 || input > kLengthMax || output > kLengthMax) {
    return bad("timestamp, input_length or output_length is missing or cannot be");
  }
  TraceRequest& request = requests_.emplace_back();
  request.arrival_us = timestamp_ms * 1000;
  request.input_length = static_cast<int32_t>(input);
  request.output_length = static_cast<int32_t>(output);
  const size_t ids = line.find('[');
  const char* digits = ids == std::string::npos ? "" : line.c_str() + ids + 1;
  for (char* end = nullptr; *digits != '\0' && *digits != ']'; digits = *end == ',' ? end + 1 : end) {
    const long long id = std::strtoll(digits, &end, 10);
    if (end == digits || id < 0 || id > kHashMax) return bad("hash_ids are not numbers");
    request.hashes.push_back(static_cast<int32_t>(id));
    if (static_cast<size_t>(id) >= shared_.size()) shared_.resize(static_cast<size_t>(id) + 1);
  }
  if (static_cast<int64_t>(request.hashes.size()) != (input + kTraceBlockTokens - 1) / kTraceBlockTokens) {
    return bad("hash_ids are not one for every 512 tokens");
  }
  return Ok{};
}

// The first blocks of the request that were seen before.
int32_t Trace::equal_blocks(const TraceRequest& request) const {
  const auto unseen = [this](int32_t hash) { return !seen_[static_cast<size_t>(hash)]; };
  const auto first = std::find_if(request.hashes.begin(), request.hashes.end(), unseen);
  return static_cast<int32_t>(first - request.hashes.begin());
}

// A request is taken for the next turn of another if its first new block stands where the other's last whole block ends
// and that block was new with the other (or with one whose next turn the other is): a block that everybody begins with
// says nothing.
void Trace::find_turns() {
  seen_.assign(shared_.size(), false);
  std::vector<int32_t> ends_at(shared_.size(), -1);  // per hash of a last whole block: the last request that has it so
  for (size_t r = 0; r < requests_.size(); ++r) {
    TraceRequest& request = requests_[r];
    const auto equal = static_cast<size_t>(equal_blocks(request));
    request.known = static_cast<int64_t>(equal) * kTraceBlockTokens;
    const int32_t before = equal > 0 ? ends_at[static_cast<size_t>(request.hashes[equal - 1])] : -1;
    if (equal < request.hashes.size() && before >= 0 && turns_ != TraceTurns::kBlocks &&
        requests_[static_cast<size_t>(before)].input_length < request.input_length) {
      TraceRequest& other = requests_[static_cast<size_t>(before)];
      request.goes_on = before;
      const int32_t rest = other.input_length % kTraceBlockTokens;
      if (rest > 0) shared_[static_cast<size_t>(request.hashes[equal])] = {other.hashes[equal], rest};
      request.known += rest;
      if (turns_ == TraceTurns::kAnswers && other.next < 0) request.known += other.output_length;
      if (other.next < 0) other.next = static_cast<int32_t>(r);
    }
    request.known = std::min<int64_t>(request.known, request.input_length - 1);
    const auto whole = static_cast<size_t>(request.input_length / kTraceBlockTokens);
    if (whole > 0) {
      const auto last = static_cast<size_t>(request.hashes[whole - 1]);
      if (!seen_[last] || ends_at[last] >= 0) ends_at[last] = static_cast<int32_t>(r);
    }
    for (const int32_t hash : request.hashes) seen_[static_cast<size_t>(hash)] = true;
  }
}

TokenId Trace::token(int32_t hash, int32_t offset) const {
  while (shared_[static_cast<size_t>(hash)].count > offset) hash = shared_[static_cast<size_t>(hash)].source;
  return made_up(static_cast<uint64_t>(hash) * kTraceBlockTokens + static_cast<uint64_t>(offset));
}

void Trace::prompt(int32_t request, std::vector<TokenId>* out) const {
  const TraceRequest& asked = requests_[static_cast<size_t>(request)];
  out->clear();
  for (int32_t i = 0; i < asked.input_length; ++i) {
    out->push_back(token(asked.hashes[static_cast<size_t>(i / kTraceBlockTokens)], i % kTraceBlockTokens));
  }
}

TokenId Trace::answer(int32_t request, int32_t index) const {
  const TraceRequest& asked = requests_[static_cast<size_t>(request)];
  const int32_t position = asked.input_length + index;
  if (turns_ == TraceTurns::kAnswers && asked.next >= 0) {
    const TraceRequest& next = requests_[static_cast<size_t>(asked.next)];
    if (position < next.input_length) {
      return token(next.hashes[static_cast<size_t>(position / kTraceBlockTokens)], position % kTraceBlockTokens);
    }
  }
  // Nobody else's: ids of blocks stay below 2^40.
  return made_up((uint64_t{1} << 60) + (static_cast<uint64_t>(request) << 32) + static_cast<uint64_t>(index));
}

}  // namespace weir::sim
