#include "text/tokenizer_bpe.h"

#include <algorithm>
#include <functional>

namespace weir {
namespace {

// Up to this many bytes, looking at all pairs for each merge beats a queue.
constexpr size_t kShortPiece = 40;

uint64_t queue_entry(int32_t rank, size_t position) {
  return static_cast<uint64_t>(rank) << 32 | position;
}

}  // namespace

BpeModel::BpeModel(const Vocabulary* vocabulary, const TokenizerSpec& spec)
    : tokens_(vocabulary), merges_(spec.merges), ignore_merges_(spec.ignore_merges) {
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(static_cast<unsigned char>(byte));
    byte_ids_[byte] = tokens_.find(std::string_view(&c, 1));
  }
  whole_ = std::make_unique<std::atomic<Whole>[]>(static_cast<size_t>(vocabulary->size()));
}

Result<std::unique_ptr<BpeModel>> BpeModel::make(const Vocabulary* vocabulary, const TokenizerSpec& spec) {
  std::unique_ptr<BpeModel> model(new BpeModel(vocabulary, spec));
  if (spec.needs_all_bytes) {
    for (int byte = 0; byte < 256; ++byte) {
      if (model->byte_ids_[byte] >= 0) continue;
      return with_remedy(
          make_error(ErrorCode::kUnsupported, "model.unk_token with a vocabulary that lacks byte 0x{:02X}", byte),
          "unknown tokens are supported only where no text can reach them");
    }
  }
  return model;
}

Status BpeModel::encode(std::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const {
  const int32_t id = tokens_.find(piece);
  if (id < 0) return merge(piece, scratch, ids);
  std::atomic<Whole>& known = whole_[static_cast<size_t>(id)];
  Whole whole = ignore_merges_ ? Whole::kYes : known.load(std::memory_order_relaxed);
  if (whole == Whole::kUnknown) {
    const size_t first = ids->size();
    WEIR_RETURN_IF_ERROR(merge(piece, scratch, ids));
    const bool same = ids->size() == first + 1 && (*ids)[first] == id;
    known.store(same ? Whole::kYes : Whole::kNo, std::memory_order_relaxed);
    return Ok{};
  }
  if (whole == Whole::kNo) return merge(piece, scratch, ids);
  ids->push_back(id);
  return Ok{};
}

Status BpeModel::merge(std::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const {
  const size_t first = ids->size();
  for (const char c : piece) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id < 0) {
      return make_error(ErrorCode::kInvalidArgument,
                        "the text has the byte 0x{:02X}, which the tokenizer's vocabulary lacks",
                        static_cast<unsigned char>(c));
    }
    ids->push_back(id);
  }
  if (piece.size() <= kShortPiece) {
    merge_short(first, ids);
  } else {
    merge_long(piece, scratch, ids);
  }
  return Ok{};
}

void BpeModel::merge_short(size_t first, std::vector<int32_t>* ids) const {
  int32_t* tokens = ids->data() + first;
  size_t count = ids->size() - first;
  MergeTable::Entry pairs[kShortPiece];
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = merges_.find(tokens[i], tokens[i + 1]);
  while (count > 1) {
    size_t best = count;
    // As unsigned, "does not merge" (-1) is the largest rank.
    uint32_t best_rank = UINT32_MAX;
    for (size_t i = 0; i + 1 < count; ++i) {
      const auto rank = static_cast<uint32_t>(pairs[i].rank);
      if (rank < best_rank) {
        best_rank = rank;
        best = i;
      }
    }
    if (best == count) break;
    tokens[best] = pairs[best].merged;
    std::copy(tokens + best + 2, tokens + count, tokens + best + 1);
    if (best + 2 < count) std::copy(pairs + best + 2, pairs + count - 1, pairs + best + 1);
    --count;
    if (best + 1 < count) pairs[best] = merges_.find(tokens[best], tokens[best + 1]);
    if (best > 0) pairs[best - 1] = merges_.find(tokens[best - 1], tokens[best]);
  }
  ids->resize(first + count);
}

void BpeModel::merge_long(std::string_view piece, BpeScratch* scratch, std::vector<int32_t>* ids) const {
  const size_t count = piece.size();
  const size_t first = ids->size() - count;
  std::vector<BpeScratch::Symbol>& symbols = scratch->symbols;
  std::vector<uint64_t>& queue = scratch->queue;
  symbols.resize(count);
  queue.clear();
  for (size_t i = 0; i < count; ++i) {
    symbols[i] = {(*ids)[first + i], static_cast<int32_t>(i) - 1, i + 1 < count ? static_cast<int32_t>(i) + 1 : -1};
    if (i + 1 == count) break;
    const int32_t rank = merges_.find((*ids)[first + i], (*ids)[first + i + 1]).rank;
    if (rank >= 0) queue.push_back(queue_entry(rank, i));
  }
  std::make_heap(queue.begin(), queue.end(), std::greater<>());
  const auto offer = [&](int32_t left, int32_t right) {
    const int32_t rank =
        merges_.find(symbols[static_cast<size_t>(left)].id, symbols[static_cast<size_t>(right)].id).rank;
    if (rank < 0) return;
    queue.push_back(queue_entry(rank, static_cast<size_t>(left)));
    std::push_heap(queue.begin(), queue.end(), std::greater<>());
  };
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    const uint64_t entry = queue.back();
    queue.pop_back();
    const auto position = static_cast<int32_t>(entry & 0xFFFFFFFFu);
    BpeScratch::Symbol& left = symbols[static_cast<size_t>(position)];
    // An entry is stale when either side has merged since: the pair now there has another rank, or none.
    if (left.id < 0 || left.next < 0) continue;
    BpeScratch::Symbol& right = symbols[static_cast<size_t>(left.next)];
    const MergeTable::Entry merge = merges_.find(left.id, right.id);
    if (merge.rank != static_cast<int32_t>(entry >> 32)) continue;
    left.id = merge.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) {
      symbols[static_cast<size_t>(left.next)].previous = position;
      offer(position, left.next);
    }
    if (left.previous >= 0) offer(left.previous, position);
  }
  ids->resize(first);
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next)
    ids->push_back(symbols[static_cast<size_t>(i)].id);
}

}  // namespace weir
