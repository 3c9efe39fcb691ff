"""The official Python client against the shipped model."""
import openai
import pytest

from weir_program import ON_GPU, bounds_of

STORY = "Tell me a story about a fox and a river."


@pytest.fixture(scope="module")
def client(server):
    return server.openai()


@pytest.fixture(scope="module")
def ask(server, client):
    def create(text=STORY, **options):
        return client.chat.completions.create(model=server.model, messages=[{"role": "user", "content": text}], **options)

    return create


def joined(stream):
    """A stream's text, reasons and last usage."""
    text, reasons, usage = "", [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    return text, reasons, usage


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1, "seed": 11}, {"temperature": 0.7, "top_p": 0.8, "seed": 3}],
                         ids=["greedy", "seeded", "nucleus"])
def test_a_stream_says_what_the_whole_answer_says(ask, options):
    whole = ask(max_tokens=48, **options)
    text, reasons, usage = joined(ask(max_tokens=48, stream=True, stream_options={"include_usage": True}, **options))
    assert text == whole.choices[0].message.content and len(text) > 20
    assert reasons == [whole.choices[0].finish_reason]
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_the_seed_decides(ask):
    def answer(seed):
        return ask(max_tokens=32, temperature=1, seed=seed).choices[0].message.content

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(4)}) > 1


def test_an_answer_ends_by_itself_and_usage_counts_it(ask):
    answer = ask("What is 2 + 3?", temperature=0)
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.content
    assert "<|im_end|>" not in answer.choices[0].message.content
    assert answer.usage.completion_tokens < 64
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_logprobs_are_of_the_text_and_best_first(ask):
    answer = ask(max_tokens=24, temperature=0, logprobs=True, top_logprobs=5)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    assert b"".join(bytes(entry.bytes) for entry in entries).decode() == answer.choices[0].message.content
    for entry in entries:
        values = [top.logprob for top in entry.top_logprobs]
        assert len(values) == 5 and values == sorted(values, reverse=True)
        assert entry.logprob == values[0] <= 0  # greedy takes the best
        assert sum(2.718281828 ** value for value in values) <= 1.0001


def test_logprobs_are_raw_whatever_the_temperature(ask):
    def first(**options):
        return ask(max_tokens=1, logprobs=True, top_logprobs=3, **options).choices[0].logprobs.content[0].top_logprobs

    assert first(temperature=0) == first(temperature=2, seed=1) == first(temperature=1, top_p=0.1, presence_penalty=2)


def test_completion_logprobs_of_a_prompt_and_its_answer_join(shipped, server, client):
    prompt = "Once upon a time there was a"
    choice = client.completions.create(model=server.model, prompt=prompt, max_tokens=8, temperature=0, echo=True,
                                       logprobs=2).choices[0]
    assert choice.text.startswith(prompt)
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs[0] is None
    again = client.completions.create(model=server.model, prompt=choice.text, max_tokens=0, echo=True, logprobs=2).choices[0]
    if again.logprobs.tokens == choice.logprobs.tokens:
        first, second = choice.logprobs.token_logprobs[1:], again.logprobs.token_logprobs[1:]
        if not ON_GPU:
            # A row has the same bits as a part of the prompt and as a generated one.
            assert first == second
            return
        # On a GPU these are two families: each with the same bits, the two as far apart as both are from the truth.
        generated = choice.logprobs.text_offset.index(len(prompt)) - 1
        bounds = bounds_of(shipped)
        differences = [abs(a - b) for a, b in zip(first[generated:], second[generated:])]
        assert first[:generated] == second[:generated] and len(differences) == 8
        assert sum(differences) / 8 <= 2 * bounds.mean and max(differences) <= 2 * bounds.worst


def test_n_answers_differ_and_a_seed_repeats_them(ask):
    def three(seed):
        return [choice.message.content for choice in ask(max_tokens=24, n=3, temperature=1, seed=seed).choices]

    first = three(5)
    assert len(set(first)) == 3 and three(5) == first
    assert ask(max_tokens=24, temperature=1, seed=5).choices[0].message.content == first[0]


