"""Every command from its arguments to its exit code."""
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess

import httpx
import pytest

from weir_program import BINARY, DEVICE, GOLDENS, ON_GPU, WAIT_LIMIT_S, Safetensors, golden_folder, wait_until, weir

COMMANDS = ["serve", "chat", "run", "pull", "inspect", "plan", "logits", "bench"]
GOLDEN = GOLDENS / "moe-odd"
CPU_FLAGS = set(re.search(r"^flags\s*:(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE).group(1).split())
ISAS = ["scalar"] + ["avx2"] * ({"avx2", "fma"} <= CPU_FLAGS) + ["avx512"] * ({"avx512f", "avx512bw", "avx512vl"} <= CPU_FLAGS)


@pytest.fixture(scope="module")
def data():
    return Safetensors(GOLDEN / "golden.safetensors")


@pytest.fixture
def token_file(tmp_path, data):
    path = tmp_path / "tokens.json"

    def write(length):
        path.write_text(json.dumps(data.numbers(f"prompt.{length}")))
        return path

    return write


def refused(*arguments, code=2, stdin=""):
    """What a refused command says: a message, and a remedy below it."""
    done = weir(*arguments, stdin=stdin)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    message, _, remedy = done.stderr.partition("\n  ")
    assert message.startswith("weir: ") and remedy.strip(), done.stderr
    return done.stderr


def logit_rows(*arguments):
    done = weir("logits", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# Help

def test_help_lists_every_command():
    for arguments in (["--help"], ["-h"], ["help"]):
        done = weir(*arguments)
        assert done.returncode == 0 and not done.stderr
        assert all(f"weir {name} " in done.stdout for name in COMMANDS)
    assert weir().returncode == 2


def test_each_commands_help_lists_its_flags():
    for name in COMMANDS:
        done = weir(name, "--help")
        assert done.returncode == 0 and done.stdout.startswith(f"usage: weir {name} ")
    assert "--max-num-seqs" in weir("serve", "--help").stdout
    assert "--port" not in weir("run", "--help").stdout


def test_the_version_is_one_line():
    for arguments in (["--version"], ["version"], ["run", "--version"]):
        done = weir(*arguments)
        assert done.returncode == 0 and re.fullmatch(r"weir \d+\.\d+\.\d+\S*\n", done.stdout)


def test_markdown_help_has_a_row_for_every_flag():
    text = weir("help", "--markdown").stdout
    for name in COMMANDS:
        section = text.split(f"## weir {name} ")[1].split("\n## ")[0]
        rows = re.findall(r"^\| `--([a-z0-9-]+)` \|.*\|.*\| \S.*\|$", section, re.MULTILINE)
        listed = re.findall(r"^  --([a-z0-9-]+)", weir(name, "--help").stdout, re.MULTILINE)
        assert rows == listed


# Mistakes

def test_what_is_mistyped_is_suggested():
    assert "weir serve" in refused("serv")
    assert "weir inspect" in refused("inspct")
    assert "--temperature" in refused("run", GOLDEN, "hi", "--temprature", 0)
    assert "--max-num-seqs" in refused("serve", GOLDEN, "--max-num-seq", 4)


def test_an_unknown_command_lists_them_all_and_guesses_only_what_is_near():
    said = refused("frobnicate")
    assert all(name in said for name in COMMANDS) and "did you mean" not in said
    said = refused("benhc")
    assert all(name in said for name in COMMANDS) and "did you mean 'weir bench'?" in said


def test_flags_of_another_command_are_refused():
    refused("run", GOLDEN, "hi", "--port", 8000)
    refused("inspect", GOLDEN, "--temperature", 0)


@pytest.mark.parametrize("flag,value", [
    ("--temperature", "hot"), ("--temperature", 3), ("--top-p", 1.5), ("--threads", -1), ("--threads", "1.5"), ("--isa", "sse"),
    ("--max-model-len", -1), ("--max-model-len", "9999999999999999999999"), ("--max-num-batched-tokens", "nan"),
    ("--kv-cache-memory-bytes", "5x"), ("--block-size", 16), ("--load-format", "pickle"), ("--seed", -1),
    ("--kv-cache-dtype", "fp4"), ("--prefill-activations", "fp4")])
def test_values_out_of_range_are_refused_with_the_range(flag, value):
    said = refused("run", GOLDEN, "hi", flag, value)
    assert flag in said and str(value) in said and "give" in said


def test_dashes_underscores_and_other_engines_names_are_the_same(token_file):
    rows = logit_rows(GOLDEN, token_file(1))
    assert logit_rows(GOLDEN, token_file(1), "--max_model_len=64") == rows == logit_rows(GOLDEN, token_file(1), "--max-model-len", "64")


def test_missing_and_surplus_arguments_are_refused(tmp_path):
    for name in COMMANDS:
        assert "usage" in refused(name)
    refused("run", GOLDEN, "one", "two")
    assert "weir pull" in refused("run", tmp_path / "nowhere", "hi")
    assert "folder" in refused("inspect", GOLDEN / "config.json")
    assert "config.json" in refused("inspect", tmp_path)


# Reading a checkpoint

@pytest.mark.parametrize("name", sorted(path.name for path in GOLDENS.iterdir()))
def test_inspect_and_plan_describe_a_whole_checkpoint(name, tmp_path):
    done = weir("inspect", golden_folder(name, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "every tensor is in its place" in done.stdout
    stored = len(Safetensors(GOLDENS / name / "model.safetensors").data)
    assert f"{stored:,} bytes" in done.stdout

    planned = json.loads(weir("plan", GOLDENS / name, "--json").stdout)
    assert planned["memory"]["weight_bytes"] == stored
    assert planned["memory"]["pages"] > 0 and planned["memory"]["state_slots"] >= 64
    assert all(row["kernel"] for row in planned["operations"])
    text = weir("plan", GOLDENS / name)
    assert text.returncode == 0 and "lm_head" in text.stdout
    assert len([line for line in text.stdout.splitlines() if line.startswith(("main ", "draft "))]) == len(planned["operations"])


def test_plan_follows_the_isa_flag():
    for isa in ISAS:
        kernels = {row["kernel"] for row in json.loads(weir("plan", GOLDEN, "--json", "--isa", isa).stdout)["operations"]}
        assert all(isa in kernel for kernel in kernels)


def test_memory_that_does_not_fit_is_refused_with_flags_that_do():
    said = refused("plan", GOLDEN, "--kv-cache-memory-bytes", "1k", code=3)
    enough = re.search(r"--kv-cache-memory-bytes (\d+)", said).group(1)
    assert weir("plan", GOLDEN, "--kv-cache-memory-bytes", enough).returncode == 0
    refused("plan", GOLDEN, "--kv-cache-memory-bytes", int(enough) - 1, code=3)

    small = int(enough) * 3
    said = refused("plan", GOLDEN, "--max-model-len", 4096, "--kv-cache-memory-bytes", small, code=3)
    for flag in ("--max-model-len", "--kv-cache-memory-bytes"):
        value = re.search(rf"{flag} (\d+)", said.splitlines()[1]).group(1)
        other = ("--kv-cache-memory-bytes", small) if flag == "--max-model-len" else ("--max-model-len", 4096)
        assert weir("plan", GOLDEN, flag, value, *other).returncode == 0
    assert "--max-model-len" in refused("plan", GOLDEN, "--max-model-len", 99999)
    refused("plan", GOLDEN, "--kv-cache-memory-bytes", "1023g", code=3)


# Per layer, token and head: 256 codes of keys and of values; their scales take a hundredth at most.
def test_pages_of_fp8_take_half_of_bf16_and_a_quarter_of_float32():
    for device, before in (("cpu", 4), ("cuda", 2)):
        flags = ("--json", "--device", device, "--max-num-seqs", 4, "--no-enable-prefix-caching")
        plans = {kind: json.loads(weir("plan", GOLDENS / "moe-fit", *flags, "--kv-cache-dtype", kind).stdout)
                 for kind in ("auto", "fp8")}
        assert plans["auto"]["memory"]["pages"] == plans["fp8"]["memory"]["pages"]
        ratio = plans["auto"]["memory"]["page_bytes"] / plans["fp8"]["memory"]["page_bytes"]
        assert before / 1.02 < ratio < before
        assert {row["stored_as"] for row in plans["fp8"]["operations"] if row["operation"] == "attention"} == {"FP8 KV"}


# A unit is a state or as many pages as are nearest to its size, whatever a page holds: twice as many of FP8 as of BF16.
def test_a_state_shares_its_memory_with_pages_by_their_bytes():
    for device in ("cpu", "cuda"):
        for kind in ("auto", "fp8"):
            flags = ("--json", "--device", device, "--max-num-seqs", 4, "--kv-cache-dtype", kind)
            apart = json.loads(weir("plan", GOLDENS / "moe-fit", *flags, "--no-enable-prefix-caching").stdout)["memory"]
            shared = json.loads(weir("plan", GOLDENS / "moe-fit", *flags).stdout)["memory"]
            assert apart["pages_a_slot"] == 0
            page, state = apart["page_bytes"] / apart["pages"], apart["slot_bytes"] / apart["state_slots"]
            assert shared["pages_a_slot"] == round(state / page), (device, kind)
            units = shared["state_slots"]
            assert shared["pages"] == units * shared["pages_a_slot"]
            assert max(state, shared["pages_a_slot"] * page) <= (shared["page_bytes"] + shared["slot_bytes"]) / units


def test_pages_that_a_device_does_not_have_are_refused():
    assert "--kv-cache-dtype auto or fp8" in refused("plan", GOLDEN, "--kv-cache-dtype", "bf16")
    plain = GOLDENS / "moe-odd"
    for kind in ("bf16", "fp8"):
        assert "float32" in refused("plan", plain, "--device", "cuda", "--kv-cache-dtype", kind)
    assert "--device cpu" in refused("plan", plain, "--device", "cuda", "--kv-cache-dtype", "fp8")
    assert weir("plan", GOLDENS / "moe-fit", "--device", "cuda", "--kv-cache-dtype", "bf16").returncode == 0


def test_prefill_of_fp8_activations_is_for_fp8_weights_on_a_gpu():
    flags = ("--prefill-activations", "fp8")
    assert "CPU" in refused("plan", GOLDENS / "moe-fit", *flags)
    assert "float32" in refused("plan", GOLDENS / "moe-odd", "--device", "cuda", *flags)
    shapes = ("--device", "cuda", "--load-format", "dummy", "--dummy-format")
    assert "FP8 checkpoint" in refused("plan", GOLDENS / "moe-fit", *shapes, "bf16", *flags)
    done = weir("plan", GOLDENS / "moe-fit", *shapes, "fp8", *flags, "--json")
    assert done.returncode == 0, done.stderr
    quantised = {row["prompt"] for row in json.loads(done.stdout)["operations"] if "e4m3" in row["kernel"]}
    assert quantised == {True}


def test_scores_over_pages_of_fp8_do_not_depend_on_the_chunk_and_are_near(tmp_path):
    model = GOLDENS / "moe-fit"  # a GPU has such pages for it
    tokens = tmp_path / "tokens"
    tokens.write_text(" ".join(str((7 + 37 * i + i * i) % 192) for i in range(65)))
    near = logit_rows(model, tokens)
    rows = logit_rows(model, tokens, "--kv-cache-dtype", "fp8")
    assert rows == logit_rows(model, tokens, "--kv-cache-dtype", "fp8", "--chunk", 7)
    differences = [abs(a["logprob"] - b["logprob"]) for a, b in zip(rows, near) if a.get("logprob") is not None]
    assert 0 < sum(differences) / len(differences) < 0.02


# The plan for a GPU needs none: without one it is made for an H200.

def gpu_plan(name, *flags):
    done = weir("plan", GOLDENS / name, "--device", "cuda", "--json", *flags)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_gpu_plan_names_the_kernels_of_each_kind_of_step():
    planned = gpu_plan("moe-fit", "--max-num-seqs", 32, "--max-num-batched-tokens", 256)
    steps = {(row["rows"], row["prompt"]) for row in planned["operations"]}
    assert steps == {(1, False), (32, False), (256, True)}
    kernels = {(row["operation"], row["rows"], row["prompt"]): row["kernel"] for row in planned["operations"] if row["program"] == "main"}
    assert kernels["feed-forward", 1, False].endswith("experts_gate_up, experts_down")
    assert kernels["feed-forward", 256, True].endswith("routes, moe_prompt")
    assert kernels["attention", 1, False] == "paged_prepare, paged_rows, paged_merge"
    assert kernels["attention", 256, True] == "paged_prepare, paged_prompt"
    assert "gdn_rows" in kernels["gdn", 32, False] and "gdn_chunks" in kernels["gdn", 256, True]
    assert all(row["chosen"] == "heuristic" and row["floor_us"] >= 0 for row in planned["operations"])
    text = weir("plan", GOLDENS / "moe-fit", "--device", "cuda")
    assert text.returncode == 0 and "heuristic" in text.stdout and "a step of 1 rows:" in text.stdout


def test_a_model_of_odd_shapes_runs_on_the_plain_kernels_and_strict_kernels_refuses_it():
    assert all(row["kernel"].startswith("plain float32 kernels: ") for row in gpu_plan("moe-odd")["operations"])
    assert gpu_plan("moe-fit", "--strict-kernels")["operations"]
    said = refused("plan", GOLDENS / "moe-odd", "--device", "cuda", "--strict-kernels")
    assert "--strict-kernels" in said and "--device cpu" in said
    assert weir("plan", GOLDENS / "moe-odd", "--strict-kernels").returncode == 0


def test_bench_prints_a_row_for_the_machine_the_prompt_and_each_number_of_streams(shipped):
    done = weir("bench", shipped, "--json", "--repeats", 1, "--prompt-tokens", 96, "--output-tokens", 8, "--streams", "1,3", "--max-num-seqs", 3)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    # A GPU's rate of reading stands in every row.
    assert [row["what"] for row in rows] == [*([] if ON_GPU else ["machine"]), "prefill", "decode", "decode"]
    assert [row["streams"] for row in rows[-2:]] == [1, 3]
    assert all(row["step_ms"] > 0 and row["tokens_s"] > 0 and 64 < row["context"] < 128 for row in rows[-2:])
    assert "--max-model-len" in refused("bench", shipped, "--repeats", 1, "--prompt-tokens", 64, "--output-tokens", 8, "--streams", "3",
                                        "--max-num-seqs", 3, "--max-model-len", 72, "--max-num-batched-tokens", 4, code=3)


# A step may still run behind the end of the last stream, while the machine is measured for the next line.
@pytest.mark.skipif(ON_GPU, reason="measured beside the steps on the CPU alone")
def test_bench_measures_the_machine_when_no_step_runs_and_says_how_pages_are_stored():
    for kind, stored in (("auto", "F32"), ("fp8", "FP8")):
        done = weir("bench", GOLDENS / "moe-fit", "--json", "--repeats", 1, "--prompt-tokens", 40, "--output-tokens", 12,
                    "--streams", "1,1,1,1,1,1,1,1", "--kv-cache-dtype", kind)
        assert done.returncode == 0, done.stderr
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(rows) == 10 and rows[0]["kv_format"] == stored


def test_bench_times_second_turns_and_says_what_of_them_is_computed_again(shipped):
    flags = (shipped, "--repeats", 1, "--prompt-tokens", 40, "--output-tokens", 4, "--streams", 1, "--max-num-seqs", 2, "--checkpoint-interval", 64,
             "--second-turns", "300:200,50:10")

    def turns(*more):
        done = weir("bench", *flags, *more, "--json")
        assert done.returncode == 0, done.stderr
        rows = [row for row in map(json.loads, done.stdout.splitlines()) if row["what"] == "second turn"]
        assert [(row["context_tokens"], row["answer_tokens"], row["prompt_tokens"]) for row in rows] == [(300, 200, 564), (50, 10, 124)]
        for row in rows:
            assert row["computed_again_tokens"] == row["context_tokens"] + row["answer_tokens"] - row["reused_tokens"]
            assert row["first_token_ms"] > 0 and row["first_turn_ms"] > 0 and row["steps"] > 0
        return rows

    # The last state in the answer is at 448 of its 500 tokens; behind a short one there is the prompt's.
    reusing = turns("--reuse-generated")
    assert [row["reused_tokens"] for row in reusing] == [448, 49] and all(row["reuse_generated"] for row in reusing)
    by_default = turns()
    assert [row["reused_tokens"] for row in by_default] == ([299, 49] if ON_GPU else [448, 49])
    assert all(row["reuse_generated"] != ON_GPU and row["prefix_caching"] for row in by_default)
    assert [row["reused_tokens"] for row in turns("--no-enable-prefix-caching")] == [0, 0]
    text = weir("bench", *flags).stdout
    kept = "computed again" if ON_GPU else "kept"
    assert len(re.findall(rf"^second turn .* reused, \d+ computed again \(generated tokens are {kept}\); ", text, re.MULTILINE)) == 2


@pytest.mark.parametrize("pairs,said_of_it", [("300", "CONTEXT:ANSWER"), ("300:", "CONTEXT:ANSWER"), ("0:5", "CONTEXT:ANSWER"),
                                              ("30:5,7:x", "CONTEXT:ANSWER"), ("90:50", "--max-model-len"),
                                              ("9223372036854775807:9223372036854775807", "--max-model-len")])
def test_second_turns_that_cannot_be_are_refused_before_anything_is_measured(shipped, pairs, said_of_it):
    done = weir("bench", shipped, "--max-model-len", 200, "--prompt-tokens", 40, "--output-tokens", 4, "--second-turns", pairs)
    assert done.returncode == 2 and said_of_it in done.stderr and done.stdout == ""


def bench_rows(*arguments):
    done = weir("bench", *arguments, "--json", "--repeats", 1, "--prompt-tokens", 40, "--no-adaptive-drafts")
    assert done.returncode == 0, done.stderr
    return [row for row in map(json.loads, done.stdout.splitlines()) if row["what"] == "decode"]


def test_bench_with_drafts_says_what_was_accepted_and_that_it_was_measured(shipped):
    flags = (shipped, "--num-speculative-tokens", 2, "--streams", "1,3", "--max-num-seqs", 3, "--output-tokens", 48)
    for row in bench_rows(*flags):
        assert row["acceptance"] == "acceptance measured" and row["drafts_max"] == 2
        assert 1 < row["tokens_a_step"] <= 3 and 0 < row["accepted"] <= row["drafted"]
        # A step's time is that of all the tokens that it yields.
        assert abs(row["step_ms"] * row["tokens_s"] / 1e3 - row["streams"] * row["tokens_a_step"]) < 0.01
    text = weir("bench", *flags, "--repeats", 1, "--prompt-tokens", 40)
    assert len(re.findall(r"^decode, .* tokens a step, \d+ of \d+ drafts accepted; acceptance measured$", text.stdout, re.MULTILINE)) == 2
    assert "drafts" not in weir("bench", shipped, "--repeats", 1, "--prompt-tokens", 40, "--streams", 1, "--output-tokens", 8).stdout


def test_pinned_acceptance_comes_out_and_is_labelled():
    dummy = (GOLDENS / "moe-fit", "--load-format", "dummy", "--num-speculative-tokens", 2, "--streams", "4", "--max-num-seqs", 4)
    # 4 x 240 tokens: some 350 steps, which deviate by 0.6 tokens.
    pinned, = bench_rows(*dummy, "--output-tokens", 240, "--pinned-acceptance", 2.73)
    assert pinned["acceptance"] == "pinned acceptance 2.73 (set, not measured)"
    assert abs(pinned["tokens_a_step"] - 2.73) < 0.15
    assert 0.8 < pinned["accepted"] / pinned["drafted"] < 0.95
    none, = bench_rows(*dummy, "--output-tokens", 48, "--pinned-acceptance", 1)
    assert none["accepted"] == 0 < none["drafted"] and none["tokens_a_step"] == 1
    text = weir("bench", *dummy, "--repeats", 1, "--prompt-tokens", 40, "--output-tokens", 32, "--pinned-acceptance", 2.5).stdout
    assert re.search(r"^decode, .*; pinned acceptance 2.5 \(set, not measured\)$", text, re.MULTILINE) and "acceptance measured" not in text


@pytest.mark.parametrize("flags,said_of_it", [
    (("--pinned-acceptance", 2), "--num-speculative-tokens"), (("--pinned-acceptance", 3.5, "--num-speculative-tokens", 2), "1 to 3"),
    (("--pinned-acceptance", 0.5, "--num-speculative-tokens", 2), "1 to 3"), (("--pinned-acceptance", 9), "0 to 8")], ids=str)
def test_a_pinned_acceptance_that_cannot_be_is_refused(shipped, flags, said_of_it):
    assert said_of_it in refused("bench", shipped, *flags)


def test_acceptance_is_pinned_in_bench_alone(shipped):
    for command in (("serve", shipped, "--port", 0), ("run", shipped, "hi"), ("chat", shipped)):
        assert "--pinned-acceptance" in refused(*command, "--num-speculative-tokens", 2, "--pinned-acceptance", 2)


def test_operations_are_timed_on_a_gpu_alone():
    assert "--device cuda" in refused("bench", GOLDEN, "--ops", "--device", "cpu")


# Log-probabilities

def test_logits_are_those_of_transformers(data, token_file):
    for length in (65, 1500):
        rows = logit_rows(GOLDEN, token_file(length), "--top", 3)
        ids = data.numbers(f"prompt.{length}")
        assert [row["position"] for row in rows] == list(range(length))
        assert [row["token"] for row in rows[:-1]] == ids[1:]
        differences = [abs(row["logprob"] - b) for row, b in zip(rows, data.numbers(f"logprobs.{length}"))]
        last = data.numbers(f"last.{length}")
        differences += [abs(value - last[id]) for id, value in rows[-1]["top"]]
        assert sum(differences) / len(differences) <= 1e-4 and max(differences) <= 3e-3
        assert all(len(row["top"]) == 3 and row["rank"] >= 1 for row in rows)


def test_draft_chains_are_those_of_the_composition(data, token_file):
    for depth in (1, 2, 3):
        rows = logit_rows(GOLDEN, token_file(64), "--drafts", depth, "--top", 211)[64:]
        tokens, expected = data.numbers(f"mtp_tokens.{depth}.64"), data.numbers(f"mtp.{depth}.64")
        assert len(rows) == depth and [row["token"] for row in rows] == tokens[1:]
        for i, row in enumerate(rows):
            differences = [abs(value - expected[i * 211 + id]) for id, value in row["top"]]
            assert len(differences) == 211
            assert sum(differences) / 211 <= 1e-4 and max(differences) <= 3e-3


def test_every_isa_thread_count_and_chunk_gives_the_same_bits(token_file):
    reference = logit_rows(GOLDEN, token_file(700), "--drafts", 2)
    for flags in [("--isa", isa) for isa in ISAS] + [("--threads", n) for n in (1, 2, 3)] + [("--chunk", n) for n in (7, 64, 700)]:
        assert logit_rows(GOLDEN, token_file(700), "--drafts", 2, *flags) == reference, flags


def test_logits_as_text_say_the_same(token_file):
    rows = logit_rows(GOLDEN, token_file(65))
    lines = weir("logits", GOLDEN, token_file(65)).stdout.splitlines()[1:]
    assert [(int(line.split()[0]), int(line.split()[1]), int(line.split()[3])) for line in lines] == [
        (row["position"], row["token"], row["rank"]) for row in rows]


@pytest.mark.parametrize("text,said", [("", "no token ids"), ("1 2 x", "'x'"), ("1 2 211", "211"), ("-1", "-1"), ("1.5", "1.5"),
                                       ("99999999999999999999", "99999")])
def test_token_files_that_are_none_are_refused(tmp_path, text, said):
    path = tmp_path / "tokens"
    path.write_text(text)
    assert said in refused("logits", GOLDEN, path)


def test_more_tokens_than_the_context_are_refused(token_file):
    assert "--max-model-len" in refused("logits", GOLDEN, token_file(700), "--max-model-len", 640, code=3)


# Answers

def answer(shipped, *arguments, stdin=""):
    done = weir("run", "--temperature", 0, "--max-tokens", 24, "--print-token-ids", shipped, *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_prompt_may_be_an_argument_or_piped_in(shipped):
    assert answer(shipped, "Hello! Who are you?") == answer(shipped, stdin="Hello! Who are you?")
    assert answer(shipped, "Once upon a time", "--raw") != answer(shipped, "Once upon a time")


def test_behind_two_dashes_everything_is_text(shipped):
    assert answer(shipped, "--", "--version") == answer(shipped, stdin="--version")


def test_every_isa_and_thread_count_gives_the_same_answer(shipped):
    sampled = ("Tell me a story.", "--temperature", 1, "--seed", 3, "--max-tokens", 32, "--print-token-ids")
    outputs = {weir("run", shipped, *sampled, *flags).stdout
               for flags in [(), *(("--isa", isa) for isa in ISAS), ("--threads", 1), ("--threads", 2),
                             ("--max-num-batched-tokens", 7)]}
    assert len(outputs) == 1 and "token ids: " in outputs.pop()
    assert weir("run", shipped, *sampled, "--seed", 4).stdout != weir("run", shipped, *sampled).stdout


def test_stats_go_to_stderr_and_name_rates(shipped):
    done = weir("run", shipped, "Tell me a story.", "--stats", "--max-tokens", 8, "--temperature", 0)
    assert re.search(r"\d+ prompt tokens, first token after [\d.]+ ms, 8 tokens, \d+ tok/s", done.stderr)
    assert "tok/s" not in done.stdout


def test_a_prompt_longer_than_the_context_is_refused(shipped):
    assert "--max-model-len" in refused("run", shipped, "a b c " * 100, "--max-model-len", 64, code=3)


def chat(shipped, *lines, flags=()):
    done = weir("chat", shipped, "--temperature", 0, "--max-tokens", 24, *flags, stdin="".join(line + "\n" for line in lines))
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n", 1)[1]


def test_a_chat_driven_by_a_pipe_answers_remembers_and_forgets(shipped):
    first = weir("run", shipped, "What is 2 + 3?", "--temperature", 0, "--max-tokens", 24).stdout
    one = chat(shipped, "What is 2 + 3?", "/quit")
    assert one.strip().startswith(first.strip())
    two = chat(shipped, "What is 2 + 3?", "And 4 + 4?", "/quit")
    assert two.startswith(one.rstrip("\n")) and len(two) > len(one)
    # Behind /clear the first question has its first answer again, and so it has without /quit at the end.
    again = chat(shipped, "What is 2 + 3?", "/clear", "What is 2 + 3?")
    assert again.count(first.strip()) == 2
    assert chat(shipped, "What is \\", "2 + 3?") != ""


def test_chat_commands_are_listed_and_unknown_ones_list_them(shipped):
    for line in ("/help", "/nonsense"):
        said = chat(shipped, line, "/quit", "never answered")
        assert all(name in said for name in ("/clear", "/system", "/thinking", "/retry", "/help", "/quit"))
    assert chat(shipped, "/thinking", "/thinking").startswith("thinking is on\nthinking is off\n")


def test_a_model_without_a_template_runs_raw_and_does_not_chat(tmp_path):
    folder = golden_folder("dense-tied", tmp_path)
    assert "--chat-template" in refused("chat", folder)
    done = weir("run", folder, "abc", "--raw", "--temperature", 0, "--max-tokens", 4, "--print-token-ids")
    assert done.returncode == 0, done.stderr
    refused("run", folder, "abc")


@pytest.mark.parametrize("stored", ["fp8", "bf16", "mxfp4"])
def test_dummy_weights_need_no_files(tmp_path, stored, token_file):
    folder = tmp_path / "dummy"
    folder.mkdir()
    (folder / "config.json").symlink_to(GOLDEN / "config.json")

    def rows(seed):
        return logit_rows(folder, token_file(65), "--load-format", "dummy", "--dummy-format", stored, "--seed", seed)

    first = rows(1)
    assert len(first) == 65 and all(row["logprob"] < 0 for row in first)
    assert rows(1) == first != rows(2)
    refused("logits", folder, token_file(1))


@pytest.mark.parametrize("stored,shown", [("fp8", "FP8 128x128"), ("bf16", "BF16"), ("mxfp4", "MXFP4")])
def test_a_plan_of_dummy_weights_needs_no_files(tmp_path, stored, shown):
    model = GOLDENS / "moe-mxfp4"
    (tmp_path / "config.json").symlink_to(model / "config.json")
    done = weir("plan", tmp_path, "--load-format", "dummy", "--dummy-format", stored, "--json")
    assert done.returncode == 0, done.stderr
    planned, checkpoint = json.loads(done.stdout), json.loads(weir("plan", model, "--json").stdout)

    def operations(plan):
        return [(row["operation"], row["what"]) for row in plan["operations"] if row["program"] == "main"]

    assert operations(planned) == operations(checkpoint)
    assert {row["stored_as"] for row in planned["operations"] if row["operation"] == "feed-forward"} >= {shown}
    assert planned["memory"]["weight_bytes"] > 0 and planned["memory"]["pages"] > 0
    text = weir("plan", tmp_path, "--load-format", "dummy")
    assert text.returncode == 0 and "lm_head" in text.stdout
    refused("plan", tmp_path)


# Serving

def test_a_taken_port_is_refused_with_a_remedy(tmp_path):
    folder = golden_folder("dense-tied", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("serve", folder, "--port", port, code=4)
        assert str(port) in said and "--port" in said


def test_an_address_of_another_machine_is_refused(tmp_path):
    folder = golden_folder("dense-tied", tmp_path)
    # 192.0.2.0/24 is reserved for documentation: no machine has it.
    assert "--host" in refused("serve", folder, "--host", "192.0.2.1", "--port", 0, "--api-key", "k", code=4)


def test_a_reader_that_leaves_does_no_harm(shipped):
    process = subprocess.Popen([BINARY, "plan", shipped], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.wait(10) >= 0, "ended by a signal"
    process.stderr.close()


@pytest.mark.parametrize("flag", ["--api-key", "--served-model-name", "--host"])
def test_an_empty_key_name_or_host_is_refused(tmp_path, flag):
    assert flag in refused("serve", golden_folder("dense-tied", tmp_path), "--port", 0, flag, "")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", ">/dev/full 2>&1", ">&- 2>&-", "2>&1 | true", "<&- >&- 2>&-"])
def test_a_server_whose_output_cannot_be_written_serves_on(tmp_path, redirection):
    folder = golden_folder("dense-tied", tmp_path)
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        code = serve_with_redirection(folder, port, redirection, tmp_path / "code")
        if code != "4":  # else another process took the port meanwhile
            break
    assert code == "0"


def serve_with_redirection(folder, port, redirection, code_file):
    """Starts, asks and ends a server; the code it ended with."""
    code_file.write_text("")

    def code():
        return code_file.read_text().strip()

    def ready():
        with contextlib.suppress(httpx.TransportError):
            return http.get("/ready").status_code == 200
        return False

    # The shell says how the server ended, whatever became of its output; the signal is for both.
    serve = f'"{BINARY}" serve "{folder}" --device {DEVICE} --host 0.0.0.0 --port {port}'
    command = f'{{ trap : TERM; {serve}; echo $? >"{code_file}"; }} {redirection}'
    shell = subprocess.Popen(["sh", "-c", command], start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_LIMIT_S) as http:
            wait_until(lambda: code() or ready(), "ready")
            if code():
                return code()
            for _ in range(2):
                # Both notes are written: of a field without effect, and of an unknown one.
                answer = http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2, "user": "u", "colour": "red"})
                assert answer.status_code == 200, answer.text
        os.killpg(shell.pid, signal.SIGTERM)
        wait_until(code, "ended")
        return code()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
