#!/usr/bin/env python3
"""Keeps streams busy on `weir serve` for minutes: no answer may fail, change or stay, and no memory may grow.

Usage: soak.py MODEL [--device cuda:0] [--streams 64] [--seconds 300] [--json] [-- FLAG...]    (flags of weir serve)
Prompts from four words to --longest-prompt of them, greedy and sampled, as streams and whole. Of three requests one is
repeated and must give the tokens that it gave alone, before the others; one in five is left by its client. Between 20 %
and the end of the time, the process and the GPU may grow by --growth-mib. Ends with 1 and what was wrong, else with 0.
On the CPU the cache's memory is taken page by page as it is used: give --kv-cache-memory-bytes there.
"""
import argparse
import asyncio
import collections
import json
import random
import sys
import time

from server import Server

WORDS = "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa".split()
REPEATED = 24
FAULTS_SHOWN = 10
START_LIMIT_S = 300
# What is under way when the time is over ends by itself; a server that hangs does not.
END_LIMIT_S = 120
IDLE_METRICS = ("vllm:num_requests_running", "vllm:num_requests_waiting", "weir:open_requests", "weir:pages_used",
                "weir:state_slots_used")
Answer = collections.namedtuple("Answer", "ids text reason prompt_tokens")


class Fault(Exception):
    pass


def need(condition, *what):
    if not condition:
        raise Fault(" ".join(map(str, what))[:500])


