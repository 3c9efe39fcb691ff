"""Boundary values of every field, generated from the server's own table."""
import json

import pytest

from conftest import sim_output

TABLE = json.loads(sim_output("--print-api-table"))
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions", "tokenize": "/tokenize",
         "detokenize": "/detokenize"}
BASE = {"chat": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1},
        "completions": {"prompt": "hi", "max_tokens": 1}, "tokenize": {"prompt": "hi"}, "detokenize": {"tokens": [65]}}
# Fields that only make sense beside others.
WITH = {"top_logprobs": {"logprobs": True}, "continue_final_message": {"add_generation_prompt": False},
        "stream_options": {"stream": True}}
WRONG = {"true or false": [1, "true", [], {}], "an integer": [True, "1", 1.5, [], {}], "a number": [True, "1", [], {}],
         "a string": [1, True, [], {}], "a string or a list of strings": [1, [1], {}, "", [""]],
         "a list of integers": [1, "a", ["a"], [1.5], [True], {}], "an object": [1, "a", []],
         "an object of token ids and numbers": [1, [], {"a": 1}, {"1": "a"}, {"-1": 1}]}
HUGE = [2**31, 2**63, -2**63 - 1, 2**64, 1e308, -1e308]
CASES = [(endpoint, field) for field in TABLE for endpoint in field["endpoints"]]
IDS = [f"{endpoint}-{field['name']}" for endpoint, field in CASES]


def ask(server, endpoint, name, value):
    body = {**BASE[endpoint], **WITH.get(name, {}), name: value}
    if name == "messages" and endpoint == "tokenize":
        body.pop("prompt")
    return server.post(PATHS[endpoint], body)


def refused(answer, name, value):
    assert answer.status_code == 400, f"{name} = {value!r}: {answer.status_code} {answer.text}"
    error = answer.json()["error"]
    assert error["param"] == name and error["type"] == "invalid_request_error" and error["code"], error


def accepted(answer, name, value):
    assert answer.status_code == 200, f"{name} = {value!r}: {answer.status_code} {answer.text}"


def test_the_table_has_every_field_of_the_api():
    names = {(e, f["name"]) for e, f in CASES}
    for name in """messages model max_tokens max_completion_tokens temperature top_p top_k min_p n seed stop
            stop_token_ids min_tokens ignore_eos presence_penalty frequency_penalty repetition_penalty logit_bias logprobs
            top_logprobs tools tool_choice parallel_tool_calls response_format stream stream_options reasoning_effort
            chat_template_kwargs add_generation_prompt continue_final_message skip_special_tokens truncate_prompt_tokens
            return_token_ids priority cache_salt prompt_cache_key session_id request_id thinking_token_budget user store
            metadata service_tier safety_identifier verbosity""".split():
        assert ("chat", name) in names, name
    assert {("completions", "prompt"), ("completions", "echo"), ("completions", "logprobs")} <= names


@pytest.mark.parametrize("endpoint,field", CASES, ids=IDS)
def test_wrong_types_are_refused_and_null_is_absent(server, endpoint, field):
    name = field["name"]
    if field["effect"] == "unsupported":
        return
    for value in WRONG.get(field["type"], []):
        refused(ask(server, endpoint, name, value), name, value)
    if field["default"] != "required" and name != "prompt":
        accepted(ask(server, endpoint, name, None), name, None)


@pytest.mark.parametrize("endpoint,field", [c for c in CASES if c[1]["type"] in ("an integer", "a number")],
                         ids=[i for i, c in zip(IDS, CASES) if c[1]["type"] in ("an integer", "a number")])
def test_ranges_hold_at_their_ends(server, endpoint, field):
    name, low, high = field["name"], field["min"], field["max"]
    whole = field["type"] == "an integer"
    low, high = (int(low), int(high)) if whole else (low, high)
    outside = [high * 1.001 + 0.001, *HUGE] if not whole else [low - 1, high + 1, *[h for h in HUGE if not low <= h < high]]
    outside += [] if whole else [low - 0.001]
    for value in outside:
        refused(ask(server, endpoint, name, value), name, value)
    if field["min_exclusive"]:
        refused(ask(server, endpoint, name, low), name, low)
        inside = [1e-300, high]
    else:
        inside = [low, high - 1 if name == "seed" else high]
    for value in inside:
        answer = ask(server, endpoint, name, value)
        # Lengths within the type's range may still not fit this model's context.
        if name in ("max_tokens", "max_completion_tokens", "min_tokens") and value == high:
            refused(answer, name, value)
        else:
            accepted(answer, name, value)


@pytest.mark.parametrize("endpoint,field", [c for c in CASES if "count_max" in c[1]],
                         ids=[i for i, c in zip(IDS, CASES) if "count_max" in c[1]])
def test_counts_hold_at_their_ends(server, endpoint, field):
    name, most = field["name"], field["count_max"]
    make = {"a string": lambda n: "x" * n, "a string or a list of strings": lambda n: [f"~{i}~" for i in range(n)],
            "a list of integers": lambda n: [65] * n, "an object": lambda n: {f"k{i}": 1 for i in range(n)},
            "an object of token ids and numbers": lambda n: {str(i % 256) if i < 256 else f"0{i - 256}": 0 for i in range(n)}}
    if field["type"] not in make:
        return
    refused(ask(server, endpoint, name, make[field["type"]](most + 1)), name, f"{most + 1} items")
    if name != "model":
        accepted(ask(server, endpoint, name, make[field["type"]](most)), name, f"{most} items")


@pytest.mark.parametrize("endpoint,field", [c for c in CASES if c[1]["effect"] == "unsupported"],
                         ids=[i for i, c in zip(IDS, CASES) if c[1]["effect"] == "unsupported"])
def test_unsupported_fields_are_refused_unless_they_ask_for_nothing(server, endpoint, field):
    name = field["name"]
    for value in [{"type": "json_object"}, "auto", 7, True, ["x"]]:
        if value not in field["neutral"]:
            refused(ask(server, endpoint, name, value), name, value)
    for value in [None, *field["neutral"]]:
        accepted(ask(server, endpoint, name, value), name, value)


@pytest.mark.parametrize("endpoint,field", [c for c in CASES if c[1]["effect"] == "accepted"],
                         ids=[i for i, c in zip(IDS, CASES) if c[1]["effect"] == "accepted"])
def test_accepted_fields_take_anything(server, endpoint, field):
    for value in ["x", 1, True, {"a": [1]}, []]:
        accepted(ask(server, endpoint, field["name"], value), field["name"], value)


def test_unknown_fields_are_listed_or_refused(server, launch):
    body = {**BASE["chat"], "no_such_field": 1, "another": {"a": 1}}
    answer = server.post(PATHS["chat"], body)
    assert answer.status_code == 200 and answer.headers["x-weir-ignored-fields"] == "no_such_field, another"
    assert "x-weir-ignored-fields" not in server.post(PATHS["chat"], BASE["chat"]).headers
    strict = launch("--strict-params")
    refused(strict.post(PATHS["chat"], body), "no_such_field", 1)
    assert strict.post(PATHS["chat"], BASE["chat"]).status_code == 200


def test_the_documentation_is_the_table():
    from conftest import ROOT
    assert sim_output("--print-api-docs") in (ROOT / "docs/api.md").read_text(), \
        "run `server_sim --print-api-docs` and put its output into docs/api.md"
