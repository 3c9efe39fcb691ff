"""Prefix caching from the outside: what is reused, and that no answer depends on it."""
import re
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from asking import Reuse, ask, ask_all, create, said, talk, texts_of, user
from weir_program import REUSE, Server, page_mib, wait_until, weir

BLOCK = 64
NOTHING = Reuse(0, 0, 0, 0)
STORY = "Tell me a story about a fox and a river."
QUESTIONS = ["Tell me a story about a fox.", "What is 2 + 3?", "And 4 + 4?", "Why?", "Tell me about the sea.", "Thank you. Say it again.",
             "What is 5 + 1?"]
SAMPLED = {"temperature": 1, "seed": 11}


@pytest.fixture(scope="module")
def reusing(shipped):
    with Server(shipped, *REUSE, "--checkpoint-interval", 256) as running:
        yield running


def closed(server, messages):
    """Tokens of a conversation without what makes the model answer."""
    return server.post("/tokenize", messages=messages, add_generation_prompt=False).json()["count"]


def ids_of(count, seed=0):
    """Token ids without a pattern, the same on every run; one of fewer is the beginning of one of more."""
    return [100 + (i * i * 31 + i * 17 + seed * 1009) % 7800 for i in range(count)]


def check_sums(reuse, prompt_tokens):
    assert 0 <= reuse.cached_tokens <= reuse.matched_tokens < prompt_tokens
    assert reuse.cached_tokens + reuse.lost_to_checkpoint == reuse.matched_tokens
    assert reuse.matched_tokens + reuse.lost_to_eviction <= prompt_tokens


# One request again

@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("options", [{"temperature": 0}, SAMPLED], ids=["greedy", "seeded"])
def test_a_chat_again_is_reused_up_to_the_generation_prompt_and_answered_the_same(reusing, plain, options, stream):
    body = {"messages": [user(STORY)], "max_tokens": 32, "logprobs": True, "top_logprobs": 3, "stream": stream,
            "cache_salt": f"{options} {stream}", **options}
    first, cold = ask(reusing, **body)
    again, warm = ask(reusing, **body)
    assert cold == NOTHING
    assert warm == Reuse(closed(reusing, body["messages"]), closed(reusing, body["messages"]), 0, 0)
    assert first == again and len(texts_of(first)[0]) > 20
    for _ in range(2):
        assert ask(plain, **body) == (first, NOTHING)


def test_prompts_that_end_around_a_block_are_answered_as_without_reuse(reusing, plain):
    ends = (1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1)
    bodies = [{"prompt": ids_of(end), "max_tokens": 2, "temperature": 0, "logprobs": 2, "ignore_eos": True} for end in ends]
    expected = [said(plain, **body) for body in bodies]
    for salt in ("ascending", "descending", "ascending", "descending"):
        step = -1 if salt == "descending" else 1
        for body, known in list(zip(bodies, expected))[::step]:
            answer, reuse = ask(reusing, cache_salt=salt, **body)
            assert answer == known
            check_sums(reuse, len(body["prompt"]))


def test_a_prompt_that_was_only_computed_is_reused(reusing, plain):
    prompt = ids_of(3 * BLOCK + 5, seed=1)
    empty, cold = ask(reusing, prompt=prompt, max_tokens=0)
    body = {"prompt": prompt, "max_tokens": 4, "temperature": 0, "logprobs": 1}
    answer, warm = ask(reusing, **body)
    assert cold == NOTHING and empty.completion_tokens == 0
    assert warm.cached_tokens == len(prompt) - 1
    assert answer == said(plain, **body)


def test_a_cut_prompt_is_reused_by_what_is_left_of_it(reusing, plain):
    # Fewer tokens than the template puts behind the question, too.
    for keep in (1, 2, 5, 8, 12):
        body = {"messages": [user(STORY)], "truncate_prompt_tokens": keep, "max_tokens": 3, "temperature": 0, "cache_salt": "cut"}
        expected = said(plain, **body)
        for _ in range(2):
            answer, reuse = ask(reusing, **body)
            assert answer == expected and answer.prompt_tokens == keep
            check_sums(reuse, keep)


