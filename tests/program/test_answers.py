"""Stored prompts give their stored answers, token for token (tools/record_answers.py stored them on a CPU)."""
import concurrent.futures
import json

import pytest

from weir_program import ON_GPU, ROOT, bounds_of, weir

PATH = ROOT / "tests/data/answers.json"


@pytest.fixture(scope="module")
def stored(shipped, server):
    assert PATH.is_file(), f"{PATH} is missing: tools/record_answers.py makes it"
    answers = json.loads(PATH.read_text())
    return [answer_of_the_gpu(server, answer, bounds_of(shipped).gap) for answer in answers] if ON_GPU else answers


def answer_of_the_gpu(server, stored, gap_max):
    """What the server says alone: the stored tokens, or others from a place on where the two likeliest are nearly equal."""
    messages = [{"role": "user", "content": stored["prompt"]}]
    choice = server.post("/v1/chat/completions", messages=messages, temperature=0, max_tokens=stored["max_tokens"],
                         return_token_ids=True).json()["choices"][0]
    prompt = server.post("/tokenize", messages=messages).json()["tokens"]
    scored = server.complete(prompt + stored["token_ids"], echo=True, max_tokens=0, logprobs=2)["logprobs"]["top_logprobs"]
    for i, (ours, theirs) in enumerate(zip(choice["token_ids"], stored["token_ids"])):
        if ours != theirs:
            best, second = sorted(scored[len(prompt) + i].values(), reverse=True)[:2]
            assert best - second <= gap_max, f"{stored['prompt']}: token {i} is {ours}, not {theirs}"
            break
    else:
        assert choice["token_ids"] == stored["token_ids"]
    return {**stored, "token_ids": choice["token_ids"], "text": choice["message"]["content"]}


def test_the_command_gives_the_stored_answers(shipped, stored):
    assert len(stored) >= 10
    for answer in stored:
        done = weir("run", shipped, answer["prompt"], "--temperature", 0, "--max-tokens", answer["max_tokens"],
                    "--print-token-ids")
        text, _, ids = done.stdout.rpartition("\ntoken ids: ")
        assert done.returncode == 0, done.stderr
        assert [int(id) for id in ids.split()] == answer["token_ids"], answer["prompt"]
        assert text == answer["text"]


def test_the_server_gives_the_stored_answers_all_at_once(server, stored):
    def ask(answer):
        done = server.post("/v1/chat/completions", messages=[{"role": "user", "content": answer["prompt"]}], temperature=0,
                           max_tokens=answer["max_tokens"], return_token_ids=True)
        assert done.status_code == 200, done.text
        return done.json()["choices"][0]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        choices = list(pool.map(ask, stored))
    for answer, choice in zip(stored, choices):
        assert choice["token_ids"] == answer["token_ids"], answer["prompt"]
        assert choice["message"]["content"] == answer["text"]
        assert choice["finish_reason"] == ("length" if len(answer["token_ids"]) == answer["max_tokens"] else "stop")
