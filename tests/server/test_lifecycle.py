"""Disconnects in every phase, a full queue, many streams, drain."""
import concurrent.futures
import json
import signal
import threading

import httpx
import openai
import pytest

from conftest import FREED_LIMIT_S, Server, raw_request, sse_events, wait_until

LONG = {"prompt": "hello", "max_tokens": 3000, "ignore_eos": True}


def send(server, path, body):
    sock = server.connect()
    data = json.dumps(body).encode()
    sock.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(data), data))
    return sock


def idle(server):
    return (server.metric("vllm:num_requests_running") == 0 and server.metric("vllm:num_requests_waiting") == 0
            and server.metric("weir:pages_used") == 0 and server.metric("weir:open_requests") == 0)


@pytest.mark.sim
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("phase", ["queued", "prefilling", "decoding"])
def test_a_disconnect_frees_everything_at_once(phase, stream, reset):
    flags = {"queued": ["--max-num-seqs", 1, "--step-us", 30000], "prefilling": ["--prompt-token-us", 10000,
             "--max-num-batched-tokens", 64], "decoding": ["--step-us", 30000]}[phase]  # half a minute a request
    server = Server(*flags, sim=True)
    try:
        prompt = "x" * 3000 if phase == "prefilling" else "hello"
        socks = [send(server, "/v1/completions", {**LONG, "prompt": prompt, "max_tokens": 1000, "stream": stream})]
        wait_until(lambda: server.metric("vllm:num_requests_running") == 1, "the first request runs")
        if phase == "queued":
            socks.append(send(server, "/v1/completions", {**LONG, "max_tokens": 1000, "stream": stream}))
            wait_until(lambda: server.metric("vllm:num_requests_waiting") == 1, "the second request waits")
        if phase == "decoding":
            wait_until(lambda: server.metric("vllm:generation_tokens_total") >= 2, "tokens come")
        if phase == "prefilling":
            assert server.metric("vllm:generation_tokens_total") == 0
        leaving = socks.pop()
        if reset:
            leaving.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")  # SO_LINGER 0: close sends RST
        leaving.close()
        if phase == "queued":
            wait_until(lambda: server.metric("vllm:num_requests_waiting") == 0, "the queued request is gone", FREED_LIMIT_S)
            assert server.metric("vllm:num_requests_running") == 1
            socks.pop().close()
        wait_until(lambda: idle(server), "pages are free", FREED_LIMIT_S)
        aborted = server.metric("vllm:request_success_total", finished_reason="abort")
        assert aborted == (2 if phase == "queued" else 1)
    finally:
        server.close()


@pytest.mark.sim
def test_a_full_queue_is_429_with_retry_after(launch):
    server = launch("--max-num-seqs", 1, "--max-num-queued-reqs", 2, "--step-us", 3000)
    socks = [send(server, "/v1/completions", LONG)]
    wait_until(lambda: server.metric("vllm:num_requests_running") == 1, "one runs")
    socks += [send(server, "/v1/completions", LONG) for _ in range(2)]
    wait_until(lambda: server.metric("vllm:num_requests_waiting") == 2, "two wait")
    answer = server.post("/v1/completions", {"prompt": "a"})
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "queue_full" and answer.json()["error"]["type"] == "rate_limit_error"
    with pytest.raises(openai.RateLimitError):
        server.client().completions.create(model="sim", prompt="a")
    assert server.http.get("/health").status_code == 200
    for sock in socks:
        sock.close()
    wait_until(lambda: idle(server), "all is free")
    assert server.post("/v1/completions", {"prompt": "say:x"}).status_code == 200


@pytest.mark.sim
def test_more_answers_than_the_queue_holds_are_400(launch):
    server = launch("--max-num-queued-reqs", 3)
    answer = server.post("/v1/completions", {"prompt": "a", "n": 8})
    assert answer.status_code == 400
    assert idle(server)


