"""Drafts of the model's own head from the outside: no answer depends on them, and the metrics count them."""
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from asking import ask, ask_all, create, said, talk, user
from test_commands import refused
from weir_program import DEVICE, GOLDENS, MODEL, ON_GPU, REUSE, Server, golden_folder, page_mib, wait_until, weir

STORY = [user("Tell me a story about a fox and a river.")]
# Without a pattern: the head rarely knows what comes behind them. Repeated, it does.
IDS = [100 + (i * i * 31) % 7800 for i in range(67)]
GREEDY, SAMPLED = {"temperature": 0}, {"temperature": 1, "seed": 11}
SERVERS = [(drafts, adaptive) for drafts in (1, 2, 3, 7) for adaptive in (True, False)]


@pytest.fixture(scope="module", params=SERVERS, ids=[f"{drafts}-{'adaptive' if adaptive else 'all'}" for drafts, adaptive in SERVERS])
def drafting(request, shipped):
    drafts, adaptive = request.param
    with Server(shipped, *REUSE, "--num-speculative-tokens", drafts, *[] if adaptive else ["--no-adaptive-drafts"]) as running:
        running.drafts = drafts
        yield running


@pytest.fixture(scope="module")
def fixed(shipped):
    """As many drafts as there can be, always verified."""
    with Server(shipped, "--num-speculative-tokens", 7, "--no-adaptive-drafts") as running:
        yield running


def stop_requests(whole, ids):
    """Stops at places of a known answer: inside of tokens, across some, and where the text has them twice."""
    chat = {"messages": STORY, "max_tokens": len(ids), **GREEDY}
    for begin, end in ((7, 8), (12, 16), (17, 30), (30, 34), (41, 60)):
        yield {**chat, "stop": [whole[begin:end]]}
    yield {**chat, "stop": [whole[25:29], whole[20:24], "no such text"], "include_stop_str_in_output": True}
    yield {**chat, "stop": [whole[12:16]], "min_tokens": 12}
    for place in (0, 1, 2, 5, 9):
        yield {**chat, "stop_token_ids": [ids[place]]}
    yield {**chat, "stop_token_ids": [ids[3]], "min_tokens": 9}


@pytest.fixture(scope="module")
def expected(plain):
    """Requests and what they are answered without drafts."""
    first = said(plain, messages=STORY, max_tokens=24, **GREEDY).choices[0]
    chat = {"messages": STORY, "max_tokens": 20, "logprobs": True, "top_logprobs": 3}
    raw = {"prompt": IDS, "max_tokens": 12, "logprobs": 2, "ignore_eos": True}
    bodies = [
        *stop_requests(first["text"], first["ids"]),
        *({**chat, "max_tokens": count, **GREEDY} for count in range(1, 6)),
        {**chat, **GREEDY}, {**chat, **SAMPLED}, {**chat, "temperature": 0.7, "top_p": 0.8, "seed": 3},
        {**chat, "temperature": 2, "seed": 5, "ignore_eos": True}, {**chat, "n": 3, **SAMPLED},
        {"messages": [user("What is 2 + 3?")], "max_tokens": 40, **GREEDY},
        {"messages": [user("What is 2 + 3?")], "max_tokens": 30, "ignore_eos": True, "skip_special_tokens": False, **GREEDY},
        {"messages": [user("What is 2 + 3?")], "max_tokens": 30, "min_tokens": 25, **GREEDY},
        {**chat, "logit_bias": {str(id): -100 for id in first["ids"][:6:2]}, **GREEDY},
        {**chat, "logit_bias": {str(first["ids"][4]): 100}, **GREEDY},
        {**chat, "repetition_penalty": 1.4, "frequency_penalty": 1, **GREEDY},
        {**chat, "presence_penalty": -2, "frequency_penalty": -2, **SAMPLED},
        {**raw, **GREEDY}, {**raw, **SAMPLED}, {**raw, "echo": True, **GREEDY},
        {**raw, "prompt": IDS[:1], **GREEDY}, {**raw, "prompt": [IDS[:63], IDS[:64], IDS[:65]], "n": 2, **SAMPLED},
        {**raw, "prompt": IDS[:8] * 16, "max_tokens": 24, **GREEDY}, {**raw, "max_tokens": 0, "echo": True},
    ]
    return list(zip(bodies, (answer for answer, _ in ask_all(plain, bodies))))


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_those_without_drafts(drafting, expected, stream):
    answers = ask_all(drafting, [{**body, "stream": stream} for body, _ in expected], threads=3)
    for (body, known), (answer, _) in zip(expected, answers):
        assert answer == known, body


