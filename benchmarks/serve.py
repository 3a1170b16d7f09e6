"""A server under load, on loopback: 32 clients at once beside one, each reply compared with the offline translation.

    python benchmarks/serve.py runs/en-de --source test.en --clients 32 --seconds 60 --json build/serve.json
    python benchmarks/serve.py saved_models/en-de --offline runs/en-de --source test.en

The server is a process of its own, the clients share another: on few cores they take time from each other, so that the throughput
is a lower bound.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx


@contextlib.contextmanager
def server(run, *options, backend=None):
    """``keras-transformer serve`` on a free port: gives (process, its address), and ends it with SIGTERM."""
    command = [sys.executable, "-m", "keras_transformer", "serve", str(run), "--port", "0", *options]
    command += ["--backend", backend] if backend else []
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    said, reader = [], None
    try:
        while not (line := process.stderr.readline()).startswith("http"):
            said.append(line)
            if not line:
                raise RuntimeError(f"The server did not start: {''.join(said)}")
        address = line.split("/ ")[0]
        reader = threading.Thread(target=lambda: said.extend(process.stderr), daemon=True)  # a full pipe would stop it
        reader.start()
        yield process, address
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        if reader is not None:
            reader.join()
        process.stderr.close()


async def load(address, texts, expected, clients, seconds, beam_size):
    """Asks for ``seconds`` from ``clients`` at once, a sentence a request; returns what was measured."""
    result = {"requests": 0, "errors": [], "wrong": []}
    latencies, end = [], time.perf_counter() + seconds

    async def client(number, http):
        index = number
        while time.perf_counter() < end:
            text, index = texts[index % len(texts)], index + clients
            begun = time.perf_counter()
            reply = await http.post("/v1/translate", json={"texts": [text], "beam_size": beam_size})
            latencies.append(time.perf_counter() - begun)
            result["requests"] += 1
            if reply.status_code != 200:
                result["errors"].append((reply.status_code, reply.text))
            elif reply.json()["translations"][0]["text"] != expected[text]:
                result["wrong"].append((text, reply.json()["translations"][0]["text"], expected[text]))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as http:
        begun = time.perf_counter()
        await asyncio.gather(*(client(number, http) for number in range(clients)))
        passed = time.perf_counter() - begun
    cuts = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else latencies * 99
    return result | {
        "sentences_per_second": len(latencies) / passed,
        "p50": cuts[49],
        "p99": cuts[98],
        "clients": clients,
    }


def offline(run, texts, beam_size, backend):
    """{text: translation} by ``keras-transformer translate``, in a process of its own."""
    command = [sys.executable, "-m", "keras_transformer", "translate", str(run), "--beam-size", str(beam_size)]
    command += ["--backend", backend] if backend else []
    text = "".join(one + "\n" for one in texts)
    lines = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, check=True).stdout.decode().split("\n")
    return dict(zip(texts, lines, strict=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="what is served: a run, a translator, or an exported SavedModel")
    parser.add_argument("--offline", help="the run that replies are compared with, where a SavedModel is served")
    parser.add_argument("--source", help="sentences, a line each; those of the built-in corpus if none are given")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=5, help="seconds of either load that are not counted")
    parser.add_argument("--beam-size", type=int, default=4)
    parser.add_argument("--backend")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    if arguments.source:
        texts = [line for line in Path(arguments.source).read_text(encoding="utf-8").split("\n") if line.strip()][:500]
    else:
        from keras_transformer.text import demo_corpus

        texts = demo_corpus().test.source[:500]
    expected = offline(arguments.offline or arguments.run, texts, arguments.beam_size, arguments.backend)
    rows = []
    with server(arguments.run, backend=arguments.backend) as (_, address):
        for clients, seconds in (
            (1, arguments.warm_up),
            (arguments.clients, arguments.warm_up),
            (1, arguments.seconds),
            (arguments.clients, arguments.seconds),
        ):
            # The first two warm up: JAX compiles a batch of each size once.
            rows.append(asyncio.run(load(address, texts, expected, clients, seconds, arguments.beam_size)))
    rows = rows[2:]
    print("| clients | sentences/s | p50 ms | p99 ms | errors | wrong |\n|---|---|---|---|---|---|")
    for row in rows:
        times = f"{1000 * row['p50']:.0f} | {1000 * row['p99']:.0f}"
        print(
            f"| {row['clients']} | {row['sentences_per_second']:.1f} | {times} | {len(row['errors'])} | {len(row['wrong'])} |"
        )
    one, many = (row["sentences_per_second"] for row in rows)
    print(f"{arguments.clients} clients get {many / one:.1f} times the sentences of one.")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
