"""From the start of a process to its first finished training step, in seconds; and what ``keras-transformer --help`` takes.

    python benchmarks/start.py --rounds 5

The preset tiny with 8,000 pieces on one batch of 4,096 source and 4,096 target tokens; the keras-nlp layers of its sizes beside it.
Each start is a fresh process, imports included, and ends when the step's loss has come back. On JAX ours starts twice: with an
empty folder of compiled code, as on a user's first day, and with what the first start left there.
"""

import os
import subprocess
import sys
import tempfile
import time

import click
from harness import Contender, chosen, head, machine, median, serve, spread, write_json

SIZE = {"num_layers": 4, "d_model": 128, "num_heads": 4, "d_ff": 256}  # the preset tiny
DROPOUT = 0.3
ROWS, LENGTH = 128, 32
FIRST, SECOND = "ours, JAX", "ours, JAX, second start"

STARTS = {  # name: (function of this file, KERAS_BACKEND)
    "ours, TensorFlow": ("ours", "tensorflow"),
    FIRST: ("ours", "jax"),
    SECOND: ("ours", "jax"),  # behind the first, whose compiled code it finds
    "ours, PyTorch": ("ours", "torch"),
    "keras-nlp layers, TensorFlow": ("keras_nlp", "tensorflow"),
    "keras-nlp layers, JAX": ("keras_nlp", "jax"),
    "keras-nlp layers, PyTorch": ("keras_nlp", "torch"),
}
MOST_SECONDS = {"ours, TensorFlow": 12, FIRST: 12, SECOND: 8, "ours, PyTorch": 12, "--help": 0.5}
BACKENDS = {"keras", "tensorflow", "jax", "torch"}


def ours():
    import contenders

    import keras_transformer as kt

    source, target, labels = contenders.batch()
    model = kt.Transformer.from_preset("tiny", vocabulary_size=contenders.VOCABULARY, seed=0)
    model.compile()
    model.train_on_batch({"source": source, "target": target}, labels)


def keras_nlp():
    import contenders

    contenders.keras_nlp(SIZE, DROPOUT, "float32")(1)


def contender(name):
    """The child's side: it is ready when the first step is done."""
    import contenders

    contenders.ROWS, contenders.LENGTH = ROWS, LENGTH  # read by its functions when they are called
    {"ours": ours, "keras_nlp": keras_nlp}[name]()
    serve(dict)


def start(name, compiled):
    """Seconds until the first step is done, and the process's peak memory."""
    function, backend = STARTS[name]
    environment = {"KERAS_BACKEND": backend, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    if name in (FIRST, SECOND):
        # What environment.keep_compiled sets for the command line, before JAX is imported.
        environment = {
            "KERAS_BACKEND": backend,
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": compiled,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        }
    begin = time.perf_counter()
    child = Contender(name, [sys.executable, __file__, "--contender", function], environment)
    seconds = time.perf_counter() - begin
    try:
        return {"seconds": seconds} | child.burst()
    finally:
        child.close()


def start_help():
    """Seconds of ``keras-transformer --help``, to its end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "keras_transformer", "--help"], check=True, capture_output=True)
    return {"seconds": time.perf_counter() - begin}


def imported_by_help():
    """Which of Keras and its backends ``keras-transformer --help`` imports."""
    command = [sys.executable, "-X", "importtime", "-m", "keras_transformer", "--help"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    modules = {line.rpartition("|")[2].strip() for line in listed.splitlines() if line.startswith("import time:")}
    if "keras_transformer.cli" not in modules:
        raise RuntimeError(f"-X importtime lists no keras_transformer.cli: {listed[-500:]}")
    return sorted(BACKENDS & modules)


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--only", multiple=True, help="Only those whose name has this word; may be given again.")
@click.option("--json", "file", default=None, help="Where to write every measurement.")
@click.option("--contender", "child", hidden=True)
def main(rounds, only, file, child):
    if child:
        return contender(child)
    names = chosen(STARTS, only)
    if SECOND in names and FIRST not in names:
        names.insert(names.index(SECOND), FIRST)
    results = {name: [] for name in [*names, "--help"]}
    start_help()  # byte code is written and files are read once before anything counts
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as compiled:
            for name in list(results):
                if name == "--help":
                    results[name].append(start_help())
                    continue
                try:
                    results[name].append(start(name, compiled))
                except RuntimeError as error:
                    click.echo(f"left out: {error}")
                    del results[name]
    report(results, rounds)
    imported = imported_by_help()
    click.echo(f"--help imports of Keras and its backends: {', '.join(imported) or 'none'}")
    if file:
        write_json(file, "start", results, size=SIZE, batch=[ROWS, LENGTH], imported_by_help=imported)
    return None


def report(results, rounds):
    click.echo(head(machine()))
    click.echo(f"preset tiny, batch {ROWS} x {LENGTH}, {rounds} rounds, {os.cpu_count()} threads")
    click.echo(f"{'':32}{'seconds':>8} {'spread':>7} {'at most':>8} {'peak MB':>8}")
    for name, bursts in results.items():
        seconds = median(bursts, "seconds")
        most = MOST_SECONDS.get(name)
        verdict = "" if most is None else "kept" if seconds <= most else "MISSED"
        peak = f"{median(bursts, 'peak_mb'):.0f}" if "peak_mb" in bursts[0] else ""
        click.echo(f"{name:32}{seconds:8.2f} {spread(bursts, 'seconds'):7.1%} {most or '':>8} {peak:>8} {verdict}")
    for backend in ("TensorFlow", "JAX", "PyTorch"):
        ours, peer = f"ours, {backend}", f"keras-nlp layers, {backend}"
        if ours in results and peer in results:
            ratio = median(results[peer], "seconds") / median(results[ours], "seconds")
            click.echo(f"{ratio:5.2f}  {peer} / {ours}")


if __name__ == "__main__":
    main()
