"""Runs a server as a process of its own, by default server_sim: the whole server over a runner that needs no model.

WEIR_SERVER_SIM    path of server_sim; default build/dev/src/server/server_sim
WEIR_TEST_COMMAND  another command to test, e.g. "build/release/weir serve share/weir-xs"; tests that need scripted
                   answers (marked `sim`) are skipped then
"""
import json
import os
import pathlib
import re
import select
import shlex
import signal
import socket
import subprocess
import tempfile
import time

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = pathlib.Path(__file__).resolve().parents[2]
SIM = pathlib.Path(os.environ.get("WEIR_SERVER_SIM", ROOT / "build/dev/src/server/server_sim"))
COMMAND = os.environ.get("WEIR_TEST_COMMAND")
START_LIMIT_S = 60
WAIT_LIMIT_S = 60
# Requests that are to be stopped last half a minute: this tells freed from finished.
FREED_LIMIT_S = 10


def pytest_configure(config):
    config.addinivalue_line("markers", "sim: needs the scripted answers of server_sim")


def pytest_collection_modifyitems(items):
    if COMMAND:
        for item in items:
            if item.get_closest_marker("sim"):
                item.add_marker(pytest.mark.skip(reason="needs server_sim"))


def wait_until(condition, what, limit_s=WAIT_LIMIT_S):
    """Polls until `condition()` is true; fails with `what` after the limit."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited {limit_s} s: {what}"
        select.select([], [], [], 0.01)


class Server:
    def __init__(self, *flags, sim=False):
        command = [str(SIM)] if sim or not COMMAND else shlex.split(COMMAND)
        if not COMMAND or sim:
            assert SIM.is_file(), f"{SIM} is missing: build the dev preset, or set WEIR_SERVER_SIM"
        self.output = tempfile.TemporaryFile()
        self.process = subprocess.Popen([*command, "--port", "0", *map(str, flags)], cwd=ROOT, stdout=self.output,
                                        stderr=subprocess.STDOUT)
        end = time.monotonic() + START_LIMIT_S
        while not (found := re.search(r"listening (?:on )?(?:https?://\S*:)?(\d+)\n", self.log())):
            if self.process.poll() is not None or time.monotonic() > end:
                log = self.log()
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the server did not start:\n{log}")
            select.select([], [], [], 0.01)
        self.port = int(found.group(1))
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def log(self):
        """What the server has printed so far."""
        return os.pread(self.output.fileno(), 1 << 20, 0).decode(errors="replace")

    def client(self, key="none", **options):
        return openai.OpenAI(base_url=self.url + "/v1", api_key=key, max_retries=options.pop("max_retries", 0), **options)

    def model(self):
        return self.http.get("/v1/models").json()["data"][0]["id"]

    def post(self, path, body, **options):
        return self.http.post(path, json=body, **options)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=15)

    def families(self):
        return list(text_string_to_metric_families(self.http.get("/metrics").text))

    def metric(self, name, **labels):
        for family in self.families():
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        raise AssertionError(f"no metric {name} {labels}")

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self, limit_s=WAIT_LIMIT_S):
        return self.process.wait(limit_s)

    def close(self):
        self.http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.output.close()


@pytest.fixture(scope="session")
def server():
    running = Server()
    yield running
    assert running.process.poll() is None, "the server died during the tests"
    running.close()


@pytest.fixture
def launch():
    """Starts servers with flags of their own."""
    running = []

    def start(*flags, sim=False):
        running.append(Server(*flags, sim=sim))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture(scope="session")
def client(server):
    return server.client()


@pytest.fixture(scope="session")
def model(server):
    return server.model()


def sim_output(flag):
    assert SIM.is_file(), f"{SIM} is missing: build the dev preset, or set WEIR_SERVER_SIM"
    return subprocess.run([str(SIM), flag], check=True, capture_output=True, text=True, timeout=20).stdout


def sse_events(text):
    """The data of each event of a stream; comments are skipped, JSON is parsed."""
    out = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        assert len(lines) == 1 and lines[0].startswith("data: "), f"not one data line: {block!r}"
        data = lines[0][6:]
        out.append(data if data == "[DONE]" else json.loads(data, parse_constant=lambda c: pytest.fail(f"{c} in JSON")))
    return out


def raw_request(server, data, limit_s=15):
    """Sends bytes and reads until the server closes; returns what came."""
    with server.connect() as sock:
        sock.settimeout(limit_s)
        sock.sendall(data)
        out = b""
        while chunk := sock.recv(65536):
            out += chunk
    return out
