"""Time and memory of a training step as sequences grow: 4,096 target tokens a batch, from rows of 64 to one of 4,096.

    python benchmarks/length.py --plot length.png

Each length runs in a process of its own, so that its peak memory is its own. The model is bench-small of train.py, with dropout
at the lecture's four places; peers as they come.
"""

import json
import sys
import time
from pathlib import Path

import click
import contenders
from harness import Contender, chosen, head, machine, median, serve, write_json
from train import SIZES

TOKENS = 4096
LENGTHS = (64, 256, 1024, 4096)
NAMES = {  # name: (function of contenders.py, KERAS_BACKEND)
    "ours, TensorFlow": ("ours", "tensorflow"),
    "ours, JAX": ("ours", "jax"),
    "ours, PyTorch": ("ours", "torch"),
    "JAX by hand": ("jax_by_hand", "jax"),
    "torch.nn.Transformer": ("torch_transformer", "torch"),
}


def child(function, length, dropout):
    """One contender at one length; a burst is one step of TOKENS tokens."""
    contenders.ROWS, contenders.LENGTH = TOKENS // length, length
    run = getattr(contenders, function)(SIZES["small"], dropout, "float32")
    run(1)

    def burst():
        begin = time.perf_counter()
        run(1)
        return {"seconds": time.perf_counter() - begin}

    return serve(burst)


def draw(results, file):
    """Two panels: milliseconds and megabytes by length, one line a contender."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for key, panel, label in zip(
        ("ms_a_token", "peak_mb"), panels, ("milliseconds a target token", "peak memory, MB"), strict=True
    ):
        for name in NAMES:
            points = [(length, row[key]) for length in LENGTHS if (row := results.get(f"{name}, {length}"))]
            panel.plot(*zip(*points, strict=True), marker="o", label=name)
        panel.set_xscale("log", base=2)
        panel.set_xlabel("length of source and target (4,096 tokens a batch)")
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.savefig(file, dpi=120)


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--dropout", type=float, default=0.1, show_default=True)
@click.option("--only", multiple=True, help="Only those whose name has this word; may be given again.")
@click.option("--plot", "picture", default=None, help="PNG of time and memory by length.")
@click.option("--json", "file", default=None, help="Where to write every measurement.")
@click.option("--child", "job", default=None, hidden=True)
def main(rounds, dropout, only, picture, file, job):
    if job is not None:
        return child(*json.loads(job))
    click.echo(head(machine()))
    click.echo(f"bench-small, dropout {dropout}, {TOKENS:,} tokens a batch, medians of {rounds} steps")
    click.echo(f"{'':34}{'ms/token':>9} {'of 64':>6} {'peak MB':>8}")
    results = {}
    for name in chosen(NAMES, only):
        function, backend = NAMES[name]
        for length in LENGTHS:
            command = [sys.executable, str(Path(__file__)), "--child", json.dumps([function, length, dropout])]
            try:
                contender = Contender(name, command, {"KERAS_BACKEND": backend})
                bursts = [contender.burst() for _ in range(rounds)]
                contender.close()
            except RuntimeError as error:
                click.echo(f"left out: {name} at {length}: {str(error)[-200:]}")
                continue
            row = {
                "bursts": bursts,
                "ms_a_token": 1000 * median(bursts, "seconds") / TOKENS,
                "peak_mb": median(bursts, "peak_mb"),
            }
            results[f"{name}, {length}"] = row
            first = results.get(f"{name}, {LENGTHS[0]}", row)["ms_a_token"]
            click.echo(
                f"{name + ', ' + str(length):34}{row['ms_a_token']:9.3f} {row['ms_a_token'] / first:6.2f} {row['peak_mb']:8.0f}"
            )
    if picture:
        draw(results, picture)
    if file:
        write_json(file, "length", results, dropout=dropout, tokens=TOKENS)
    return None


if __name__ == "__main__":
    main()
