#!/usr/bin/env python3
"""Times `weir serve` from the process's start to the first 200 of /ready, with the model's files in the page cache.

Usage: start.py MODEL [--device cuda:0] [--repeats 2] [--limit 20] [--json] [-- FLAG...]    (flags of weir serve)
Every file is read before each start, by several threads. Ends with 1 if the slowest start took longer than --limit seconds.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import sys
import time

from server import Server

START_LIMIT_S = 600
END_LIMIT_S = 60
BLOCK = 16 << 20


def read_all(paths):
    """Reads the files into the page cache; bytes and seconds."""

    def read(path, begin):
        buffer = bytearray(BLOCK)
        with open(path, "rb", buffering=0) as file:
            file.seek(begin)
            return file.readinto(buffer)

    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(min(16, os.cpu_count())) as pool:
        parts = [pool.submit(read, path, begin) for path in paths for begin in range(0, path.stat().st_size, BLOCK)]
        return sum(part.result() for part in parts), time.monotonic() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--limit", type=float, default=20, help="seconds")
    parser.add_argument("--json", action="store_true", help="a row of JSON for each start as well")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:at])
    paths = sorted(options.model.glob("*.safetensors"))
    slowest = 0.0
    for _ in range(options.repeats):
        count, read_s = read_all(paths)
        with Server(options.model, options.device, sys.argv[at + 1:]) as server:
            ready_s = server.wait_until_ready(START_LIMIT_S)
            rss = server.rss_mib()
            if server.stop(END_LIMIT_S) != 0:
                print(server.log(), file=sys.stderr)
                return 1
            phases = re.search(r"^ready\s+(.*)$", server.log(), re.MULTILINE)
        slowest = max(slowest, ready_s)
        row = {"what": "start", "device": options.device, "model": options.model.name, "bytes": count, "seconds": round(ready_s, 3),
               "gb_s": round(count / ready_s / 1e9, 3), "read_gb_s": round(count / read_s / 1e9, 3), "rss_mib": round(rss, 1),
               "phases": phases.group(1) if phases else ""}
        print(f"start: ready after {ready_s:.2f} s, {count / 1e9:.2f} GB at {row['gb_s']:.2f} GB/s (Python's threads read the "
              f"files at {row['read_gb_s']:.1f} GB/s just before); RSS {rss:.0f} MiB; {row['phases']}")
        if options.json:
            print(json.dumps(row), flush=True)
    return 0 if slowest <= options.limit else 1


sys.exit(main())
