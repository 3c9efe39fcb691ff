"""/v1/completions: prompts in every form, echo, log-probabilities, max_tokens 0."""
import pytest

from conftest import sse_events

TEXT = "Gr\u00fc\u00dfe the end"


def complete(server, prompt, **options):
    answer = server.post("/v1/completions", {"prompt": prompt, **options})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_max_tokens_defaults_to_16(server):
    answer = complete(server, "Tell me everything")
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert answer["usage"]["completion_tokens"] <= 16
    if answer["usage"]["completion_tokens"] == 16:
        assert answer["choices"][0]["finish_reason"] == "length"


def test_the_four_forms_of_a_prompt_agree(server):
    text = "hello there"
    ids = server.post("/tokenize", {"prompt": text}).json()["tokens"]
    options = {"max_tokens": 6, "temperature": 0}
    as_text = complete(server, text, **options)
    for prompt in ([text], ids, [ids]):
        answer = complete(server, prompt, **options)
        assert [c["text"] for c in answer["choices"]] == [c["text"] for c in as_text["choices"]]
        assert answer["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.sim
def test_several_prompts_and_n_give_choices_in_order(server):
    answer = complete(server, ["say:a", "say:b", "say:c"], n=2)
    assert [(c["index"], c["text"]) for c in answer["choices"]] == list(enumerate("aabbcc"))
    assert answer["usage"]["prompt_tokens"] == 15 and answer["usage"]["completion_tokens"] == 12


@pytest.mark.parametrize("stream", [False, True])
def test_max_tokens_0_with_echo_scores_the_prompt(server, stream):
    body = {"prompt": "The quick fox", "max_tokens": 0, "echo": True, "logprobs": 1, "stream": stream}
    answer = server.post("/v1/completions", body)
    if stream:
        parts = [e["choices"][0] for e in sse_events(answer.text)[:-1]]
        text = "".join(p["text"] for p in parts)
        tokens = sum((p["logprobs"]["tokens"] for p in parts), [])
        values = sum((p["logprobs"]["token_logprobs"] for p in parts), [])
        reasons = [p["finish_reason"] for p in parts if p["finish_reason"]]
    else:
        choice = answer.json()["choices"][0]
        text, reasons = choice["text"], [choice["finish_reason"]]
        tokens, values = choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]
        assert answer.json()["usage"]["completion_tokens"] == 0
    assert text == "The quick fox" == "".join(tokens) and reasons == ["length"]
    assert values[0] is None and all(isinstance(v, float | int) and v <= 0 for v in values[1:])


def test_max_tokens_0_without_echo_is_empty(server):
    choice = complete(server, "The quick fox", max_tokens=0)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("", "length")


@pytest.mark.sim
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("echo", [False, True])
def test_logprobs_follow_the_text(server, echo, stream):
    body = {"prompt": "say:" + TEXT, "max_tokens": 40, "logprobs": 3, "echo": echo, "stream": stream}
    answer = server.post("/v1/completions", body)
    parts = [e["choices"][0] for e in sse_events(answer.text)[:-1]] if stream else answer.json()["choices"]
    text = "".join(p["text"] for p in parts)
    assert text == ("say:" + TEXT + TEXT if echo else TEXT)
    columns = {k: sum((p["logprobs"][k] for p in parts), []) for k in parts[0]["logprobs"]}
    assert len({len(c) for c in columns.values()}) == 1
    assert "".join(columns["tokens"]) == text
    for offset, token in zip(columns["text_offset"], columns["tokens"]):
        assert text[offset:offset + len(token)] == token
    for i, (value, top) in enumerate(zip(columns["token_logprobs"], columns["top_logprobs"])):
        if echo and i == 0:
            assert value is None and top is None
        else:
            assert value in top.values() and len(top) <= 4


@pytest.mark.sim
def test_a_scoring_client_gets_what_it_slices(server):
    """lm-eval sends echo, max_tokens 1 and logprobs 1, and drops the last entry as the generated one."""
    ids = server.post("/tokenize", {"prompt": "some context and an answer"}).json()["tokens"]
    logprobs = complete(server, [ids], echo=True, max_tokens=1, logprobs=1, temperature=0)["choices"][0]["logprobs"]
    assert len(logprobs["token_logprobs"]) == len(ids) + 1
    for value, top in list(zip(logprobs["token_logprobs"], logprobs["top_logprobs"]))[1:-1]:
        assert value == max(top.values())


def test_token_ids_of_each_choice(server):
    ids = server.post("/tokenize", {"prompt": "hello"}).json()["tokens"]
    answer = complete(server, [ids], max_tokens=3, return_token_ids=True, ignore_eos=True)
    assert answer["choices"][0]["prompt_token_ids"] == ids and len(answer["choices"][0]["token_ids"]) == 3


def test_truncation_keeps_the_end_of_the_prompt(server):
    ids = server.post("/tokenize", {"prompt": "hello there"}).json()["tokens"]
    answer = complete(server, ids, max_tokens=1, truncate_prompt_tokens=4, return_token_ids=True)
    assert answer["choices"][0]["prompt_token_ids"] == ids[-4:]


def test_tokenize_and_detokenize_are_inverse(server):
    for key in ("prompt", "content"):
        answer = server.post("/tokenize", {key: TEXT, "return_token_strs": True}).json()
        assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"]) and answer["max_model_len"] > 0
        assert server.post("/detokenize", {"tokens": answer["tokens"]}).json()["prompt"] == TEXT


def test_tokenizer_info_has_what_remote_tokenization_reads(server):
    info = server.http.get("/tokenizer_info").json()
    assert info["eos_token"] and info["vocab_size"] > 0 and "chat_template" in info and info["model_max_length"] > 0


@pytest.mark.parametrize("body,param", [
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [["a"]]}, "prompt"),
    ({"prompt": [1 << 29]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": ["a"] * 129}, "prompt"),
    ({"prompt": ["a"] * 100, "n": 16}, "prompt"),
    ({}, "prompt"),
    ({"prompt": "a", "stop_token_ids": [1 << 29]}, "stop_token_ids"),
    ({"prompt": "a", "logit_bias": {str(1 << 29): 1}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
    ({"prompt": "a", "logit_bias": {"1": 101}}, "logit_bias"),
    ({"prompt": "a", "min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ({"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ({"prompt": "a", "stream": True, "stream_options": {"include_usage": 1}}, "stream_options"),
    ({"prompt": "a", "max_tokens": 2000000000}, "max_tokens"),
])
def test_what_cannot_work_is_400_and_names_its_field(server, body, param):
    answer = server.post("/v1/completions", body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("messages", [
    [], "hi", [{"content": "no role"}], [{"role": "user", "content": 5}], [{"role": 1}], ["hi"],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
    [{"role": "user", "content": [{"type": "text"}]}],
])
def test_messages_that_are_none_are_400(server, messages):
    answer = server.post("/v1/chat/completions", {"messages": messages})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"