def test_a_conversation_is_the_one_without_drafts_and_reuses_its_turns(drafting, plain):
    questions = ["Tell me about the sea.", "What is 2 + 3?", "Why?", "Say it again."]
    settings = {"max_tokens": 12, "logprobs": True, "temperature": lambda turn: turn % 2, "seed": 4, "stream": lambda turn: turn == 2}
    with_drafts, without = talk(drafting, questions, **settings), talk(plain, questions, **settings)
    assert [turn for turn, _ in with_drafts] == [turn for turn, _ in without]
    cached = [reuse.cached_tokens for _, reuse in with_drafts]
    assert cached[0] == 0 < cached[1] < cached[2] < cached[3]


def test_drafts_are_counted(drafting):
    ask(drafting, messages=STORY, max_tokens=24, **GREEDY)
    now = drafting.metrics()
    rounds, tokens, accepted = (now[f"vllm:spec_decode_num_{name}_total"] for name in ("drafts", "draft_tokens", "accepted_tokens"))
    assert 0 < rounds <= tokens <= rounds * drafting.drafts
    assert 0 < accepted <= tokens
    assert drafting.idle()


def test_an_event_of_a_stream_carries_all_tokens_of_a_step(fixed, plain):
    body = {"messages": STORY, "max_tokens": 32, "logprobs": True, **GREEDY}
    with create(fixed, stream=True, **body) as stream:
        counts = [len(choice.model_dump()["token_ids"] or []) for chunk in stream for choice in chunk.choices
                  if choice.model_dump().get("token_ids")]
    assert max(counts) > 1 and sum(counts) == 32
    assert said(fixed, **body) == said(plain, **body)


def test_a_context_is_filled_to_its_last_token_with_drafts_too(launch, plain):
    server = launch("--max-model-len", 128, "--num-speculative-tokens", 7, "--no-adaptive-drafts")
    repeated = [IDS[i % 4] for i in range(127)]
    for length, count in ((127, 1), (126, 2), (121, 7), (120, 8), (119, 9), (64, 64), (63, 65), (1, 127)):
        body = {"prompt": repeated[:length], "max_tokens": count, "ignore_eos": True, "logprobs": 1, **GREEDY}
        answer = said(server, **body)
        assert answer.completion_tokens == count and answer == said(plain, **body)
    # Without a limit of its own the answer ends where the context does.
    answer = said(server, messages=STORY, ignore_eos=True, **GREEDY)
    assert answer.prompt_tokens + answer.completion_tokens == 128
    assert answer == said(plain, messages=STORY, ignore_eos=True, max_tokens=answer.completion_tokens, **GREEDY)
    assert answer.choices[0]["reasons"] == ["length"]


def test_a_crowd_in_a_tiny_cache_says_what_it_says_without_drafts(launch, plain):
    server = launch(*REUSE, "--num-speculative-tokens", 3, "--no-adaptive-drafts", "--max-num-seqs", 6, "--max-model-len", 512,
                    "--max-num-batched-tokens", 64, "--kv-cache-memory-bytes", page_mib(6))
    # Six run at once, begin in a page each and end in three; there are 16.
    body = {"prompt": [[id + i for id in IDS[:48]] for i in range(7)], "max_tokens": 120, "ignore_eos": True, "logprobs": 1, **SAMPLED}

    def leave(i):
        with create(server, messages=STORY, stream=True, max_tokens=300, ignore_eos=True, **SAMPLED) as stream:
            for _ in zip(range(i), stream):
                pass

    with ThreadPoolExecutor(6) as pool:
        leaving = [pool.submit(leave, i) for i in range(5)]
        answer = said(server, **body)
        for one in leaving:
            one.result()
    assert answer == said(plain, **body)
    wait_until(server.idle, "nobody is left: no request runs or waits, no page is used")
    now = server.metrics()
    assert now["vllm:spec_decode_num_accepted_tokens_total"] > 0 and now["vllm:num_preemptions_total"] > 0