async def post(port, body, leave_behind=None):
    """Status and body of an answer; None if this client left behind so many events of it."""
    data = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        # HTTP/1.0: the answer ends with the connection.
        writer.write(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
        await writer.drain()
        parts, events = [], 0
        while leave_behind is None or events < leave_behind:
            part = await reader.read(1 << 16)
            if not part:
                head, _, text = b"".join(parts).partition(b"\r\n\r\n")
                need(head.startswith(b"HTTP/1.1 "), "the connection ended without an answer:", head)
                return int(head.split()[1]), text.decode()
            parts.append(part)
            events += part.count(b"\n\n")
        return None
    finally:
        writer.close()


def checked(body, status, text):
    """The answer, if it is whole."""
    need(status == 200, "status", status, text)
    events = [json.loads(text)] if not body["stream"] else []
    if body["stream"]:
        blocks = [block[6:] for block in text.split("\n\n") if block.startswith("data: ")]
        need(blocks[-1:] == ["[DONE]"], "a stream without its end:", text[-200:])
        events = [json.loads(block) for block in blocks[:-1]]
    need(not any("error" in event for event in events), "an error:", text[-500:])
    choices = [choice for event in events for choice in event["choices"]]
    ids = [id for choice in choices for id in choice["token_ids"] or []]
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    usage = [event["usage"] for event in events if event.get("usage")]
    need(reasons in (["stop"], ["length"]), "finish reasons:", reasons)
    need(len(usage) == 1, "usage:", usage)
    need(len(ids) == usage[0]["completion_tokens"] <= body["max_tokens"], len(ids), "tokens came,", usage[0], "were counted")
    need(len(ids) == body["max_tokens"] if reasons == ["length"] else not body["ignore_eos"], reasons, "after", len(ids), "tokens")
    return Answer(ids, "".join(choice["text"] for choice in choices), reasons[0], usage[0]["prompt_tokens"])


class Soak:
    def __init__(self, options, server):
        self.options, self.server = options, server
        self.random = random.Random(options.seed)
        self.repeated = [self.request(temperature=0.8 * (i % 3 == 2), seed=i, words=self.length_of(i), stream=i % 2 == 0)
                         for i in range(REPEATED)]
        self.alone = []
        self.faults = []
        self.requests = self.compared = self.left = 0
        self.samples = []  # seconds, MiB of the process, MiB of the GPU

    def length_of(self, i):
        """From four words to the longest prompt, each longer by the same factor."""
        return round(4 * (max(4, self.options.longest_prompt) / 4) ** (i / (REPEATED - 1)))

    def request(self, words, **fields):
        draw = self.random
        body = {"prompt": " ".join(draw.choices(WORDS, k=words)), "max_tokens": draw.randint(8, self.options.longest_answer),
                "ignore_eos": draw.random() < 0.5, "stream": draw.random() < 0.5, "return_token_ids": True, **fields}
        return {**body, "stream_options": {"include_usage": True}} if body["stream"] else body

    async def one(self):
        """A request of any kind, checked."""
        draw, port = self.random, self.server.port
        kind = draw.random()
        if kind < 0.2:
            body = self.request(self.length_of(draw.randrange(REPEATED)), stream=True, ignore_eos=True)
            await post(port, body, leave_behind=draw.choice((0, 0, 1, 2, 5, 20)))
            self.left += 1
        elif kind < 0.6:
            i = draw.randrange(REPEATED)
            answer = checked(self.repeated[i], *await post(port, self.repeated[i]))
            need(answer == self.alone[i], "request", i, "was answered", answer, "and alone", self.alone[i])
            self.compared += 1
        else:
            body = self.request(self.length_of(draw.randrange(REPEATED)), temperature=draw.choice((0, 0.7, 1.5)))
            checked(body, *await post(port, body))
        self.requests += 1

    async def stream(self, end):
        while time.monotonic() < end and not self.faults:
            try:
                await self.one()
            except (Fault, OSError, ValueError, KeyError, TypeError) as fault:
                self.faults.append(f"{type(fault).__name__}: {fault}")

    async def watch(self, start, end):
        """Samples as long as the streams work; the last one when the time is over."""
        step = max(0.5, self.options.seconds / 100)
        while not self.faults:
            rss, gpu = await asyncio.to_thread(lambda: (self.server.rss_mib(), self.server.gpu_mib()))
            self.samples.append((time.monotonic() - start, rss, gpu))
            if time.monotonic() >= end:
                return
            await asyncio.sleep(min(step, max(0.0, end - time.monotonic())))

    async def run(self):
        for body in self.repeated:
            self.alone.append(checked(body, *await post(self.server.port, body)))
        before = self.server.metrics()
        start = time.monotonic()
        end = start + self.options.seconds
        streams = asyncio.gather(*(self.stream(end) for _ in range(self.options.streams)))
        await self.watch(start, end)
        after = await asyncio.to_thread(self.server.metrics)
        took = time.monotonic() - start
        try:
            await asyncio.wait_for(streams, END_LIMIT_S)
        except TimeoutError:
            self.faults.append(f"answers were still open {END_LIMIT_S} s after the last request")
        return after["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"], took

    def check_end(self):
        """Nothing is left of any request, nothing was counted as a fault, and the server ends when told to."""
        limit = time.monotonic() + 10
        now = self.server.metrics()
        while any(now[name] for name in IDLE_METRICS) and time.monotonic() < limit:
            time.sleep(0.05)
            now = self.server.metrics()
        left = {name: now[name] for name in IDLE_METRICS if now[name]}
        need(not left, "after the last answer:", left)
        need(now["weir:not_finite_total"] == 0, now["weir:not_finite_total"], "rows were not finite")
        need(self.server.stop(END_LIMIT_S) == 0, "the server ended with", self.server.process.returncode)

    def grown(self, column):
        """The most in the tenth of the time behind 20 %, and the most in the last tenth."""
        seconds = self.options.seconds
        first = [sample[column] for sample in self.samples if 0.2 * seconds <= sample[0] <= 0.3 * seconds]
        last = [sample[column] for sample in self.samples if sample[0] >= 0.9 * seconds]
        return max(first, default=-1.0), max(last, default=-1.0)


def figures(soak, tokens, took):
    row = {"what": "soak", "device": soak.options.device, "streams": soak.options.streams, "seconds": round(took, 1),
           "requests": soak.requests, "compared": soak.compared, "left": soak.left, "tokens": int(tokens),
           "tokens_s": round(tokens / took, 1) if took else 0.0}
    for name, column in (("rss", 1), ("gpu", 2)):
        first, last = soak.grown(column)
        row |= {f"{name}_mib_first": round(first, 1), f"{name}_mib_last": round(last, 1)}
        if not soak.faults and last - first > soak.options.growth_mib:
            soak.faults.append(f"{name} memory grew from {first:.1f} to {last:.1f} MiB")
    return row | {"faults": soak.faults[:FAULTS_SHOWN]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--longest-prompt", type=int, default=2000, help="words")
    parser.add_argument("--longest-answer", type=int, default=300, help="tokens")
    # Arenas of the allocator and graphs of steps that came late; a leak of 1 KiB a request is more within minutes.
    parser.add_argument("--growth-mib", type=float, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="a row of JSON as well")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    options = parser.parse_args(sys.argv[1:at])
    with Server(options.model, options.device, sys.argv[at + 1:]) as server:
        server.wait_until_ready(START_LIMIT_S)
        soak = Soak(options, server)
        tokens, took = 0, 0
        try:
            tokens, took = asyncio.run(soak.run())
            soak.check_end()
        except (Fault, OSError) as fault:
            soak.faults.append(f"{type(fault).__name__}: {fault}")
        if soak.faults and server.process.poll() is not None:
            soak.faults.insert(0, f"the server ended with {server.process.returncode}")
        row = figures(soak, tokens, took)
        if soak.faults:
            print(server.log()[-4000:], file=sys.stderr)
    print(f"soak: {row['streams']} streams, {row['seconds']} s on {row['device']}: {row['requests']} requests ({row['compared']} "
          f"compared, {row['left']} left), {row['tokens']} tokens, {row['tokens_s']:.0f} tok/s; RSS {row['rss_mib_first']} to "
          f"{row['rss_mib_last']} MiB, GPU {row['gpu_mib_first']} to {row['gpu_mib_last']} MiB; {len(soak.faults)} faults")
    for fault in row["faults"]:
        print(f"  {fault}")
    if options.json:
        print(json.dumps(row))
    return 1 if soak.faults else 0


sys.exit(main())