# Conversations

@pytest.mark.parametrize("options", [
    {"temperature": 0}, {"temperature": 1, "seed": lambda turn: turn, "stream": lambda turn: turn % 2 == 1}], ids=["greedy", "seeded"])
def test_every_turn_of_a_conversation_is_the_one_without_reuse_and_reuses_the_turn_before(reusing, plain, options):
    settings = {"max_tokens": 24, "logprobs": True, "cache_salt": str(options["temperature"]), **options}
    with_reuse, without = talk(reusing, QUESTIONS, **settings), talk(plain, QUESTIONS, **settings)
    assert [turn for turn, _ in with_reuse] == [turn for turn, _ in without]
    assert {reuse for _, reuse in without} == {NOTHING}
    generation_prompt = with_reuse[0][0].prompt_tokens - closed(reusing, [user(QUESTIONS[0])])
    cached = [reuse.cached_tokens for _, reuse in with_reuse]
    assert cached[0] == 0
    for turn in range(1, len(QUESTIONS)):
        check_sums(with_reuse[turn][1], with_reuse[turn][0].prompt_tokens)
        assert cached[turn] >= with_reuse[turn - 1][0].prompt_tokens - generation_prompt > cached[turn - 1]


# Salts

LONGEST = "s" * 256


@pytest.mark.parametrize("salt", ["a", LONGEST, "\u00e9\u4f60\U0001f30d", "a\u0000b", " b"],
                         ids=["short", "longest", "unicode", "zero", "space"])
def test_only_requests_of_the_same_salt_share(reusing, salt):
    body = {"messages": [user("Which salts are there? " * 8)], "max_tokens": 1, "temperature": 0}
    unsalted, _ = ask(reusing, **body)
    answer, cold = ask(reusing, cache_salt=salt, **body)
    again, warm = ask(reusing, cache_salt=salt, **body)
    other, apart = ask(reusing, cache_salt=salt[:-1] + "o", **body)
    assert cold == apart == NOTHING and warm.cached_tokens == closed(reusing, body["messages"])
    assert unsalted == answer == again == other


def test_an_empty_salt_is_none_and_one_too_long_is_refused(reusing):
    body = {"messages": [user("Is no salt a salt? " * 8)], "max_tokens": 1}
    ask(reusing, **body)
    assert ask(reusing, cache_salt="", **body)[1].cached_tokens == ask(reusing, **body)[1].cached_tokens > 0
    with pytest.raises(openai.BadRequestError) as error:
        ask(reusing, cache_salt=LONGEST + "s", **body)
    assert error.value.param == "cache_salt"


# A long shared beginning

@pytest.fixture(scope="module")
def rules(reusing):
    """A system message of more than 2,000 tokens that the server knows."""
    text = " ".join(f"Rule {i}: be kind to animal number {i * i % 97}." for i in range(1, 131))
    messages = [{"role": "system", "content": text}]
    assert ask(reusing, messages=[*messages, user("Hello")], max_tokens=1)[0].prompt_tokens > 2000
    return messages


def test_different_questions_behind_the_same_rules_reuse_them(reusing, plain, rules):
    bodies = [{"messages": [*rules, user(question)], "max_tokens": 8, "temperature": 0, "logprobs": True} for question in QUESTIONS[:3]]
    expected = [answer for answer, _ in ask_all(plain, bodies)]
    for body, known in zip(bodies, expected):
        answer, reuse = ask(reusing, **body)
        assert answer == known
        check_sums(reuse, answer.prompt_tokens)
        # Less is computed than the tokens between two states and the question.
        assert reuse.cached_tokens > answer.prompt_tokens - 256 - 64


def test_choices_share_a_prompt_that_is_counted_once(reusing, plain, rules):
    body = {"messages": [*rules, user("Tell me a story.")], "max_tokens": 12, "n": 3, "logprobs": True, **SAMPLED}
    answer, reuse = ask(reusing, **body)
    assert answer == said(plain, **body) and len(set(texts_of(answer))) == 3
    check_sums(reuse, answer.prompt_tokens)
    assert answer.prompt_tokens - 256 - 64 < reuse.cached_tokens < answer.prompt_tokens and answer.completion_tokens <= 36