@pytest.mark.parametrize("flags", [
    ("--max-num-seqs", 1, "--max-num-batched-tokens", 1), ("--max-num-seqs", 2, "--max-num-batched-tokens", 9),
    ("--max-num-seqs", 8, "--max-num-batched-tokens", 65, "--long-prefill-token-threshold", 7, "--checkpoint-interval", 64)], ids=str)
def test_reuse_and_drafts_in_the_smallest_cache_and_steps_change_no_answer(shipped, launch, plain, flags):
    flags = (*REUSE, "--max-model-len", 192, "--num-speculative-tokens", 7, "--no-adaptive-drafts", *flags)
    # Less than a page, then a page too few: each refusal names what is enough for it.
    enough = 1024
    for _ in range(2):
        message = refused("serve", shipped, "--port", 0, *flags, "--kv-cache-memory-bytes", enough, code=3)
        enough = int(re.search(r"--kv-cache-memory-bytes (\d+)", message).group(1))
    server = launch(*flags, "--kv-cache-memory-bytes", enough)
    bodies = [{"prompt": IDS[:length], "max_tokens": 8, "n": n, "ignore_eos": True, "temperature": 1, "seed": length, "logprobs": 0,
               "repetition_penalty": penalty}
              for length, n, penalty in ((1, 1, 1.0), (63, 2, 1.0), (64, 1, 1.3), (65, 1, 1.0), (64, 16, 1.0), (66, 1, 1.3))]
    bodies.append({"prompt": (IDS * 3)[:150], "max_tokens": 42, "ignore_eos": True, **GREEDY})
    expected = [answer for answer, _ in ask_all(plain, bodies)]
    for threads in (1, 6):
        assert [answer for answer, _ in ask_all(server, bodies, threads)] == expected
    wait_until(server.idle, "nobody is left: no request runs or waits, no page is used")


# The terminal

def test_run_gives_the_same_ids_with_drafts_and_says_how_many_held(shipped):
    command = ("run", shipped, "Tell me a story.", "--print-token-ids", "--max-tokens", 48, "--stats")
    for sampling in (("--temperature", 0), ("--temperature", 1, "--seed", 7)):
        without = weir(*command, *sampling)
        assert without.returncode == 0 and "drafts" not in without.stderr
        for flags in (("--num-speculative-tokens", 2), ("--num-speculative-tokens", 7, "--no-adaptive-drafts"),
                      ("--speculative-config", '{"method": "qwen3_next_mtp", "num_speculative_tokens": 3}')):
            done = weir(*command, *sampling, *flags)
            assert done.stdout == without.stdout
            tokens, rounds, accepted, rate = re.search(
                r"^(\d+) drafts in (\d+) steps, (\d+) accepted: ([\d.]+) tokens a step with drafts$", done.stderr, re.MULTILINE).groups()
            assert int(tokens) >= int(accepted) > 0 and abs(float(rate) - 1 - int(accepted) / int(rounds)) < 0.01


@pytest.mark.parametrize("count", [1, 512, "32k"])
def test_drafts_among_a_part_of_the_vocabulary_change_no_text(shipped, count):
    command = ("run", shipped, "Tell me a story.", "--print-token-ids", "--max-tokens", 48, "--stats")
    flags = ("--num-speculative-tokens", 2, "--no-adaptive-drafts", "--draft-vocabulary", count)
    for sampling in (("--temperature", 0), ("--temperature", 1, "--seed", 7)):
        without, done = weir(*command, *sampling), weir(*command, *sampling, *flags)
        assert done.returncode == 0, done.stderr
        assert done.stdout == without.stdout and " drafts in " in done.stderr


def test_a_server_that_drafts_among_few_ids_answers_the_same(launch, plain, expected):
    server = launch("--num-speculative-tokens", 3, "--no-adaptive-drafts", "--draft-vocabulary", "1k")
    for body, known in expected:
        assert said(server, **body) == known, body
    assert server.metrics()["vllm:spec_decode_num_accepted_tokens_total"] > 0


