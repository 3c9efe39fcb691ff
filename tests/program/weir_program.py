"""Runs the program as its users do: commands, and a server behind its socket.

WEIR_BINARY       the program; default build/release/weir
WEIR_MODEL        the model that ships with it; default share/weir-xs
WEIR_TEST_DEVICE  where models run: cpu, cuda or cuda:N; default cpu
"""
import array
import contextlib
import json
import os
import pathlib
import re
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time
from typing import NamedTuple

import httpx
import openai
from prometheus_client.parser import text_string_to_metric_families

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = (ROOT / os.environ.get("WEIR_BINARY", "build/release/weir")).resolve()
MODEL = (ROOT / os.environ.get("WEIR_MODEL", "share/weir-xs")).resolve()
DEVICE = os.environ.get("WEIR_TEST_DEVICE", "cpu")
ON_GPU = DEVICE != "cpu"
GOLDENS = ROOT / "tests/data/goldens"
MIB = 1 << 20
# Limits end a hang; they are wide because a machine may be busy with other work.
START_LIMIT_S = 120
WAIT_LIMIT_S = 60
REQUEST_LIMIT_S = 300

# What keeps earlier prompts: on a GPU it has to be asked for.
REUSE = ("--enable-prefix-caching",) if ON_GPU else ()
# Commands that run a model; the others look at files, or say themselves for which device.
_RUNNING = ("serve", "chat", "run", "logits", "bench")

_ARRAY_TYPES = {"F32": "f", "I32": "i"}


def wait_until(condition, what, limit_s=WAIT_LIMIT_S):
    """Polls until `condition()` holds; fails with `what` after the limit."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"waited {limit_s} s: {what}"
        select.select([], [], [], 0.01)


def on_device(arguments):
    """A command's arguments and the device under test, if it runs a model and names none."""
    if not ON_GPU or "--device" in arguments or not arguments or arguments[0] not in _RUNNING:
        return arguments
    return arguments[0], "--device", DEVICE, *arguments[1:]


def weir(*arguments, stdin="", limit_s=120):
    """One command to its end; the result has returncode, stdout, stderr."""
    assert BINARY.is_file(), f"{BINARY} is missing: build the release preset, or set WEIR_BINARY"
    return subprocess.run([str(BINARY), *map(str, on_device(arguments))], input=stdin, capture_output=True, text=True,
                          errors="replace", timeout=limit_s)


class Bounds(NamedTuple):
    """How far log-probabilities may be from an independent implementation's, and how near two ids that may change places."""
    mean: float
    worst: float
    gap: float


def bounds_of(model):
    """In float32, and where a GPU rounds activations to 16 bits; src/runner/golden_test.cpp has the same."""
    if ON_GPU:
        operations = json.loads(weir("plan", model, "--device", DEVICE, "--json").stdout)["operations"]
        if not all(row["kernel"].startswith("plain float32 kernels") for row in operations):
            return Bounds(mean=1e-2, worst=0.3, gap=0.2)
    return Bounds(mean=1e-4, worst=3e-3, gap=0.01)


def page_mib(mib):
    """Bytes of pages that take so many MiB on the CPU; on a GPU they hold 16 bits for 32."""
    return mib * MIB // (2 if ON_GPU else 1)


