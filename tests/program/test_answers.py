"""Stored prompts give their stored answers, token for token (tools/record_answers.py stored them)."""
import concurrent.futures
import json

import pytest

from weir_program import ROOT, weir

PATH = ROOT / "tests/data/answers.json"


@pytest.fixture(scope="module")
def stored(shipped):
    assert PATH.is_file(), f"{PATH} is missing: tools/record_answers.py makes it"
    return json.loads(PATH.read_text())


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