def test_the_plan_counts_the_head_of_the_drafts(shipped):
    plan = json.loads(weir("plan", shipped, "--json", "--num-speculative-tokens", 2, "--draft-vocabulary", 1024).stdout)
    # One id ends a turn; 256 codes an id, and two scales for each block of 128 ids.
    assert plan["memory"]["draft_head_bytes"] == 1025 * 256 + 9 * 2 * 4
    head, = (row for row in plan["operations"] if row["what"].startswith("mtp_head"))
    assert head["what"] == "mtp_head [1025, 256]" and head["stored_as"] == "FP8 128x128"
    assert json.loads(weir("plan", shipped, "--json", "--num-speculative-tokens", 2).stdout)["memory"]["draft_head_bytes"] == 0


# Mistakes

@pytest.mark.parametrize("config,said_of_it", [
    ("{", "JSON"), ("[]", "JSON"), ("2", "JSON"), ("null", "JSON"), ('{"method": "ngram"}', "mtp"), ('{"method": 3}', "mtp"),
    ('{"num_speculative_tokens": 8}', "0 to 7"), ('{"num_speculative_tokens": -1}', "0 to 7"),
    ('{"num_speculative_tokens": 1.5}', "0 to 7"), ('{"num_speculative_tokens": "2"}', "0 to 7"),
    ('{"num_speculative_tokens": 18446744073709551618}', "0 to 7"), ('{"model": "another"}', "'model'")])
def test_a_bad_speculative_config_is_refused_with_one_that_is_good(shipped, config, said_of_it):
    message, remedy = refused("serve", shipped, "--port", 0, "--speculative-config", config).splitlines()
    assert "--speculative-config" in message and said_of_it in message
    assert '{"method": "mtp", "num_speculative_tokens": 2}' in remedy


@pytest.mark.parametrize("flags,said_of_it", [
    (("--num-speculative-tokens", 8), "from 0 to 7"), (("--num-speculative-tokens", -1), "from 0 to 7"),
    (("--draft-vocabulary", 512), "--num-speculative-tokens"), (("--draft-vocabulary", -1), "--draft-vocabulary"),
    (("--num-speculative-tokens", "two"), "from 0 to 7"), (("--method", "ngram"), "mtp"),
    (("--num-speculative-tokens", 2, "--speculative-config", '{"method": "mtp"}'), "--num-speculative-tokens"),
    (("--checkpoint-interval", 100), "multiple of 64"), (("--checkpoint-interval", 1), "multiple of 64"),
    (("--checkpoint-interval", -64), "--checkpoint-interval")], ids=str)
def test_bad_flags_are_refused_in_two_lines(shipped, flags, said_of_it):
    message, remedy = refused("serve", shipped, "--port", 0, *flags).splitlines()
    assert said_of_it in message + remedy


def test_a_model_without_a_draft_head_says_so(tmp_path):
    for name in ("dense-tied", "next"):
        folder = golden_folder(name, tmp_path)
        for command in (("serve", folder, "--port", 0), ("run", folder, "hi")):
            message, remedy = refused(*command, "--num-speculative-tokens", 1).splitlines()
            assert "no multi-token prediction head" in message and "--num-speculative-tokens" in remedy


WITH_HEAD = sorted(path.parent.name for path in GOLDENS.glob("*/config.json") if "mtp_num_hidden_layers" in path.read_text())


@pytest.mark.parametrize("name", WITH_HEAD)
def test_random_models_with_a_head_answer_the_same_with_drafts(tmp_path, name):
    """Their drafts hardly ever hold: every step takes some back."""
    folder = golden_folder(name, tmp_path)
    plan = weir("plan", folder, "--device", DEVICE, "--num-speculative-tokens", 7)
    if plan.returncode != 0:
        assert ON_GPU and "which its plain kernels run" in plan.stderr and "--device cpu" in plan.stderr
        return
    prompt = [3 + i % 90 for i in range(70)]
    bodies = [{"prompt": prompt[:length], "max_tokens": 24, "ignore_eos": True, "logprobs": 3, "temperature": length % 2, "seed": 1}
              for length in (1, 2, 62, 63, 64, 65)]
    with Server(folder, "--no-enable-prefix-caching") as without:
        expected = [said(without, **body) for body in bodies]
    with Server(folder, *REUSE, "--num-speculative-tokens", 7, "--no-adaptive-drafts") as drafting:
        assert [said(drafting, **body) for body in bodies] == expected
        assert drafting.metrics()["vllm:spec_decode_num_draft_tokens_total"] > 0
