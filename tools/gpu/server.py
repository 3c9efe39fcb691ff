"""Starts `weir serve` for the scripts beside this one and looks at the process. Needs nothing but Python.

WEIR_BINARY  the program; default build/release/weir
"""
import contextlib
import http.client
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = (ROOT / os.environ.get("WEIR_BINARY", "build/release/weir")).resolve()
POLL_S = 0.005


class Server:
    """A server on a free port, from the moment that its process starts."""

    def __init__(self, model, device, flags=()):
        # Chosen here: the server names its port when it is ready, and it is asked before.
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.device = device
        self._log = tempfile.TemporaryFile()
        command = [str(BINARY), "serve", str(model), "--device", device, "--port", str(self.port), *flags]
        self.started = time.monotonic()
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT)

    def log(self):
        return os.pread(self._log.fileno(), 1 << 20, 0).decode(errors="replace")

    def get(self, path):
        """Status and text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def wait_until_ready(self, limit_s):
        """Seconds from the process's start to the first 200 of /ready."""
        while True:
            with contextlib.suppress(ConnectionError):
                if self.get("/ready")[0] == 200:
                    return time.monotonic() - self.started
            if self.process.poll() is not None or time.monotonic() - self.started > limit_s:
                raise SystemExit(f"not ready after {time.monotonic() - self.started:.0f} s, exit code "
                                 f"{self.process.returncode}:\n{self.log()}")
            time.sleep(POLL_S)

    def metrics(self):
        """Name -> value, the sum over labels."""
        out = {}
        for name, value in re.findall(r"^([\w:]+)(?:\{.*\})? (\S+)$", self.get("/metrics")[1], re.MULTILINE):
            out[name] = out.get(name, 0.0) + float(value)
        return out

    def rss_mib(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        if found is None:
            raise ProcessLookupError("the server has ended")
        return int(found.group(1)) / 1024

    def gpu_mib(self):
        """Memory in use on the whole GPU, by whomever; -1 where there is none."""
        if not self.device.startswith("cuda"):
            return -1.0
        index = self.device.partition(":")[2] or "0"
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
            return float(subprocess.run(["nvidia-smi", "-i", index, "--query-gpu=memory.used", "--format=csv,noheader,nounits"],
                                        capture_output=True, text=True, check=True, timeout=30).stdout)
        return -1.0

    def stop(self, limit_s):
        """Exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit_s)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._log.close()