def test_256_streams_complete_with_nothing_lost(server, model):
    said = "abcdefghijklmnopqrstuvwxyz " * 2

    def stream(i):
        body = {"prompt": f"say:{i} {said}", "max_tokens": 80, "stream": True, "temperature": 0, "ignore_eos": False,
                "stream_options": {"include_usage": True}, "return_token_ids": True}
        with httpx.Client(base_url=server.url, timeout=120) as http:
            events = sse_events(http.post("/v1/completions", json=body).text)
        assert events[-1] == "[DONE]"
        parts = [e["choices"][0] for e in events[:-1] if e["choices"]]
        assert [p["finish_reason"] for p in parts if p["finish_reason"]] in (["stop"], ["length"])
        assert sum(len(p["token_ids"]) for p in parts) == events[-2]["usage"]["completion_tokens"]
        return "".join(p["text"] for p in parts)

    with concurrent.futures.ThreadPoolExecutor(256) as pool:
        texts = list(pool.map(stream, range(256)))
    if model == "sim":
        assert texts == [f"{i} {said}" for i in range(256)]
    wait_until(lambda: idle(server), "all is free")


@pytest.mark.sim
def test_health_follows_the_drain(launch):
    server = launch("--drain-delay", 120, "--step-us", 2000)
    for path in ("/live", "/ping", "/ready", "/health"):
        assert server.http.get(path).status_code == 200
    server.terminate()
    wait_until(lambda: server.http.get("/ready").status_code == 503, "not ready", FREED_LIMIT_S)
    assert server.http.get("/health").json()["status"] == "draining"
    assert server.http.get("/live").status_code == 200
    # The delay exists so that requests which are still routed here are served.
    assert server.post("/v1/completions", {"prompt": "say:x"}).json()["choices"][0]["text"] == "x"
    server.terminate()
    assert server.wait() == 0


@pytest.mark.sim
def test_a_drain_under_load_loses_no_accepted_stream(launch):
    server = launch("--step-us", 10000)  # five seconds a stream
    started = threading.Barrier(25, timeout=60)
    results = {}
    clients = [httpx.Client(base_url=server.url, timeout=120) for _ in range(24)]

    def stream(i):
        body = {"prompt": f"say:{i} " + "word " * 100, "max_tokens": 800, "stream": True}
        with clients[i] as http, http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            text = next(lines) + "\n"
            started.wait()
            results[i] = text + "\n".join(lines)

    threads = [threading.Thread(target=stream, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    started.wait()
    server.terminate()
    wait_until(lambda: server.http.get("/ready").status_code == 503, "not ready", FREED_LIMIT_S)
    refused = server.post("/v1/completions", {"prompt": "a"})
    assert refused.status_code == 503 and "retry-after" in refused.headers and refused.headers["connection"] == "close"
    for thread in threads:
        thread.join(120)
    assert len(results) == 24
    for i, text in results.items():
        events = sse_events(text)
        assert events[-1] == "[DONE]" and "".join(e["choices"][0]["text"] for e in events[:-1]) == f"{i} " + "word " * 100
    assert server.wait() == 0


@pytest.mark.sim
@pytest.mark.parametrize("silent", [False, True])
def test_a_connection_opened_before_the_drain_gets_an_answer_and_is_waited_for_as_long_as_is_said(launch, silent):
    server = launch("--step-us", 20000, "--header-timeout", 300, "--new-connection", 0.5 if silent else 60)
    with server.client().completions.create(model="sim", prompt="hello", max_tokens=3000, stream=True) as stream:
        next(iter(stream))
        early = server.connect()
        idle = httpx.Client(base_url=server.url, timeout=30)
        assert idle.get("/ready").status_code == 200
        server.terminate()
        wait_until(lambda: server.http.get("/ready").status_code == 503, "not ready", FREED_LIMIT_S)
        if silent:
            assert early.recv(1) == b""
        else:
            early.sendall(b"GET /ready HTTP/1.1\r\nHost: weir\r\n\r\n")
            assert early.recv(64).startswith(b"HTTP/1.1 503")
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError):
            for _ in stream:
                pass
    for connection in (early, idle):
        connection.close()
    assert server.wait() == 0


@pytest.mark.sim
@pytest.mark.parametrize("second_signal", [False, True])
def test_streams_that_outlast_the_drain_end_with_an_error_frame(launch, second_signal):
    server = launch("--step-us", 20000, "--shutdown-timeout", 3600 if second_signal else 0.3)
    with server.client().completions.create(model="sim", prompt="hello", max_tokens=3000, stream=True) as stream:
        next(iter(stream))
        server.terminate()
        if second_signal:
            wait_until(lambda: server.http.get("/ready").status_code == 503, "not ready", FREED_LIMIT_S)
            server.process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError) as error:
            for _ in stream:
                pass
        assert "shutting down" in str(error.value)
    assert server.wait() == 0


