"""Questions asked through the official client, and answers in a form that two servers can be compared by."""
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

# Request fields that the client does not know: they travel in its extra_body.
OURS = {"add_generation_prompt", "cache_salt", "continue_final_message", "ignore_eos", "include_stop_str_in_output", "min_p",
        "min_tokens", "priority", "repetition_penalty", "return_token_ids", "skip_special_tokens", "stop_token_ids", "top_k",
        "truncate_prompt_tokens"}


class Said(NamedTuple):
    choices: tuple  # of each: text, ids, log-probabilities, why it ended; neither a cache nor drafts may change them
    prompt_tokens: int
    completion_tokens: int


class Reuse(NamedTuple):
    cached_tokens: int
    matched_tokens: int
    lost_to_checkpoint: int
    lost_to_eviction: int


def user(text):
    return {"role": "user", "content": text}


def create(server, stream=False, **body):
    """The client's answer: of a chat if there are messages, else of a completion. Token ids always come with it."""
    client = server.openai()
    extra = {"return_token_ids": True, **{name: body.pop(name) for name in OURS & body.keys()}}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    endpoint = client.chat.completions if "messages" in body else client.completions
    return endpoint.create(model=server.model, extra_body=extra, **body)


def ask(server, **body):
    """What was said and what of the prompt was reused; a stream's pieces are joined."""
    answer = create(server, **body)
    answers = [answer.model_dump()] if not body.get("stream") else [chunk.model_dump() for chunk in answer]
    joined, usage = {}, None
    for one in answers:
        usage = one["usage"] or usage
        for choice in one["choices"]:
            nothing = {"text": "", "ids": [], "logprobs": {}, "reasons": [], "stop": None}
            _join(joined.setdefault(choice["index"], nothing), choice)
    choices = tuple(joined[index] for index in sorted(joined))
    assert all(len(choice["reasons"]) == 1 for choice in choices), choices
    return Said(choices, usage["prompt_tokens"], usage["completion_tokens"]), Reuse(
        **{name: usage["prompt_tokens_details"][name] for name in Reuse._fields})


def _join(whole, part):
    spoken = part.get("message") or part.get("delta") or {}
    whole["text"] += part.get("text") or spoken.get("content") or ""
    whole["ids"] += part.get("token_ids") or []
    for name, values in (part["logprobs"] or {}).items():
        whole["logprobs"].setdefault(name, []).extend(values or [])
    if part["finish_reason"]:
        whole["reasons"].append(part["finish_reason"])
        whole["stop"] = part.get("stop_reason")


def said(server, **body):
    return ask(server, **body)[0]


def texts_of(said):
    return [choice["text"] for choice in said.choices]


def ask_all(server, bodies, threads=4):
    """Answers to all of them, a few at a time."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda body: ask(server, **body), bodies))


def talk(server, questions, messages=(), **options):
    """A conversation with the server's own answers: what was said and reused in each turn. Options may depend on the turn."""
    messages, turns = list(messages), []
    for turn, question in enumerate(questions):
        messages.append(user(question))
        now = {name: value(turn) if callable(value) else value for name, value in options.items()}
        turns.append(ask(server, messages=messages, **now))
        messages.append({"role": "assistant", "content": turns[-1][0].choices[0]["text"]})
    return turns
