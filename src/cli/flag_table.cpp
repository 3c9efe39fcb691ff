#include "cli/flags.h"

namespace weir {
namespace {

constexpr uint32_t bit(Command command) {
  return static_cast<uint32_t>(command);
}

constexpr uint32_t kServe = bit(Command::kServe);
constexpr uint32_t kChat = bit(Command::kChat);
constexpr uint32_t kRun = bit(Command::kRun);
constexpr uint32_t kPull = bit(Command::kPull);
constexpr uint32_t kInspect = bit(Command::kInspect);
constexpr uint32_t kPlan = bit(Command::kPlan);
constexpr uint32_t kLogits = bit(Command::kLogits);
constexpr uint32_t kBench = bit(Command::kBench);
constexpr uint32_t kTalk = kChat | kRun;
constexpr uint32_t kEngine = kServe | kTalk | kPlan | kBench;
constexpr uint32_t kLoads = kEngine | kLogits;

constexpr double kMillion = 1e6;
constexpr double kTebibyte = 1099511627776.0;

// One flag a line; columns as in Flag.
// clang-format off
constexpr Flag kFlags[] = {
    {"load-format", kLoads, FlagKind::kChoice, &Options::load_format, "auto", 0, 0, "", "auto|safetensors|dummy", "Where weights come from: the checkpoint's files, or random ones of the config's shapes (dummy).", ""},
    {"dummy-format", kLoads, FlagKind::kChoice, &Options::dummy_format, "fp8", 0, 0, "", "fp8|bf16|mxfp4", "Stored format of the random weights of --load-format dummy.", ""},
    {"chat-template", kServe | kTalk, FlagKind::kText, &Options::chat_template, "", 0, 0, "", "", "A Jinja file to use instead of the model's own chat template.", ""},
    {"default-chat-template-kwargs", kServe | kTalk, FlagKind::kText, &Options::default_chat_template_kwargs, "", 0, 0, "", "", "JSON object of variables given to the chat template; a request's chat_template_kwargs override it.", ""},
    {"generation-config", kServe | kTalk, FlagKind::kChoice, &Options::generation_config, "auto", 0, 0, "", "auto|weir", "Sampling defaults: the model's generation_config.json (auto), or temperature 1 and nothing else (weir).", ""},
    {"revision", kLoads | kPull | kInspect, FlagKind::kText, &Options::revision, "main", 0, 0, "", "", "Branch, tag or commit of a hub model.", ""},
    {"trust-remote-code", kLoads, FlagKind::kSwitch, &Options::trust_remote_code, "", 0, 0, "", "", "Accepted for compatibility; nothing in a model's files is ever executed.", ""},
    {"threads", kLoads, FlagKind::kCount, &Options::threads, "0", 0, 4096, "", "", "Compute threads; 0 takes every CPU the process may run on.", ""},
    {"isa", kLoads, FlagKind::kChoice, &Options::isa, "auto", 0, 0, "", "auto|scalar|avx2|avx512", "Instruction set of the kernels; every one gives the same bits.", ""},
    {"device", kLoads, FlagKind::kText, &Options::device, "cpu", 0, 0, "", "", "Where the model runs: cpu, or cuda:N for GPU N (cuda is cuda:0).", ""},
    {"strict-kernels", kEngine, FlagKind::kSwitch, &Options::strict_kernels, "", 0, 0, "", "", "On a GPU, refuse a model that would run on the plain float32 kernels.", ""},
    {"max-model-len", kLoads, FlagKind::kCount, &Options::max_model_len, "0", 0, 16 * kMillion, "tokens", "", "Longest context served; 0 takes the model's own limit, or what the page pool holds.", ""},
    {"max-num-seqs", kServe | kPlan | kBench, FlagKind::kCount, &Options::max_num_seqs, "64", 1, 4096, "", "", "Sequences that run at once; more wait in the queue.", ""},
    {"max-num-batched-tokens", kEngine, FlagKind::kCount, &Options::max_num_batched_tokens, "", 1, kMillion, "tokens", "", "Tokens computed in one step, prefill and decode together. Default: 1k on the CPU, 10k on a GPU.", ""},
    {"long-prefill-token-threshold", kServe | kTalk, FlagKind::kCount, &Options::long_prefill_token_threshold, "0", 0, kMillion, "tokens", "", "Tokens of one prompt in a step at most; 0 leaves it to the token budget.", ""},
    {"kv-cache-memory-bytes", kEngine, FlagKind::kBytes, &Options::kv_cache_memory_bytes, "0", 0, kTebibyte, "bytes", "", "Memory for KV pages and, with prefix caching, recurrent states kept; 0 takes what max-num-seqs full contexts need (with prefix caching four times that), at most a quarter of the free memory, on a GPU nine tenths.", ""},
    {"kv-cache-dtype", kLoads, FlagKind::kChoice, &Options::kv_cache_dtype, "auto", 0, 0, "", "auto|bf16|fp8", "How pages hold keys and values: as the device's kernels do without this flag (auto: BF16 on a GPU, float32 on the CPU and by a GPU's plain kernels), BF16 where that is so, or FP8 (E4M3) with a scale for each token and head: half of BF16, a quarter of float32, and outputs that differ a little.", ""},
    {"prefill-activations", kLoads, FlagKind::kChoice, &Options::prefill_activations, "auto", 0, 0, "", "auto|fp8", "What a prompt's rows are multiplied as on a GPU: in 16 bits like generated tokens (auto), or, where weights are block FP8, as FP8 codes (E4M3) with a scale for each 128 values (W8A8): faster prefill, and outputs that differ a little.", ""},
    {"block-size", kServe | kTalk, FlagKind::kCount, &Options::block_size, "64", 64, 64, "tokens", "", "Tokens of a KV page; fixed, because pages and recurrent states share one grid.", ""},
    {"enable-prefix-caching", kEngine, FlagKind::kSwitch, &Options::enable_prefix_caching, "", 0, 0, "", "", "Keep pages and recurrent states of earlier prompts and go on from them. Default: on, but off in bench.", ""},
    {"reuse-generated", kServe | kTalk | kBench, FlagKind::kSwitch, &Options::reuse_generated, "", 0, 0, "", "", "On a GPU, reuse generated tokens in later prompts too: faster, but tokens may differ where two candidates are equally likely. On the CPU they always are: the bits are the same.", ""},
    {"checkpoint-interval", kEngine, FlagKind::kCount, &Options::checkpoint_interval, "0", 0, kMillion, "tokens", "", "Tokens between recurrent states kept on the way through a prompt, a multiple of 64; 0: as many as weigh as much as one state, and on a GPU no fewer than a step has.", ""},
    {"num-speculative-tokens", kServe | kTalk | kPlan | kBench, FlagKind::kCount, &Options::num_speculative_tokens, "0", 0, 7, "tokens", "", "Tokens that the model's own draft head proposes behind each token, verified in one step: the text never depends on them. 0: none.", ""},
    {"method", kServe | kTalk | kPlan | kBench, FlagKind::kChoice, &Options::method, "mtp", 0, 0, "", "mtp", "Where drafts come from: the model's multi-token prediction head.", ""},
    {"speculative-config", kServe | kTalk | kPlan | kBench, FlagKind::kText, &Options::speculative_config, "", 0, 0, "", "", "The two flags above as vLLM has them: '{\"method\": \"mtp\", \"num_speculative_tokens\": 2}'.", ""},
    {"adaptive-drafts", kServe | kTalk | kBench, FlagKind::kSwitch, &Options::adaptive_drafts, "true", 0, 0, "", "", "Verify fewer drafts, or none, where few are accepted or the batch is large; --no-adaptive-drafts verifies all of them always.", ""},
    {"draft-vocabulary", kServe | kTalk | kPlan | kBench, FlagKind::kCount, &Options::draft_vocabulary, "0", 0, kMillion, "ids", "", "Draw drafts among this many first ids and the tokens beside the merges alone, from a copy of their rows of the output head in FP8: cheaper drafts, of which a few fewer hold; the text never depends on it. 32k is usual. 0: all ids, from the head as it is.", ""},
    {"max-num-queued-reqs", kServe, FlagKind::kCount, &Options::max_num_queued_reqs, "1024", 1, kMillion, "", "", "Sequences that may wait; one more is answered 429 with Retry-After.", "max-queued-requests"},
    {"max-num-queued-tokens", kServe, FlagKind::kCount, &Options::max_num_queued_tokens, "4m", 1, 1024 * kMillion, "tokens", "", "Prompt tokens that may wait.", "max-queued-tokens"},
    {"priority-aging-ms", kServe, FlagKind::kCount, &Options::priority_aging_ms, "1000", 1, 3600000, "ms", "", "Waiting this long counts as one step of priority.", ""},
    {"host", kServe, FlagKind::kText, &Options::host, "127.0.0.1", 0, 0, "", "", "Address to listen on.", ""},
    {"port", kServe, FlagKind::kCount, &Options::port, "8000", 0, 65535, "", "", "TCP port to listen on; 0 takes a free one.", "server-port"},
    {"api-key", kServe, FlagKind::kList, &Options::api_keys, "", 0, 0, "", "", "A key that clients must send (Bearer or x-api-key); may be given more than once.", ""},
    {"served-model-name", kServe, FlagKind::kList, &Options::served_model_names, "", 0, 0, "", "", "Name of the model in the API; the first is reported, all are accepted. Default: the last part of MODEL.", ""},
    {"strict-params", kServe, FlagKind::kSwitch, &Options::strict_params, "", 0, 0, "", "", "Answer 400 to unknown request fields instead of listing them in a response header.", ""},
    {"enable-force-include-usage", kServe, FlagKind::kSwitch, &Options::enable_force_include_usage, "", 0, 0, "", "", "Send usage at the end of every stream, asked for or not.", ""},
    {"max-connections", kServe, FlagKind::kCount, &Options::max_connections, "4k", 1, kMillion, "", "", "Open connections; one more is answered 503 at once.", ""},
    {"max-body-bytes", kServe, FlagKind::kBytes, &Options::max_body_bytes, "16m", 1024, 1073741824.0, "bytes", "", "Largest request body; larger ones are answered 413 unread.", ""},
    {"max-header-bytes", kServe, FlagKind::kBytes, &Options::max_header_bytes, "32k", 1024, 1048576, "bytes", "", "Largest request header; larger ones are answered 431.", ""},
    {"header-timeout", kServe, FlagKind::kNumber, &Options::header_timeout_s, "10", 0.1, 3600, "s", "", "Time for a request's header to arrive.", ""},
    {"keep-alive-timeout", kServe, FlagKind::kNumber, &Options::keep_alive_s, "75", 0.1, 86400, "s", "", "How long an idle connection is kept.", ""},
    {"sse-ping-interval", kServe, FlagKind::kNumber, &Options::sse_ping_s, "10", 0.05, 3600, "s", "", "A comment is sent on a stream that was silent for so long.", ""},
    {"shutdown-timeout", kServe, FlagKind::kNumber, &Options::shutdown_timeout_s, "30", 0, 86400, "s", "", "After SIGTERM, time for running streams to finish.", ""},
    {"drain-delay", kServe, FlagKind::kNumber, &Options::drain_delay_s, "0", 0, 3600, "s", "", "After SIGTERM, time in which new requests are still accepted while /ready says 503.", ""},
    {"metrics-compat", kServe, FlagKind::kChoice, &Options::metrics_compat, "vllm", 0, 0, "", "vllm|none", "Which engine's metric names /metrics carries.", ""},
    {"log-level", kServe, FlagKind::kChoice, &Options::log_level, "info", 0, 0, "", "debug|info|warning|error", "Least serious message that is logged.", "uvicorn-log-level"},
    {"seed", kLoads, FlagKind::kCount, &Options::seed, "0", 0, 9007199254740991.0, "", "", "Seed of dummy weights; for run and chat also of sampling.", ""},
    {"temperature", kTalk, FlagKind::kNumber, &Options::temperature, "-1", -1, 2, "", "", "Sampling temperature, 0 is greedy; -1 takes the model's default.", ""},
    {"top-p", kTalk, FlagKind::kNumber, &Options::top_p, "-1", -1, 1, "", "", "Nucleus sampling in (0, 1]; -1 takes the model's default.", ""},
    {"top-k", kTalk, FlagKind::kCount, &Options::top_k, "-1", -1, kMillion, "", "", "Sample among the likeliest K; 0 is off, -1 takes the model's default.", ""},
    {"min-p", kTalk, FlagKind::kNumber, &Options::min_p, "-1", -1, 1, "", "", "Drop ids under this fraction of the likeliest; 0 is off, -1 takes the model's default.", ""},
    {"max-tokens", kTalk, FlagKind::kCount, &Options::max_tokens, "0", 0, 16 * kMillion, "tokens", "", "Length of an answer at most; 0 is the rest of the context.", "max-completion-tokens"},
    {"system", kTalk, FlagKind::kText, &Options::system, "", 0, 0, "", "", "System message.", ""},
    {"thinking", kTalk, FlagKind::kSwitch, &Options::thinking, "", 0, 0, "", "", "Let the model think first, where its template can.", ""},
    {"raw", kRun, FlagKind::kSwitch, &Options::raw, "", 0, 0, "", "", "Give the prompt to the model as it is, without the chat template.", ""},
    {"print-token-ids", kRun, FlagKind::kSwitch, &Options::print_token_ids, "", 0, 0, "", "", "Print the answer's token ids on a line of their own at the end.", ""},
    {"stats", kTalk, FlagKind::kSwitch, &Options::stats, "", 0, 0, "", "", "run: print time to first token and tokens a second at the end. chat: print behind each answer what of its prompt was reused, and why the rest was not.", ""},
    {"drafts", kLogits, FlagKind::kCount, &Options::drafts, "0", 0, 7, "", "", "Also run the draft head for a chain of so many drafts behind the tokens.", ""},
    {"chunk", kLogits, FlagKind::kCount, &Options::chunk, "256", 1, kMillion, "tokens", "", "Tokens computed at once; the result does not depend on it.", ""},
    {"top", kLogits, FlagKind::kCount, &Options::top, "5", 0, kMillion, "", "", "Likeliest ids to print at each position.", ""},
    {"streams", kBench, FlagKind::kText, &Options::streams, "1,8,32", 0, 0, "", "", "Numbers of concurrent streams to decode with.", ""},
    {"cached-prompts", kBench, FlagKind::kText, &Options::cached_prompts, "", 0, 0, "", "", "Also time prompts of so many tokens (numbers separated by commas) that begin with one known before, up to the first token; turns --enable-prefix-caching on.", ""},
    {"cached-percent", kBench, FlagKind::kCount, &Options::cached_percent, "99", 1, 99, "percent", "", "How much of these prompts is known.", ""},
    {"second-turns", kBench, FlagKind::kText, &Options::second_turns, "", 0, 0, "", "", "Also time the second turn of conversations, up to the first token: pairs CONTEXT:ANSWER of tokens, separated by commas, of a prompt and its answer, which a prompt of both and 64 tokens more goes on from; turns --enable-prefix-caching on. What of the answer is computed again is --reuse-generated's and --checkpoint-interval's to say.", ""},
    {"prompt-tokens", kBench, FlagKind::kCount, &Options::prompt_tokens, "1k", 1, 16 * kMillion, "tokens", "", "Prompt of the prefill measurement; on a GPU also of the streams that decode.", ""},
    {"output-tokens", kBench, FlagKind::kCount, &Options::output_tokens, "256", 2, 16 * kMillion, "tokens", "", "Tokens that each stream decodes.", ""},
    {"repeats", kBench, FlagKind::kCount, &Options::repeats, "5", 1, 1000, "", "", "Runs of each measurement; the best is printed.", ""},
    {"pinned-acceptance", kBench, FlagKind::kNumber, &Options::pinned_acceptance, "0", 0, 8, "tokens", "", "Mean tokens a step with drafts, 1 to 1 + drafts: drafts are accepted by chance so that it comes out, whatever they are. For dummy weights, whose drafts hardly ever hold; every figure says that it was set. 0: drafts are accepted as always, and that is measured.", ""},
    {"ops", kBench, FlagKind::kSwitch, &Options::ops, "", 0, 0, "", "", "On a GPU, time the operations one by one at --prompt-tokens of context instead of the whole engine.", ""},
    {"json", kLogits | kPlan | kBench, FlagKind::kSwitch, &Options::json, "", 0, 0, "", "", "Print JSON instead of text.", ""},
};
// clang-format on

constexpr CommandInfo kCommands[] = {
    {Command::kServe, "serve", "MODEL", "Serve a model over the OpenAI API."},
    {Command::kChat, "chat", "MODEL", "Talk to a model in the terminal."},
    {Command::kRun, "run", "MODEL [PROMPT]", "Stream the answer to one prompt (from standard input if none is given)."},
    {Command::kPull, "pull", "ORG/NAME", "Download a model from the hub, resumed and verified."},
    {Command::kInspect, "inspect", "MODEL", "Say what a checkpoint is, and whether it is whole."},
    {Command::kPlan, "plan", "MODEL", "Print the program, the kernel of every operation and the memory it takes."},
    {Command::kBench, "bench", "MODEL", "Measure prefill and decode beside the machine's own limits."},
    {Command::kLogits, "logits", "MODEL TOKENS", "Print log-probabilities of a file of token ids."},
};

}  // namespace

std::span<const Flag> flag_table() {
  return kFlags;
}

std::span<const CommandInfo> command_table() {
  return kCommands;
}

}  // namespace weir
