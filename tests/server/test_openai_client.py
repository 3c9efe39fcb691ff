"""The official Python client, streaming and not."""
import openai
import pytest

from conftest import sse_events

# Whatever the model's own defaults are, answers drawn like this differ.
WILD = {"temperature": 2, "top_p": 1, "extra_body": {"top_k": -1, "min_p": 0, "ignore_eos": True}}
TEXT = "Gr\u00fc\u00dfe, \u4f60\u597d \U0001f30d! the thing"


def chat(client, model, text, **options):
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)


@pytest.mark.sim
def test_an_answer_is_what_the_prompt_says_and_ends_with_stop(client, model):
    answer = chat(client, model, "say:" + TEXT)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", TEXT, "stop")
    assert answer.object == "chat.completion" and answer.model == model and answer.id.startswith("chatcmpl-")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 <= usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens


@pytest.mark.sim
def test_a_stream_adds_up_to_the_whole_answer(client, model):
    chunks = list(chat(client, model, "say:" + TEXT, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == TEXT
    assert all("\ufffd" not in (c.choices[0].delta.content or "") for c in chunks)
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
    assert len({(c.id, c.created, c.model) for c in chunks}) == 1
    assert all(c.usage is None for c in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_answer_says_length(client, model, stream):
    answer = chat(client, model, "Tell me everything.", max_tokens=3, stream=stream)
    if stream:
        reasons = [c.choices[0].finish_reason for c in answer if c.choices and c.choices[0].finish_reason]
    else:
        reasons = [answer.choices[0].finish_reason]
        assert answer.usage.completion_tokens == 3
    assert reasons == ["length"]


def test_max_completion_tokens_is_stronger_than_max_tokens(client, model):
    answer = chat(client, model, "Tell me everything.", max_tokens=9, max_completion_tokens=2)
    assert answer.usage.completion_tokens == 2


def test_usage_comes_last_and_only_on_request(client, model):
    chunks = list(chat(client, model, "hello", max_tokens=4, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 4
    assert all(c.usage is None for c in chunks[:-1])


def test_continuous_usage_stats_count_up(client, model):
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(chat(client, model, "hello", max_tokens=4, stream=True, stream_options=options))
    counts = [c.usage.completion_tokens for c in chunks]
    assert counts == sorted(counts) and counts[-1] == 4


def test_the_stream_has_its_headers_and_ends_with_done(server, model):
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": True}
    answer = server.post("/v1/chat/completions", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache" and answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["transfer-encoding"] == "chunked"
    events = sse_events(answer.text)
    assert events[-1] == "[DONE]"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


@pytest.mark.parametrize("stream", [False, True])
def test_n_answers_differ_and_a_seed_repeats_them(client, model, stream):
    def ask():
        answer = chat(client, model, "Tell me everything.", max_tokens=24, n=3, seed=7, stream=stream, **WILD)
        texts = ["", "", ""]
        finished = []
        if not stream:
            return [c.message.content for c in sorted(answer.choices, key=lambda c: c.index)]
        for chunk in answer:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                finished += [choice.index] if choice.finish_reason else []
        assert sorted(finished) == [0, 1, 2]
        return texts

    first = ask()
    assert len(set(first)) == 3 and ask() == first
    alone = chat(client, model, "Tell me everything.", max_tokens=24, seed=7, **WILD)
    assert alone.choices[0].message.content == first[0]


def test_without_a_seed_answers_differ(client, model):
    texts = {chat(client, model, "Tell me everything.", max_tokens=24, **WILD).choices[0].message.content
             for _ in range(8)}
    assert len(texts) > 4  # a real model says the likeliest thing more than once


STOPS = [
    ("one STOP two", ["STOP"], "one ", "STOP"),
    ("one STO two", ["STOP"], "one STO two", None),
    ("one STO", ["STOP"], "one STO", None),
    ("abcabd end", ["abd"], "abc", "abd"),
    ("the thing!!!", ["hin", "!"], "the t", "hin"),
    ("x\n\ny", ["\n"], "x", "\n"),
    ("\u4f60\u597d\u5417", ["\u597d"], "\u4f60", "\u597d"),
    ("abcd", ["cd", "bcd", "d"], "a", "bcd"),
]


@pytest.mark.sim
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("said,stops,expected,reason", STOPS)
def test_stop_strings_end_the_text_wherever_tokens_end(client, model, said, stops, expected, reason, stream):
    stop = stops[0] if len(stops) == 1 else stops
    answer = chat(client, model, "say:" + said, stop=stop, stream=stream)
    if stream:
        chunks = list(answer)
        text = "".join(c.choices[0].delta.content or "" for c in chunks)
        assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]
        assert chunks[-1].choices[0].stop_reason == reason
    else:
        text = answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop" and answer.choices[0].stop_reason == reason
    assert text == expected


@pytest.mark.sim
def test_a_stop_string_may_stay_and_min_tokens_puts_it_off(client, model):
    kept = chat(client, model, "say:one STOP two", stop="STOP", extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].message.content == "one STOP"
    late = chat(client, model, "say:a.b.c.d", stop=".", extra_body={"min_tokens": 4})
    assert late.choices[0].message.content == "a.b.c"


@pytest.mark.sim
def test_stop_token_ids_and_ignore_eos(client, model):
    ended = chat(client, model, "say:abc", extra_body={"stop_token_ids": [ord("b")]})
    assert (ended.choices[0].message.content, ended.choices[0].stop_reason) == ("a", ord("b"))
    longer = chat(client, model, "say:abc", max_tokens=10, extra_body={"ignore_eos": True})
    assert longer.usage.completion_tokens == 10 and longer.choices[0].finish_reason == "length"
    assert "<|im_end|>" not in longer.choices[0].message.content
    shown = chat(client, model, "say:abc", max_tokens=10, extra_body={"ignore_eos": True, "skip_special_tokens": False})
    assert shown.choices[0].message.content.startswith("abc<|im_end|>")
    later = chat(client, model, "say:abc", max_tokens=10, extra_body={"min_tokens": 6})
    assert later.usage.completion_tokens >= 6


@pytest.mark.sim
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stop", [None, "thing"])
def test_chat_logprobs_add_up_to_the_text(client, model, stream, stop):
    answer = chat(client, model, "say:" + TEXT, logprobs=True, top_logprobs=3, stream=stream, stop=stop)
    if stream:
        chunks = [c.choices[0] for c in answer]
        text = "".join(c.delta.content or "" for c in chunks)
        entries = [e for c in chunks if c.logprobs for e in c.logprobs.content]
    else:
        text = answer.choices[0].message.content
        entries = answer.choices[0].logprobs.content
        if stop is None:
            assert len(entries) == answer.usage.completion_tokens
    assert text == (TEXT if stop is None else TEXT.replace("thing", ""))
    assert "".join(e.token for e in entries) == text
    if stop is None:
        assert b"".join(bytes(e.bytes) for e in entries if e.bytes).decode() == text
    for entry in entries:
        assert -9999 <= entry.logprob <= 0 and len(entry.top_logprobs) == 3
        values = [t.logprob for t in entry.top_logprobs]
        assert values == sorted(values, reverse=True)


def test_logit_bias_has_its_effect(client, model):
    answer = chat(client, model, "hello", max_tokens=5, logit_bias={"65": 100}, temperature=0,
                  extra_body={"return_token_ids": True})
    assert answer.choices[0].token_ids == [65] * 5


@pytest.mark.parametrize("stream", [False, True])
def test_return_token_ids(client, server, model, stream):
    answer = chat(client, model, "hello", max_tokens=5, stream=stream, extra_body={"return_token_ids": True})
    rendered = server.post("/tokenize", {"messages": [{"role": "user", "content": "hello"}]}).json()["tokens"]
    if stream:
        chunks = [c.choices[0] for c in answer]
        assert chunks[0].prompt_token_ids == rendered
        assert sum((getattr(c, "token_ids", []) for c in chunks), []) and len(
            sum((getattr(c, "token_ids", []) for c in chunks), [])) == 5
    else:
        assert answer.choices[0].prompt_token_ids == rendered
        assert len(answer.choices[0].token_ids) == answer.usage.completion_tokens


def test_errors_map_to_the_clients_exceptions(client, model):
    with pytest.raises(openai.NotFoundError) as unknown:
        chat(client, "no-such-model", "hi")
    assert unknown.value.code == "model_not_found" and unknown.value.param == "model"
    with pytest.raises(openai.BadRequestError) as bad:
        chat(client, model, "hi", temperature=3)
    assert bad.value.param == "temperature" and bad.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as long:
        chat(client, model, "x" * 70000 if model == "sim" else "word " * 300000)
    assert long.value.code == "context_length_exceeded"
    assert "maximum context length is" in long.value.message


def test_models_are_listed(client, model):
    listed = client.models.list().data
    assert [m.id for m in listed][0] == model and listed[0].max_model_len > 0
    assert client.models.retrieve(model).id == model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other/model")


@pytest.mark.sim
def test_content_may_be_a_list_of_text_parts(client, model):
    parts = [{"type": "text", "text": "first"}, {"type": "text", "text": "say:second"}]
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == "second"


@pytest.mark.sim
def test_template_arguments_reach_the_template(server):
    def tokens(**more):
        body = {"messages": [{"role": "user", "content": "hi"}], **more}
        ids = server.post("/tokenize", body).json()["tokens"]
        return server.post("/detokenize", {"tokens": ids}).json()["prompt"]

    assert tokens() == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert tokens(add_generation_prompt=False) == "<|im_start|>user\nhi<|im_end|>\n"
    assert "<think>" in tokens(chat_template_kwargs={"enable_thinking": True})


@pytest.mark.sim
def test_the_last_message_can_be_continued(server):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "I was"}]
    body = {"messages": messages, "continue_final_message": True}
    ids = server.post("/tokenize", body).json()["tokens"]
    assert server.post("/detokenize", {"tokens": ids}).json()["prompt"].endswith("assistant\nI was")


def test_rendering_gives_the_ids_without_running(server, client, model):
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    rendered = server.post("/v1/chat/completions/render", body).json()
    assert rendered["token_ids"] == server.post("/tokenize", {"messages": body["messages"]}).json()["tokens"]
    two = server.post("/v1/completions/render", {"prompt": ["a", "bc"]}).json()
    assert [one["count"] for one in two] == [len(one["token_ids"]) for one in two] and len(two) == 2