class Server:
    """`weir serve` on a free port; a context manager. The log goes to a file, so that no pipe can fill up."""

    def __init__(self, model, *flags):
        assert BINARY.is_file(), f"{BINARY} is missing: build the release preset, or set WEIR_BINARY"
        self._log = tempfile.TemporaryFile("w+", errors="replace")
        command = on_device(("serve", model, "--port", 0, *flags))
        self.process = subprocess.Popen([str(BINARY), *map(str, command)], stdout=self._log, stderr=subprocess.STDOUT,
                                        stdin=subprocess.DEVNULL)
        self._clients = contextlib.ExitStack()
        self._openai = None
        end = time.monotonic() + START_LIMIT_S
        while not (found := re.search(r"^listening\s+(http://\S+:(\d+))$", self.log(), re.MULTILINE)):
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise AssertionError(f"the server did not start (exit code {self.process.returncode}):\n{self.text}")
            select.select([], [], [], 0.01)
        self.url, self.port = found.group(1), int(found.group(2))
        self.http = self._clients.enter_context(httpx.Client(base_url=self.url, timeout=REQUEST_LIMIT_S))
        self.model = self.http.get("/v1/models").json()["data"][0]["id"]

    def log(self):
        self._log.seek(0)
        self.text = self._log.read()
        return self.text

    def openai(self):
        """The official client, one for all who ask."""
        if self._openai is None:
            self._openai = self._clients.enter_context(
                openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, timeout=REQUEST_LIMIT_S))
        return self._openai

    def post(self, path, **body):
        return self.http.post(path, json=body)

    def complete(self, prompt, **options):
        """The only choice of a completion."""
        answer = self.post("/v1/completions", prompt=prompt, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]

    def connect(self, body, path="/v1/completions"):
        """A socket on which a request was sent and nothing read."""
        data = json.dumps(body).encode()
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_LIMIT_S)
        sock.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(data), data))
        return sock

    def metrics(self):
        """Samples without labels that matter: name -> value (the sum over labels)."""
        out = {}
        for family in text_string_to_metric_families(self.http.get("/metrics").text):
            for sample in family.samples:
                out[sample.name] = out.get(sample.name, 0) + sample.value
        return out

    def idle(self):
        now = self.metrics()
        return all(now[name] == 0 for name in (
            "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "weir:pages_used",
            "weir:state_slots_used", "weir:open_requests"))

    def memory_bytes(self, field="VmRSS"):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE).group(1)) * 1024

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def close(self):
        self._clients.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if not self._log.closed:
            self.log()
            self._log.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        died = self.process.poll()
        self.close()
        if kind is None:
            assert died in (None, 0), f"the server died with {died}:\n{self.text}"


def sse_events(text):
    """The data of each event of a stream, parsed; comments are left out."""
    out = []
    for block in text.split("\n\n"):
        if not block or block.startswith(":"):
            continue
        assert block.startswith("data: "), block
        out.append(block[6:] if block == "data: [DONE]" else json.loads(block[6:]))
    return out


class Safetensors:
    """A safetensors file as a header (name -> dtype, shape, data_offsets) and its data."""

    def __init__(self, path):
        raw = pathlib.Path(path).read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        self.header = json.loads(raw[8:8 + size])
        self.data = raw[8 + size:]

    def numbers(self, name):
        info = self.header[name]
        begin, end = info["data_offsets"]
        return array.array(_ARRAY_TYPES[info["dtype"]], self.data[begin:end]).tolist()

    def tensors(self):
        return [name for name in self.header if name != "__metadata__"]

    def encoded(self):
        header = json.dumps(self.header, separators=(",", ":")).encode()
        return struct.pack("<Q", len(header)) + header + self.data


def plain_tokenizer(vocabulary):
    """A byte-level tokenizer.json of exactly `vocabulary` ids, each with a text of its own."""
    byte_letters = [chr(c) for c in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))]
    byte_letters += [chr(0x100 + i) for i in range(256 - len(byte_letters))]
    letters = "abcdefghijklmnopqrstuvwxyz"
    pairs = [a + b for a in letters for b in letters]
    # Bytes that make valid UTF-8 alone, then pairs: no two ids have the same text.
    names = (byte_letters[:0x7F - 0x21] + pairs)[:vocabulary]
    assert len(names) == vocabulary
    return {"version": "1.0", "added_tokens": [], "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "post_processor": None, "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": {name: i for i, name in enumerate(names)}, "merges": []}}


def vocabulary_of(config):
    return config.get("text_config", config)["vocab_size"]


def golden_folder(name, into, copy=False):
    """A model folder made of a golden checkpoint and a tokenizer of its vocabulary's size."""
    folder = pathlib.Path(into) / name
    folder.mkdir()
    for file in ("config.json", "model.safetensors"):
        if copy:
            (folder / file).write_bytes((GOLDENS / name / file).read_bytes())
        else:
            (folder / file).symlink_to(GOLDENS / name / file)
    config = json.loads((folder / "config.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(plain_tokenizer(vocabulary_of(config))))
    return folder