def test_log_probabilities_of_a_prompt_are_computed_not_reused(reusing, plain):
    body = {"prompt": ids_of(5 * BLOCK + 9, seed=2), "temperature": 0, "max_tokens": 6}
    ask(reusing, **body)
    echo = {**body, "echo": True, "logprobs": 2}
    for max_tokens in (6, 0):
        answer, reuse = ask(reusing, **{**echo, "max_tokens": max_tokens})
        assert reuse == NOTHING and answer == said(plain, **{**echo, "max_tokens": max_tokens})
        assert len(answer.choices[0]["logprobs"]["token_logprobs"]) == len(body["prompt"]) + answer.completion_tokens
    # Without them nothing stands against reuse.
    assert ask(reusing, **{**echo, "logprobs": None})[1].cached_tokens == len(body["prompt"]) - 1


@pytest.mark.parametrize("penalties", [{"repetition_penalty": 1.4}, {"repetition_penalty": 0.5}, {"frequency_penalty": 1.5},
                                       {"presence_penalty": -2, "repetition_penalty": 2, "frequency_penalty": -1}], ids=str)
def test_penalties_count_the_tokens_that_were_reused(reusing, plain, penalties):
    body = {"messages": [user("Say again and again that the fox and the river and the fox are here. " * 6)], "max_tokens": 16,
            "logprobs": True, "top_logprobs": 2, "temperature": 0, "cache_salt": "penalties"}
    expected = said(plain, **body, **penalties)
    ask(reusing, **body)
    answer, reuse = ask(reusing, **body, **penalties)
    assert reuse.cached_tokens == closed(reusing, body["messages"]) > BLOCK
    assert answer == expected
    # Several at once: a step restores the tokens of one of them.
    assert [one for one, _ in ask_all(reusing, [{**body, **penalties}] * 4)] == [expected] * 4


# Crowds

THREADS = 24


def conversation_of(thread):
    """Four beginnings for all, long enough to have blocks of their own; every thread has questions in an order of its own."""
    system = {"role": "system", "content": f"You are helper {thread % 4}. " + "Keep to the point and be kind. " * 12}
    questions = [QUESTIONS[(thread + 2 * turn) % len(QUESTIONS)] for turn in range(2)]
    return {"messages": [system], "questions": questions, "max_tokens": 12 + thread % 5, "temperature": thread % 2, "seed": thread,
            "stream": thread % 3 == 0, "ignore_eos": thread % 4 == 0}


def leave_in_the_middle(server, i):
    """One client that goes when it has sent its request, and one that reads a few events or none before."""
    body = {"messages": [user(STORY + " Go on. " * i)], "max_tokens": 300, "ignore_eos": True}
    server.connect({**body, "stream": i % 2 == 0}, "/v1/chat/completions").close()
    with create(server, stream=True, **body) as stream:
        for _ in zip(range(i % 5), stream):
            pass


def test_overlapping_conversations_in_a_tiny_cache_say_what_they_say_without_one(plain, launch):
    server = launch(*REUSE, "--max-num-seqs", 8, "--max-model-len", 512, "--kv-cache-memory-bytes", page_mib(4))

    def speak(i):
        if i % 3 == 1:
            leave_in_the_middle(server, i)
        return talk(server, **conversation_of(i))

    with ThreadPoolExecutor(THREADS) as pool:
        spoken = list(pool.map(speak, range(THREADS)))
        expected = list(pool.map(lambda i: talk(plain, **conversation_of(i)), range(THREADS)))
    for here, there in zip(spoken, expected):
        assert [turn for turn, _ in here] == [turn for turn, _ in there]
    # Eight that run at once, begin in a page each and end in four; there are 16.
    crowd = {"prompt": [ids_of(48, seed=i) for i in range(8)], "max_tokens": 160, "ignore_eos": True, "logprobs": 1, **SAMPLED}
    assert said(server, **crowd) == said(plain, **crowd)
    wait_until(server.idle, "nobody is left: no request runs or waits, no page is used")
    now = server.metrics()
    assert now["weir:evicted_blocks_total"] > 0 and now["weir:evicted_checkpoints_total"] > 0
    assert now["vllm:num_preemptions_total"] > 0 and now["weir:recomputed_tokens_total"] > 0
    assert now["weir:prefix_reused_tokens_total"] > 0 and now["weir:pages_kept"] > 0