def test_stop_strings_cut_the_text(ask):
    whole = ask(max_tokens=48, temperature=0).choices[0].message.content
    words = whole.split()
    stop = words[5]
    for stream in (False, True):
        answer = ask(max_tokens=48, temperature=0, stop=[stop, "no such text"], stream=stream)
        if stream:
            text, reasons, _ = joined(answer)
        else:
            text, reasons = answer.choices[0].message.content, [answer.choices[0].finish_reason]
        assert text == whole[:whole.index(stop)] and reasons == ["stop"]


def test_thinking_is_switched_by_template_arguments(server):
    def rendered(**kwargs):
        return server.post("/tokenize", messages=[{"role": "user", "content": "Hi"}], chat_template_kwargs=kwargs).json()["tokens"]

    assert rendered(enable_thinking=True) != rendered(enable_thinking=False) == rendered()


def test_text_survives_the_tokenizer(server):
    for text in ("caf\u00e9 \u4f60\u597d \U0001f30d", "  a\n\n\tb  ", "<|im_end|>", "\u0000\u0001"):
        ids = server.post("/tokenize", prompt=text).json()["tokens"]
        assert server.post("/detokenize", tokens=ids, skip_special_tokens=False).json()["prompt"] == text


def test_the_model_is_listed_with_its_context(server, client):
    models = client.models.list().data
    assert [one.id for one in models] == [server.model]
    assert models[0].max_model_len > 1000
    assert client.models.retrieve(server.model).id == server.model
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_errors_become_the_clients_exceptions(server, client, ask):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="another", messages=[{"role": "user", "content": "hi"}])
    for options in ({"temperature": 3}, {"top_p": 0}, {"n": 17}, {"stop": ["a"] * 17}, {"top_logprobs": 21, "logprobs": True}):
        with pytest.raises(openai.BadRequestError) as error:
            ask(max_tokens=1, **options)
        assert error.value.param in options, error.value
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model=server.model, messages=[{"role": "user", "content": "hi"},
                                                                      {"role": "nobody", "content": "hi"}])
    assert "role" in str(error.value)  # the template's own words


@pytest.mark.parametrize("chat", [False, True])
def test_too_long_a_context_is_400_with_the_phrase_that_clients_look_for(server, client, chat):
    context = client.models.list().data[0].max_model_len
    with pytest.raises(openai.BadRequestError) as error:
        if chat:
            client.chat.completions.create(model=server.model, messages=[{"role": "user", "content": "a b " * context}])
        else:
            client.completions.create(model=server.model, prompt=[11] * context, max_tokens=1)
    assert "maximum context length" in str(error.value) and str(context) in str(error.value)
    assert error.value.code == "context_length_exceeded"


def test_a_context_is_used_to_its_last_token(launch):
    server = launch("--max-model-len", 128)
    for prompt, tokens in ((127, 1), (100, 28), (1, 127)):
        choice = server.complete([11] * prompt, max_tokens=tokens, ignore_eos=True, return_token_ids=True)
        assert len(choice["token_ids"]) == tokens and choice["finish_reason"] == "length"
    assert server.post("/v1/completions", prompt=[11] * 100, max_tokens=29).status_code == 400
    answer = server.post("/v1/chat/completions", messages=[{"role": "user", "content": "Tell me a story"}], ignore_eos=True)
    assert answer.json()["usage"]["total_tokens"] == 128
    assert answer.json()["choices"][0]["finish_reason"] == "length"


def test_padded_vocabulary_ids_are_never_sampled(server):
    size = server.http.get("/tokenizer_info").json()
    answer = server.post("/v1/completions", prompt="a", max_tokens=64, temperature=2, top_k=0, top_p=1, ignore_eos=True,
                         return_token_ids=True, seed=1, n=8)
    ids = [id for choice in answer.json()["choices"] for id in choice["token_ids"]]
    assert len(ids) == 512
    vocabulary = next(value for key, value in size.items() if "vocab" in key)
    assert max(ids) < vocabulary


def test_a_prompt_may_be_text_ids_or_a_list_of_either(server, client):
    ids = server.post("/tokenize", prompt="Once upon").json()["tokens"]
    texts = [client.completions.create(model=server.model, prompt=prompt, max_tokens=6, temperature=0).choices
             for prompt in ("Once upon", ids, ["Once upon"] * 2, [ids, ids])]
    assert [len(choices) for choices in texts] == [1, 1, 2, 2]
    assert len({choice.text for choices in texts for choice in choices}) == 1
