"""The exposition, read with a strict parser, and the names that dashboards, routers and autoscalers use."""
import pytest
from prometheus_client.parser import text_string_to_metric_families

GAUGES = ["vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc",
          "vllm:gpu_cache_usage_perc", "vllm:cache_config_info", "weir:build_info"]
COUNTERS = ["vllm:prompt_tokens", "vllm:generation_tokens", "vllm:request_success", "vllm:num_preemptions",
            "vllm:prefix_cache_queries", "vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_queries",
            "vllm:gpu_prefix_cache_hits", "vllm:spec_decode_num_drafts", "vllm:spec_decode_num_draft_tokens",
            "vllm:spec_decode_num_accepted_tokens"]
HISTOGRAMS = ["vllm:time_to_first_token_seconds", "vllm:inter_token_latency_seconds",
              "vllm:time_per_output_token_seconds", "vllm:request_time_per_output_token_seconds",
              "vllm:e2e_request_latency_seconds", "vllm:request_queue_time_seconds",
              "vllm:request_prefill_time_seconds", "vllm:request_decode_time_seconds",
              "vllm:request_inference_time_seconds", "vllm:request_prompt_tokens", "vllm:request_generation_tokens",
              "vllm:request_max_num_generation_tokens"]


def test_every_name_is_there_with_its_labels(server, model):
    families = {f.name: f for f in server.families()}
    for names, kind in ((GAUGES, "gauge"), (COUNTERS, "counter"), (HISTOGRAMS, "histogram")):
        for name in names:
            assert families[name].type == kind, name
            for sample in families[name].samples:
                assert sample.labels["model_name"] == model and sample.labels["engine"] == "0"
    info = families["vllm:cache_config_info"].samples[0].labels
    assert int(info["block_size"]) > 0 and int(info["num_gpu_blocks"]) > 0
    reasons = {s.labels["finished_reason"] for s in families["vllm:request_success"].samples}
    assert reasons == {"stop", "length", "abort", "error"}


def test_histograms_are_well_formed(server):
    for family in server.families():
        if family.type != "histogram":
            continue
        buckets = [(float(s.labels["le"]), s.value) for s in family.samples if s.name.endswith("_bucket")]
        assert buckets == sorted(buckets) and buckets[-1][0] == float("inf")
        counts = [value for _, value in buckets]
        assert counts == sorted(counts)
        count = [s.value for s in family.samples if s.name.endswith("_count")]
        assert count == [counts[-1]]


def test_names_are_declared_once_and_samples_are_unique(server):
    text = server.http.get("/metrics").text
    declared = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared))
    samples = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) == len(set(samples))
    assert server.http.get("/metrics").headers["content-type"].startswith("text/plain; version=0.0.4")
    list(text_string_to_metric_families(text))


@pytest.mark.sim
def test_counters_move_by_what_a_request_did(launch):
    server = launch()
    before = {"stop": 0, "length": 0}
    server.post("/v1/completions", {"prompt": "say:abc", "n": 2})
    server.post("/v1/completions", {"prompt": "abc", "max_tokens": 5})
    assert server.metric("vllm:prompt_tokens_total") == 10
    assert server.metric("vllm:generation_tokens_total") == 13
    assert server.metric("vllm:request_success_total", finished_reason="stop") == before["stop"] + 2
    assert server.metric("vllm:request_success_total", finished_reason="length") == 1
    assert server.metric("vllm:time_to_first_token_seconds_count") == 3
    assert server.metric("vllm:inter_token_latency_seconds_count") == 10
    assert server.metric("vllm:e2e_request_latency_seconds_count") == 3
    assert server.metric("vllm:request_generation_tokens_sum") == 13
    assert server.metric("vllm:request_max_num_generation_tokens_sum") == 9