def test_what_was_evicted_is_said_to_be_lost(launch, plain):
    server = launch(*REUSE, "--max-num-seqs", 1, "--max-model-len", 512, "--kv-cache-memory-bytes", "12m")
    bodies = [{"prompt": ids_of(4 * BLOCK, seed=i), "max_tokens": 2, "temperature": 0, "logprobs": 1} for i in range(10, 20)]
    expected = [answer for answer, _ in ask_all(plain, bodies)]
    lost = 0
    for _ in range(2):
        for body, known in zip(bodies, expected):
            answer, reuse = ask(server, **body)
            assert answer == known
            check_sums(reuse, answer.prompt_tokens)
            lost += reuse.lost_to_eviction
    now = server.metrics()
    assert lost > 0 and now["weir:prefix_lost_to_eviction_tokens_total"] == lost
    assert now["weir:evicted_blocks_total"] > 0


# Metrics

def test_metrics_are_the_sums_of_what_answers_say(reusing):
    before = reusing.metrics()
    bodies = [{"prompt": ids_of(60 * i + 1, seed=3), "max_tokens": 2, "stream": i % 2 == 0} for i in (1, 3, 5, 3, 2, 5, 4, 6)]
    answers = [ask(reusing, **body) for body in bodies]
    now = reusing.metrics()
    total = Reuse(*(sum(values) for values in zip(*(reuse for _, reuse in answers))))
    prompts = sum(answer.prompt_tokens for answer, _ in answers)
    added = {name: now[name] - before[name] for name in now}
    for old in ("vllm:prefix_cache", "vllm:gpu_prefix_cache"):
        assert added[f"{old}_queries_total"] == prompts
        assert added[f"{old}_hits_total"] == total.cached_tokens > 0
    assert added["weir:prefix_reused_tokens_total"] == total.cached_tokens
    assert added["weir:prefix_matched_tokens_total"] == total.matched_tokens
    assert added["weir:prefix_lost_to_checkpoint_tokens_total"] == total.lost_to_checkpoint
    assert added["weir:prefix_lost_to_eviction_tokens_total"] == total.lost_to_eviction == 0
    assert added["vllm:generation_tokens_total"] == sum(answer.completion_tokens for answer, _ in answers)
    assert now["vllm:spec_decode_num_drafts_total"] == now["vllm:spec_decode_num_draft_tokens_total"] == 0
    assert reusing.idle() and now["weir:pages_kept"] > 0 and now["weir:checkpoints"] > 0


# The terminal

def test_a_chats_stats_say_how_much_of_each_prompt_was_reused(shipped):
    lines = "What is 2 + 3?\nAnd 4 + 4?\n/clear\nWhat is 2 + 3?\n"
    flags = ("chat", shipped, "--temperature", 0, "--max-tokens", 24)
    done = weir(*flags, *REUSE, "--stats", stdin=lines)
    assert done.returncode == 0, done.stderr
    counts = [(int(a), int(b)) for a, b in re.findall(r"^\[reused (\d+) of (\d+) prompt tokens\]$", done.stdout, re.MULTILINE)]
    (cold, first), (second, longer), (third, same) = counts
    assert cold == 0 < second < first == same < longer and third == second
    without = weir(*flags, "--no-enable-prefix-caching", "--stats", stdin=lines).stdout
    assert re.findall(r"reused (\d+)", without) == ["0"] * 3

    def answers(text):
        return [line for line in text.splitlines()[1:] if not line.startswith("[reused")]

    assert answers(done.stdout) == answers(without) == weir(*flags, stdin=lines).stdout.splitlines()[1:]
