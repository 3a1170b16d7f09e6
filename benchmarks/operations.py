"""Where the time of a training step or of a search goes: milliseconds by operation, from the backend's own profiler, on one core.

    python benchmarks/operations.py --size small
    python benchmarks/operations.py --size small --search 24,1,1      # greedy, 24 tokens of one sentence

Ours as train.py or decode.py measures it, one backend after the other, each in a process of its own. "Products" are matrix
products, those of attention included; what takes little is summed up in "others". TensorFlow and JAX write a profile that
TensorFlow's package can read, so it must be there.
"""

import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import contenders
import decode
from harness import chosen, head, machine, write_json
from train import SIZES

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
# XLA's products on a CPU are called ynn_fusion.
_PRODUCT = re.compile(r"matmul|\bdot|_dot|ynn_fusion|mm\b|linear", re.IGNORECASE)
# What contains operations or waits for them, and Python's own frames ("$file.py:12 name").
_NO_OPERATION = re.compile(
    r"\$|end: |Thread|Wait|Await|Pj[Rr]t|Pjit|Thunk|Execut|Eager|FunctionRun|Run$|Process$|one_step|jit_|tf\.|ParseArguments"
)


def profile_torch(run, steps):
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run(steps)
    return {event.key.removeprefix("aten::"): event.self_cpu_time_total / 1000 for event in profile.key_averages()}


def profile_tensorflow(run, steps):
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        run(steps)
        tf.profiler.experimental.stop()
        return _read(folder)


def profile_jax(run, steps):
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(steps)
        return _read(folder)


def _read(folder):
    """{operation: milliseconds of its own} of the profile in ``folder``: what other operations take within it is theirs."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    own = collections.Counter()
    for file in Path(folder).rglob("*.xplane.pb"):
        space = xplane_pb2.XSpace()
        space.ParseFromString(file.read_bytes())
        for plane in space.planes:
            if plane.name != "/host:CPU":
                continue
            for line in plane.lines:
                _count(line, plane.event_metadata, own)
    return {name: picoseconds / 1e9 for name, picoseconds in own.items() if name is not None}


def _count(line, metadata, own):
    open_events = []  # (end, name) of those that the next one may lie in
    for event in sorted(line.events, key=lambda x: (x.offset_ps, -x.duration_ps)):
        name = _operation(metadata[event.metadata_id].name)
        while open_events and open_events[-1][0] <= event.offset_ps:
            open_events.pop()
        own[name] += event.duration_ps
        if open_events:
            own[open_events[-1][1]] -= event.duration_ps
        open_events.append((event.offset_ps + event.duration_ps, name))


def _operation(name):
    """An operation's kind: "MatMul" of "model/layer/MatMul:MatMul", "dot" of "dot.17"; None of what is none."""
    kind = re.sub(r"[.\d]+$", "", name.rpartition(":")[2])
    return None if _NO_OPERATION.match(name) or _NO_OPERATION.match(kind) else kind


def searches(size, search):
    """As contenders.ours gives steps: ``run(count)`` makes so many searches of "tokens,sentences,beam"."""
    tokens, rows, beam = (int(number) for number in search.split(","))
    case = {"function": "ours", "size": size, "tokens": tokens, "rows": rows, "beam": beam}
    once = decode.ours(case)
    for _ in range(decode.runs_to_warm_up(case)):
        once()

    def run(count):
        for _ in range(count):
            once()

    return run


def child(backend, size, dropout, search, steps):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # XLA makes a thread for each core it may run on
    run = searches(size, search) if search else contenders.ours(SIZES[size], dropout, "float32")
    run(2)
    begin = time.perf_counter()
    run(steps)
    seconds = (time.perf_counter() - begin) / steps
    found = globals()[f"profile_{backend}"](run, steps)
    return {
        "milliseconds": 1000 * seconds,
        "operations": {name: total / steps for name, total in found.items() if total > 0},
    }


def report(name, found, what, rows):
    operations = found["operations"]
    products = sum(x for key, x in operations.items() if _PRODUCT.search(key))
    others = sorted(((x, key) for key, x in operations.items() if not _PRODUCT.search(key)), reverse=True)
    click.echo(f"{name}: {found['milliseconds']:.1f} ms a {what} without the profiler")
    click.echo(f"  {products:7.1f}  products")
    for milliseconds, key in others[:rows]:
        click.echo(f"  {milliseconds:7.1f}  {key}")
    click.echo(f"  {sum(x for x, _ in others[rows:]):7.1f}  others")


@click.command(help=__doc__)
@click.option("--size", type=click.Choice(list(SIZES)), default="small", show_default=True)
@click.option("--dropout", type=float, default=0.1, show_default=True)
@click.option("--search", default="", help="tokens,sentences,beam: a search in place of a step.")
@click.option("--steps", type=click.IntRange(1), default=3, show_default=True)
@click.option("--backends", default=",".join(BACKENDS), show_default=True, help="Comma-separated.")
@click.option("--rows", type=click.IntRange(1), default=12, show_default=True, help="Operations named.")
@click.option("--json", "file", default=None, help="Where to write every operation.")
@click.option("--child", "backend", default=None, hidden=True)
def main(size, dropout, search, steps, backends, rows, file, backend):
    if backend is not None:
        answers = os.dup(1)
        os.dup2(2, 1)  # what libraries print must not mix with the answer
        os.write(answers, json.dumps(child(backend, size, dropout, search, steps)).encode())
        return
    if search and not re.fullmatch(r"\d+,\d+,\d+", search):
        raise click.UsageError(f"--search must be tokens,sentences,beam, as 24,1,1. Received: {search}.")
    what = f"search of {search} (tokens, sentences, beam)" if search else f"step, dropout {dropout}"
    click.echo(f"{head(machine())}; size {size}, {what}, one core")
    results = {}
    for name in chosen(BACKENDS, backends.split(",")):
        command = [sys.executable, __file__, "--child", name, "--size", size]
        command += ["--dropout", str(dropout), "--search", search, "--steps", str(steps)]
        threads = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
        threads |= {"TF_CPP_MIN_LOG_LEVEL": "3"}
        environment = os.environ | threads | {"KERAS_BACKEND": name}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ended.returncode:
            click.echo(f"left out: {BACKENDS[name]}: {ended.stderr.strip()[-500:]}")
            continue
        results[name] = json.loads(ended.stdout)
        report(BACKENDS[name], results[name], "search" if search else "step", rows)
    if file:
        write_json(file, "operations", results, size=size, dropout=dropout, search=search)


if __name__ == "__main__":
    main()
