"""Bytes that no honest client sends."""
import json
import pathlib
import socket
import time

import pytest

from conftest import raw_request, wait_until

POST = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
GET = b"GET /live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"


def status(answer):
    return int(answer.split(b" ", 2)[1]) if answer else 0


def resident_kb(server):
    text = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])


def test_a_body_of_1_gib_is_413_without_being_read(server):
    before = resident_kb(server)
    answer = raw_request(server, POST + b"Content-Length: %d\r\n\r\n{" % 2**30, limit_s=10)
    assert status(answer) == 413 and b'"code":"request_too_large"' in answer
    answer = raw_request(server, POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % 2**30, limit_s=10)
    assert status(answer) == 413 and b"100 Continue" not in answer
    assert resident_kb(server) - before < 4096


def test_a_chunked_body_of_20_mib_is_413(server):
    before = resident_kb(server)
    with server.connect() as sock:
        sock.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        answer = b""
        try:
            for _ in range(20):
                sock.sendall(chunk)
            while more := sock.recv(65536):
                answer += more
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert status(answer) in (413, 0)
    assert resident_kb(server) - before < 40 * 1024


def test_many_tiny_chunks_are_read_flat(server):
    before = resident_kb(server)
    body = json.dumps({"prompt": "say:x", "max_tokens": 4, "user": "u" * 100000}).encode()
    data = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    answer = raw_request(server, POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + data)
    assert status(answer) == 200
    assert resident_kb(server) - before < 16 * 1024


@pytest.mark.parametrize("data", [
    b"GET /live HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100000 + b"\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
    b"GET /" + b"x" * 100000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
], ids=["one header", "many headers", "target"])
def test_large_headers_are_431(server, data):
    assert status(raw_request(server, data)) == 431


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GARBAGE\r\n\r\n",
    b"GET /live\r\n\r\n",
    b"GET /live HTTP/1.1\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET live HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /live HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
    POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n{}  ",
    POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    POST + b"Content-Length: -1\r\n\r\n",
    POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    POST + b"Content-Length: 0x10\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
], ids=range(20))
def test_malformed_requests_are_refused_and_the_connection_ends(server, data):
    answer = raw_request(server, data + b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status(answer) in (400, 413, 505), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1, "bytes behind a malformed request were taken for another"
    assert b'{"error":{"message":' in answer


def test_expect_100_continue_is_answered(server):
    body = b'{"prompt":"say:x","max_tokens":4}'
    with server.connect() as sock:
        sock.sendall(POST + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        sock.sendall(body)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    assert status(answer) == 200


def test_http_1_0_works_for_answers_and_streams(server):
    answer = raw_request(server, b"GET /live HTTP/1.0\r\n\r\n")
    assert status(answer) == 200 and b"Connection: close" in answer
    body = b'{"prompt":"say:x","stream":true,"max_tokens":4}'
    answer = raw_request(server, b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    assert b"chunked" not in answer and answer.endswith(b"data: [DONE]\n\n")


@pytest.mark.sim
def test_slow_headers_and_bodies_are_408(launch):
    server = launch("--header-timeout", 0.5, "--body-timeout", 0.5, "--keep-alive-timeout", 0.5)
    started = time.monotonic()
    assert status(raw_request(server, b"GET /live HTTP/1.1\r\nHost: a\r\n")) == 408
    assert status(raw_request(server, POST + b"Content-Length: 100\r\n\r\n{")) == 408
    assert raw_request(server, b"") == b"", "a silent connection is closed without a word"
    answer = raw_request(server, b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status(answer) == 200, "then the idle connection is closed"
    assert time.monotonic() - started < 60, "the limits in force are those of the flags"
    with server.connect() as sock:
        # A byte now and then does not reset the clock.
        sock.sendall(b"GET /live HTTP/1.1\r\n")
        sent_at = time.monotonic()
        answer = b""
        sock.settimeout(0.05)
        while time.monotonic() - sent_at < 30 and not answer:
            try:
                sock.sendall(b"X: y\r\n")
                answer = sock.recv(1000)
            except TimeoutError:
                continue
        assert status(answer) == 408


@pytest.mark.sim
def test_connections_over_the_limit_are_refused(launch):
    server = launch("--max-connections", 8, "--header-timeout", 120)
    held = [server.connect() for _ in range(8)]
    # Nothing is sent: bytes that cross the refusal could reset the connection before it is read.
    assert status(raw_request(server, b"")) == 503
    for sock in held:
        sock.close()

    def answered():
        try:
            return status(raw_request(server, GET + b"\r\n")) == 200
        except ConnectionError:
            return False

    wait_until(answered, "room again")


@pytest.mark.sim
def test_2000_idle_connections_are_cheap(launch):
    server = launch("--header-timeout", 120)
    server.http.get("/live")
    before = resident_kb(server)
    held = [server.connect() for _ in range(2000)]
    wait_until(lambda: server.metric("weir:http_connections") >= 2000, "all are open")
    for sock in held[:500]:
        sock.sendall(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n")
    for sock in held[:500]:
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    assert (resident_kb(server) - before) / 2000 <= 16
    for sock in held:
        sock.close()


def test_pipelined_bytes_without_end_are_cut_off(server):
    body = b'{"prompt":"hello","max_tokens":4000,"ignore_eos":true}'
    with server.connect() as sock:
        sock.sendall(POST + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        with pytest.raises((ConnectionResetError, BrokenPipeError, AssertionError)):
            for _ in range(2000):
                sock.sendall(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
            raise AssertionError
    wait_until(lambda: server.metric("weir:open_requests") == 0, "the request is dropped")


def test_text_with_odd_characters_comes_back(server):
    for text in ("\u0000", "\ufeff", "\u202e", "\U0010ffff", "\u00e1", "\r\n", "\x7f"):
        ids = server.post("/tokenize", {"prompt": text}).json()["tokens"]
        assert server.post("/detokenize", {"tokens": ids}).json()["prompt"] == text


@pytest.mark.parametrize("pieces", [[b"\r\n" + GET + b"\r\n"], [b"\r\n\r\n\r\n\r\n" + GET + b"\r\n"], [b"\r\n", GET + b"\r\n"],
                                    [b"\r", b"\n", b"\r", b"\n" + GET, b"\r\n"]])
def test_line_ends_before_a_request_are_ignored(server, pieces):
    with server.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(0.02)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    assert status(answer) == 200


@pytest.mark.sim
def test_line_ends_before_a_request_are_no_reason_to_wait_longer(launch):
    server = launch("--header-timeout", 3)
    with server.connect() as sock:
        opened = time.monotonic()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        time.sleep(2)
        sock.sendall(b"\r\n")
        assert sock.recv(1) == b""
        assert time.monotonic() - opened < 4.5, "the clock began anew"


def test_line_ends_behind_a_body_are_ignored(server):
    body = b'{"prompt": "a", "max_tokens": 1}'
    post = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"\r\n"
    answer = raw_request(server, post + post + GET + b"\r\n")
    assert answer.count(b"HTTP/1.1 200") == 3


@pytest.mark.parametrize("data", [b"\r\n" * 100, b"\n" + GET + b"\r\n", b"\r\r\n" + GET + b"\r\n", b"\r\n" * 5 + GET + b"\r\n"])
def test_other_bytes_before_a_request_and_too_many_line_ends_are_400(server, data):
    assert status(raw_request(server, data)) == 400
