#include "runner/offline.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "decode/sampler.h"
#include "runner/cpu_caches.h"

namespace weir {

Result<std::unique_ptr<OfflineModel>> OfflineModel::create(Model* model, int64_t tokens_max, int64_t chunk) {
  const CacheLayout layout = cache_layout(model->config, model->cache_sizes(), model->has_draft_head());
  const auto page_count = static_cast<int32_t>(pages_of(tokens_max));
  const std::vector<int32_t> pages(layout.classes.size(), page_count);
  WEIR_ASSIGN_OR_RETURN(auto caches, model->make_caches(layout, pages, 1));
  auto offline = std::unique_ptr<OfflineModel>(new OfflineModel(model, std::move(caches), tokens_max, chunk));
  WEIR_RETURN_IF_ERROR(offline->make_executors());
  for (size_t c = 0; c < layout.classes.size(); ++c) {
    auto& table = offline->pages_.emplace_back();
    for (int32_t i = 0; i < page_count; ++i) {
      table.push_back(offline->caches_->page(PageClassId::from(c), PageId(i)));
    }
  }
  return offline;
}

OfflineModel::OfflineModel(Model* model, std::unique_ptr<Caches> caches, int64_t tokens_max, int64_t chunk)
    : model_(model), caches_(std::move(caches)), tokens_max_(tokens_max), chunk_(chunk) {
  every_row_.resize(static_cast<size_t>(chunk));
  std::iota(every_row_.begin(), every_row_.end(), 0);
}

Status OfflineModel::make_executors() {
  const ExecutorLimits limits{chunk_, 1, tokens_max_, 0};
  WEIR_ASSIGN_OR_RETURN(main_, model_->make_executor(model_->program, caches_.get(), limits));
  if (model_->has_draft_head()) {
    draft_program_ = make_draft_program(model_->config);
    WEIR_ASSIGN_OR_RETURN(draft_, model_->make_executor(draft_program_, caches_.get(), limits));
    draft_first_ = model_->can_draft() ? 1 : 0;
  }
  return Ok{};
}

StepBatch OfflineModel::batch(std::span<const TokenId> tokens, int64_t position, std::span<const int32_t> sampled,
                              PageClassId kv) {
  const auto count = static_cast<int64_t>(tokens.size());
  WEIR_CHECK(position + count <= tokens_max_, "{} tokens in caches of {}", position + count, tokens_max_);
  kv_ = {0, count, position, pages_.at(kv.index()).data(), kv == kDraftKvClass ? draft_first_ : 0};
  StepBatch batch;
  batch.tokens = tokens;
  batch.kv = std::span<const KvSequence>(&kv_, 1);
  batch.sequences = std::span<const StepSequence>(&sequence_, 1);
  if (std::byte* slot = caches_->slot(StateSlotId(0)); slot != nullptr && kv == kKvClass) {
    gdn_ = {0, count, position, slot};
    batch.gdn = std::span<const GdnSequence>(&gdn_, 1);
  }
  batch.sampled = sampled;
  return batch;
}

void OfflineModel::score(std::span<const TokenId> tokens, int64_t first,
                         const std::function<void(int64_t, std::span<const float>)>& consume) {
  const auto width = static_cast<size_t>(model_->config.vocabulary);
  const auto total = static_cast<int64_t>(tokens.size());
  caches_->zero_slot(StateSlotId(0));
  for (int64_t begin = 0; begin < total; begin += chunk_) {
    const int64_t count = std::min(chunk_, total - begin);
    const int64_t skip = std::clamp<int64_t>(first - begin, 0, count);
    const auto wanted =
        std::span<const int32_t>(every_row_).subspan(static_cast<size_t>(skip), static_cast<size_t>(count - skip));
    const auto chunk = tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    main_->run(batch(chunk, begin, wanted, kKvClass), [&](const SampledBlock& block) {
      for (int64_t i = 0; i < block.count; ++i) {
        consume(begin + skip + block.first + i, {block.logits + static_cast<size_t>(i) * width, width});
      }
    });
  }
}

Result<DraftChain> OfflineModel::draft(std::span<const TokenId> tokens, int32_t drafts) {
  if (draft_ == nullptr) {
    return with_remedy(make_error(ErrorCode::kUnsupported, "this checkpoint has no multi-token prediction head"),
                       "use a checkpoint with mtp.* tensors");
  }
  WEIR_CHECK(!tokens.empty(), "no tokens to draft behind");
  const auto width = static_cast<size_t>(model_->config.vocabulary);
  const auto hidden = static_cast<size_t>(model_->config.hidden);
  const auto total = static_cast<int64_t>(tokens.size());
  DraftChain chain;
  std::vector<float> recycled(hidden);
  std::vector<TokenId> next;

  // One pass over a chunk of the draft head's rows; the last row of all is the first draft.
  const auto run_draft = [&](int64_t position, bool last) {
    const auto count = static_cast<int64_t>(next.size());
    const auto wanted = std::span<const int32_t>(every_row_).subspan(static_cast<size_t>(count - 1), last ? 1 : 0);
    draft_->run(batch(next, position, wanted, kDraftKvClass), [&](const SampledBlock& block) {
      const std::span<const float> logits(block.logits, width);
      chain.logits.emplace_back(logits.begin(), logits.end());
      chain.tokens.push_back(argmax(logits));
      std::copy_n(block.normed, hidden, recycled.begin());
    });
  };

  caches_->zero_slot(StateSlotId(0));
  for (int64_t begin = 0; begin < total; begin += chunk_) {
    const int64_t count = std::min(chunk_, total - begin);
    const bool last = begin + count == total;
    const auto chunk = tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    const auto wanted = std::span<const int32_t>(every_row_).first(static_cast<size_t>(count));
    main_->run(batch(chunk, begin, wanted, kKvClass), [&](const SampledBlock& block) {
      draft_->set_hidden(block.first, block.count, block.normed);
      if (last && block.first + block.count == count) {
        chain.tokens.push_back(argmax({block.logits + static_cast<size_t>(block.count - 1) * width, width}));
      }
    });
    next.assign(chunk.begin() + 1, chunk.end());
    next.push_back(last ? chain.tokens.front() : tokens[static_cast<size_t>(begin + count)]);
    run_draft(draft_first_ + begin, last);
  }
  for (int32_t step = 1; step < drafts; ++step) {
    draft_->set_hidden(0, 1, recycled.data());
    next.assign(1, chain.tokens.back());
    run_draft(draft_first_ + total - 1 + step, true);
  }
  return chain;
}

}  // namespace weir
