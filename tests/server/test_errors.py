"""Status codes, error bodies, headers and keys."""
import json
import re

import pytest

from conftest import raw_request, sim_output

ROUTES = json.loads(sim_output("--print-routes"))
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


def check_error(answer, status, code=None, param=None):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert error["param"] == param and (code is None or error["code"] == code)
    assert not re.search(r"0x[0-9a-f]{6,}|/(home|work|tmp|usr|dev)/", answer.text), "the error leaks an address or a path"
    return error


BAD_JSON = [b"", b"{", b"[]", b"null", b"1", b'"a"', b'{"a":1,}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e999}',
            b'{"a":"\xff"}', b'{"a":"\xc3"}', b'{"a":"\xed\xa0\x80"}', b'{"a":"\\ud800"}', b'{"a":"\x00"}',
            b'{"messages":[],"messages":[]}', b'{"a":{"b":1,"b":2}}', b'{"a":' + b"[" * 1000000,
            b'{"a":' + b"[" * 65 + b"]" * 65 + b"}", b'{"a":' + b'{"a":' * 100000, b"\x00", b'{"a":1} x']


@pytest.mark.parametrize("body", BAD_JSON, ids=range(len(BAD_JSON)))
def test_bodies_that_are_not_json_objects_are_400(server, body):
    for path in (CHAT, "/v1/completions", "/tokenize", "/detokenize"):
        answer = server.http.post(path, content=body, headers={"Content-Type": "application/json"})
        check_error(answer, 400, "invalid_json")


def test_a_huge_number_of_values_is_400(server):
    body = b'{"a":[' + b"[]," * 300000 + b"[]]}"
    check_error(server.http.post(CHAT, content=body), 400, "invalid_json")


def test_paths_methods_and_media_types(server):
    check_error(server.http.get("/nothing"), 404, "unknown_path")
    answer = server.http.get(CHAT)
    check_error(answer, 405, "method_not_allowed")
    assert "POST" in answer.headers["allow"]
    check_error(server.http.post("/health"), 405)
    check_error(server.http.post(CHAT, content=b"a=1", headers={"Content-Type": "text/plain"}), 415)
    check_error(server.http.post(CHAT, content=b"x", headers={"Content-Encoding": "gzip"}), 415)
    assert server.http.post(CHAT, content=json.dumps(BODY), headers={"Content-Type": "application/json; charset=utf-8"}).status_code == 200


def test_unprefixed_names_work(server):
    assert server.post("/chat/completions", BODY).status_code == 200
    assert server.post("/completions", {"prompt": "a"}).status_code == 200
    assert server.http.get("/models").json() == server.http.get("/v1/models").json()


