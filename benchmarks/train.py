"""One training step, side by side: ours and its peers on each backend, in target tokens a second.

    python benchmarks/train.py --size small --rounds 10

Ours drops out at the four places of the paper's recipe (residual, embedding + position, attention weights, activation); the
peers as they come. ``--dropout 0`` takes dropout from all. A contender whose package is missing is left out, and said so.
"""

import sys
from pathlib import Path

import click
from harness import chosen, head, machine, measure, median, spread, write_json

SIZES = {  # benchmark sizes, not presets
    "small": {"num_layers": 3, "d_model": 256, "num_heads": 4, "d_ff": 1024},
    "base": {"num_layers": 6, "d_model": 512, "num_heads": 8, "d_ff": 2048},
}
VOCABULARY, ROWS, LENGTH = 8000, 64, 24

CONTENDERS = {  # name: (function of contenders.py, KERAS_BACKEND, precision)
    "ours, TensorFlow": ("ours", "tensorflow", "float32"),
    "ours, JAX": ("ours", "jax", "float32"),
    "ours, PyTorch": ("ours", "torch", "float32"),
    "keras-nlp layers, TensorFlow": ("keras_nlp", "tensorflow", "float32"),
    "keras-nlp layers, JAX": ("keras_nlp", "jax", "float32"),
    "keras-nlp layers, PyTorch": ("keras_nlp", "torch", "float32"),
    "JAX by hand": ("jax_by_hand", "jax", "float32"),
    "torch.nn.Transformer": ("torch_transformer", "torch", "float32"),
    "torch.nn.Transformer, compiled": ("torch_compiled", "torch", "float32"),
    "MarianMTModel": ("marian", "torch", "float32"),
    "JoeyNMT": ("joeynmt", "torch", "float32"),
    "ours, TensorFlow, bfloat16": ("ours", "tensorflow", "mixed_bfloat16"),
    "ours, PyTorch, bfloat16": ("ours", "torch", "mixed_bfloat16"),
    "torch.nn.Transformer, bfloat16": ("torch_transformer", "torch", "mixed_bfloat16"),
}

# Contenders that run side by side. At base all of them would take 40 GB; each group has its own peers.
GROUPS = {
    "small": [list(CONTENDERS)],
    "base": [
        [
            "ours, TensorFlow",
            "ours, JAX",
            "keras-nlp layers, TensorFlow",
            "keras-nlp layers, JAX",
            "JAX by hand",
        ],
        ["ours, TensorFlow", "ours, JAX", "ours, PyTorch", "torch.nn.Transformer", "MarianMTModel", "JoeyNMT"],
        [
            "ours, TensorFlow",
            "ours, PyTorch",
            "keras-nlp layers, PyTorch",
            "ours, TensorFlow, bfloat16",
            "ours, PyTorch, bfloat16",
            "torch.nn.Transformer, bfloat16",
        ],
    ],
}

# Rows of the table: ours, and whom it is measured against.
RATIOS = [
    ("ours, TensorFlow", "keras-nlp layers, TensorFlow"),
    ("ours, JAX", "keras-nlp layers, JAX"),
    ("ours, JAX", "JAX by hand"),
    ("ours, PyTorch", "keras-nlp layers, PyTorch"),
    ("ours, PyTorch", "torch.nn.Transformer"),
    ("ours, PyTorch, bfloat16", "torch.nn.Transformer, bfloat16"),
    ("ours, PyTorch, bfloat16", "ours, PyTorch"),
    ("ours, TensorFlow, bfloat16", "ours, TensorFlow"),
]


def step_flops(num_layers, d_model, num_heads, d_ff):
    """Multiplications and additions of the matrix products of one step: forward, and twice that backward."""
    tokens = ROWS * LENGTH
    encoder = 4 * d_model**2 + 2 * d_model * d_ff
    decoder = 8 * d_model**2 + 2 * d_model * d_ff
    products = num_layers * (encoder + decoder) + d_model * VOCABULARY
    attention = 3 * num_layers * 2 * LENGTH * d_model  # scores and weighted sums of three attentions
    return 3 * 2 * tokens * (products + attention)


def _best(results):
    """Our fastest backend and the fastest of the toolkits, in float32."""
    float32 = [name for name in results if CONTENDERS[name][-1] == "float32"]
    groups = [
        [name for name in float32 if name.startswith(start)] for start in (("ours",), ("torch", "Marian", "Joey"))
    ]
    if not all(groups):
        return []
    return [tuple(max(group, key=lambda name: median(results[name], "tokens_per_second")) for group in groups)]


@click.command(help=__doc__)
@click.option("--size", type=click.Choice(list(SIZES)), default="small", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=10, show_default=True)
@click.option("--seconds", type=float, default=3.0, show_default=True, help="Length of a burst.")
@click.option("--dropout", type=float, default=0.1, show_default=True)
@click.option(
    "--only", multiple=True, help="Only this contender, or those whose name has these words; may be given again."
)
@click.option("--json", "file", default=None, help="Where to write every measurement.")
def main(size, rounds, seconds, dropout, only, file):
    click.echo(head(machine()))
    groups, meant = [], chosen(CONTENDERS, only)
    for group in GROUPS[size]:
        names = [name for name in group if name in meant]
        if names:
            results = measure(_commands(names, size, seconds, dropout), rounds, echo=click.echo)
            click.echo(f"size {size}, dropout {dropout}, {rounds} rounds")
            report(results, size)
            groups.append(results)
            if file:
                write_json(file, "train", groups, size=size, dropout=dropout, flops_a_token=_flops_a_token(size))


def _commands(names, size, seconds, dropout):
    script, commands = str(Path(__file__).with_name("contenders.py")), {}
    for name in names:
        function, backend, precision = CONTENDERS[name]
        arguments = [function, "--size", size, "--precision", precision]
        arguments += ["--dropout", str(dropout), "--seconds", str(seconds)]
        commands[name] = [sys.executable, script, *arguments], {"KERAS_BACKEND": backend}
    commands["matrix products"] = [sys.executable, script, "matmul", "--seconds", "1"], {}
    return commands


def _flops_a_token(size):
    return step_flops(**SIZES[size]) / (ROWS * LENGTH)


def report(results, size):
    """Prints a group's table and its ratios. The rate is of float32 products, so 16 bits have no share of it."""
    rate = median(results["matrix products"], "flops") if "matrix products" in results else float("nan")
    results = {name: bursts for name, bursts in results.items() if name in CONTENDERS}
    click.echo(f"matrix products run at {rate / 1e9:.0f} GFLOP/s (float32)")
    click.echo(f"{'':34}{'tokens/s':>9} {'spread':>7} {'of rate':>8} {'peak MB':>8}")
    for name, bursts in results.items():
        speed = median(bursts, "tokens_per_second")
        share = f"{speed * _flops_a_token(size) / rate:.0%}" if CONTENDERS[name][-1] == "float32" else ""
        click.echo(
            f"{name:34}{speed:9.0f} {spread(bursts, 'tokens_per_second'):7.1%} {share:>8} {median(bursts, 'peak_mb'):8.0f}"
        )
    for ours, peer in [*RATIOS, *_best(results)]:
        if ours in results and peer in results:
            ratio = median(results[ours], "tokens_per_second") / median(results[peer], "tokens_per_second")
            click.echo(f"{ratio:5.2f}  {ours} / {peer}")


if __name__ == "__main__":
    main()