@pytest.mark.sim
def test_an_idle_server_ends_at_once(launch):
    server = launch()
    server.http.get("/live")
    server.terminate()
    assert server.wait(FREED_LIMIT_S) == 0


@pytest.mark.sim
def test_silent_streams_get_comments(launch):
    server = launch("--sse-ping-interval", 0.2, "--prompt-token-us", 2000, "--max-num-batched-tokens", 64)
    body = {"prompt": "x" * 500 + "say:x", "stream": True}
    text = server.post("/v1/completions", body).text
    assert text.count(": keep-alive\n\n") >= 2
    assert "".join(e["choices"][0]["text"] for e in sse_events(text)[:-1]) == "x"
    assert server.metric("weir:keep_alive_comments_total") >= 2


@pytest.mark.sim
def test_a_slow_reader_is_cut_off_and_harms_nobody(launch):
    server = launch()
    body = {"prompt": "hello", "max_tokens": 4000, "stream": True, "n": 16, "logprobs": 20, "ignore_eos": True}
    sock = send(server, "/v1/completions", body)
    wait_until(lambda: server.metric("vllm:request_success_total", finished_reason="abort") > 0, "cut off", 30)
    wait_until(lambda: idle(server), "all is free")
    assert server.metric("weir:slow_readers_total") == 1
    sock.close()
    assert server.post("/v1/completions", {"prompt": "say:x"}).status_code == 200


@pytest.mark.sim
def test_a_small_cache_preempts_and_changes_nothing(launch):
    server = launch("--pages", 24, "--max-num-seqs", 16)
    roomy = launch()
    body = {"prompt": "hello", "max_tokens": 300, "n": 12, "seed": 5, "temperature": 1}
    tight = server.post("/v1/completions", body).json()["choices"]
    assert [c["text"] for c in tight] == [c["text"] for c in roomy.post("/v1/completions", body).json()["choices"]]
    assert server.metric("vllm:num_preemptions_total") > 0
    assert idle(server)


def test_a_port_in_use_is_refused_with_a_remedy(server):
    with pytest.raises(AssertionError) as error:
        Server("--port", server.port)
    assert "cannot listen on" in str(error.value) and "--port" in str(error.value)


def test_pipelined_requests_are_answered_in_order(server):
    body = json.dumps({"prompt": "say:abc", "max_tokens": 8}).encode()
    post = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    get = b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = raw_request(server, get + post + get + post + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 5
    at = [answer.index(b'"status":"ok"'), answer.index(b'"object":"text_completion"'), answer.index(b'"version"')]
    assert at == sorted(at)


@pytest.mark.parametrize("delay", [0, 0.5])
def test_a_drain_is_said_in_one_line_of_the_log(launch, delay):
    server = launch("--drain-delay", delay)
    server.http.get("/live")  # signals are watched
    server.terminate()
    assert server.wait() == 0
    assert len([line for line in server.log().splitlines() if line.startswith("draining: 0 open requests")]) == 1, server.log()