def test_request_ids_come_back(server):
    assert server.http.get("/live", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert server.post(CHAT, BODY, headers={"x-request-id": "abc-2"}).headers["x-request-id"] == "abc-2"
    assert server.post(CHAT, {}, headers={"x-request-id": "abc-3"}).headers["x-request-id"] == "abc-3"
    made = {server.http.get("/live").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    assert server.http.get("/live", headers={"x-request-id": "a" * 300}).headers["x-request-id"] != "a" * 300
    stream = server.post(CHAT, {**BODY, "stream": True}, headers={"x-request-id": "abc-4"})
    assert stream.headers["x-request-id"] == "abc-4"
    assert server.post(CHAT, {**BODY, "request_id": "mine"}).json()["id"] == "chatcmpl-mine"


def test_head_and_options(server):
    head = server.http.head("/health")
    assert head.status_code == 200 and head.content == b"" and int(head.headers["content-length"]) > 0
    options = server.http.options(CHAT)
    assert options.status_code == 204 and "POST" in options.headers["allow"]
    assert "access-control-allow-origin" not in options.headers


@pytest.mark.sim
def test_cors_is_off_unless_an_origin_is_allowed(server, launch):
    origin = {"Origin": "https://app.example"}
    assert "access-control-allow-origin" not in server.http.get("/live", headers=origin).headers
    allowing = launch("--allowed-origins", "https://app.example")
    answer = allowing.http.options(CHAT, headers={**origin, "Access-Control-Request-Method": "POST"})
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert allowing.http.get("/live", headers=origin).headers["access-control-allow-origin"] == "https://app.example"
    other = allowing.http.get("/live", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


def test_keys_guard_every_route_but_the_probes(launch):
    guarded = launch("--api-key", "first", "--api-key", "second")
    for route in ROUTES:
        path = route["path"] + ("x" if route["path"].endswith("/") else "")
        for key in (None, "wrong", "firs", "firstt", "first second"):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            answer = guarded.http.request(route["method"], path, headers=headers)
            if route["open"]:
                assert answer.status_code == 200, path
            else:
                check_error(answer, 401, "invalid_api_key")
                assert answer.json()["error"]["type"] == "authentication_error"
        for headers in ({"Authorization": "Bearer first"}, {"authorization": "bearer second"}, {"x-api-key": "second"}):
            assert guarded.http.request(route["method"], path, headers=headers).status_code != 401, path
    check_error(guarded.http.get("/nothing"), 401)
    check_error(guarded.http.post("/health"), 401)
    check_error(guarded.http.get("/metrics", headers={"Authorization": "Basic first"}), 401)
    assert {r["path"] for r in ROUTES if r["open"]} == {"/health", "/ready", "/live", "/ping"}


def test_version_and_load(server):
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", server.http.get("/version").json()["version"])
    load = server.http.get("/load").json()
    assert load["dp_size"] == 1 and load["loads"][0]["num_running_reqs"] >= 0


@pytest.mark.sim
def test_a_template_that_refuses_is_400(server):
    answer = server.post(CHAT, {"messages": [{"role": "user"}]})
    check_error(answer, 400, param="messages")


def test_a_connection_survives_a_small_refused_request(server):
    request = (b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
               b"GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answer = raw_request(server, request)
    assert answer.count(b"HTTP/1.1 404") == 1 and answer.count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize("kind,status", [
    ("application/json; charset=UTF-8", 200), ('application/json;charset="utf-8"', 200), ("Application/JSON ; Charset=utf8", 200),
    ("application/json; profile=x", 200), ("application/json;", 200), ("application/json; charset=us-ascii", 200),
    ("application/json; charset=utf-16", 415), ("application/json;charset=iso-8859-1", 415), ('application/json; charset="latin1"', 415),
    ("application/json; profile=x; charset=utf-16le", 415), ("application/json; charset=", 415)])
def test_a_charset_other_than_utf_8_is_415(server, kind, status):
    answer = server.http.post(CHAT, content=json.dumps(BODY), headers={"Content-Type": kind})
    assert answer.status_code == status, answer.text
    if status == 415:
        assert "UTF-8" in check_error(answer, 415, "unsupported_media_type")["message"]


@pytest.mark.parametrize("seed", [2 ** 63, -2 ** 63 - 1, 2 ** 64])
def test_the_range_of_seeds_is_said_as_it_is(server, seed):
    error = check_error(server.post("/v1/completions", {"prompt": "a", "seed": seed}), 400, param="seed")
    assert "[-2^63, 2^63 - 1]" in error["message"]


@pytest.mark.sim
def test_more_answers_than_the_queue_holds_say_what_was_asked_and_what_to_do(launch):
    small = launch("--max-num-seqs", 1, "--max-num-queued-reqs", 3)
    for asked, param in (({"prompt": ["a"] * 10}, "prompt"), ({"prompt": ["a", "b"], "n": 2}, "n"), ({"prompt": "a", "n": 4}, "n")):
        message = check_error(small.post("/v1/completions", asked), 400, "too_large", param)["message"]
        answers = (len(asked["prompt"]) if isinstance(asked["prompt"], list) else 1) * asked.get("n", 1)
        assert f"are {answers} answers" in message and "holds 3" in message and f"--max-num-queued-reqs {answers}" in message
    assert small.post("/v1/completions", {"prompt": ["a"] * 3, "max_tokens": 2}).status_code == 200


@pytest.mark.sim
def test_detokenize_keeps_special_tokens_unless_told_otherwise(server):
    ids = server.post("/tokenize", {"messages": [{"role": "user", "content": "hi"}]}).json()["tokens"]
    assert "<|im_start|>" in server.post("/detokenize", {"tokens": ids}).json()["prompt"]
    assert "<|im_start|>" not in server.post("/detokenize", {"tokens": ids, "skip_special_tokens": True}).json()["prompt"]
    rows = [row for row in json.loads(sim_output("--print-api-table")) if row["name"] == "skip_special_tokens"]
    assert {endpoint: row["default"] for row in rows for endpoint in row["endpoints"]} == {
        "chat": "true", "completions": "true", "detokenize": "false"}
