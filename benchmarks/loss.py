"""Loss over a large vocabulary: milliseconds and peak extra memory of value and gradients, chunks against the whole logits.

    python benchmarks/loss.py --rounds 5

Smoothed cross-entropy of hidden states (64, 64, 256) scored against a table (32000, 256), with the gradients by both; the logits
alone are 500 MB. Forms: our chunks; plain, the sparse loss on logits made before; Keras's one-hot loss; on PyTorch its own
cross_entropy as well. The forms of one backend run side by side, one backend after the other.

Memory is that of the first run in a fresh process, after compilation (on PyTorch after a run on 8 tokens), gradients included:
the peak less what the process held just before. Every process keeps the memory it frees, as one that trains with this package.
"""

import gc
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from harness import chosen, forget_peak, head, machine, measure, median, serve, spread, status_mb, write_json

ROWS, LENGTH, WIDTH, VOCABULARY = 64, 64, 256, 32_000
SMOOTHING = 0.1
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
FORMS = ("chunks", "plain", "one-hot", "cross_entropy")  # the last on PyTorch alone

MOST_MB, MOST_TIME, MOST_ERROR = 320, 1.10, 1e-5  # of the chunks: memory; time and results against the plain form


def inputs():
    """Hidden states and a table as a model's: logits of about unit variance. No label is padding."""
    generator = np.random.default_rng(0)
    hidden = generator.standard_normal((ROWS, LENGTH, WIDTH), dtype="float32")
    table = generator.standard_normal((VOCABULARY, WIDTH), dtype="float32") * np.float32(WIDTH**-0.5)
    labels = generator.integers(4, VOCABULARY, (ROWS, LENGTH), dtype="int32")
    return hidden, table, labels


def chunks(hidden, table, labels):
    from keras_transformer.losses import projected_token_statistics

    return projected_token_statistics(hidden, table, labels, SMOOTHING, training=True).mean_loss


def plain(hidden, table, labels):
    import keras_transformer as kt

    return kt.SmoothedCrossentropy(SMOOTHING)(labels, _logits(hidden, table))


def one_hot(hidden, table, labels):
    import keras
    from keras import ops

    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=SMOOTHING)
    return loss(ops.one_hot(labels, VOCABULARY), _logits(hidden, table))


def cross_entropy(hidden, table, labels):
    import torch

    logits = hidden.reshape(-1, WIDTH) @ table.T
    return torch.nn.functional.cross_entropy(logits, labels.reshape(-1).long(), label_smoothing=SMOOTHING)


def _logits(hidden, table):
    """(B, T, D) -> (B, T, V) by one two-dimensional product, which is the fastest everywhere."""
    from keras import ops

    logits = ops.matmul(ops.reshape(hidden, (-1, WIDTH)), ops.transpose(table))
    return ops.reshape(logits, (*hidden.shape[:2], VOCABULARY))


def ready_tensorflow(loss):
    """Each of these compiles without running; the function they return gives loss and gradients, all computed."""
    import tensorflow as tf

    @tf.function
    def step(hidden, table, labels):
        with tf.GradientTape() as tape:
            tape.watch([hidden, table])
            value = loss(hidden, table, labels)
        return value, *tape.gradient(value, [hidden, table])

    tensors = [tf.constant(array) for array in inputs()]
    compiled = step.get_concrete_function(*tensors)
    return lambda: [part.numpy() for part in compiled(*tensors)]  # numpy() shares the tensor's memory


def ready_jax(loss):
    import jax

    tensors = [jax.device_put(array) for array in inputs()]
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*tensors).compile()

    def run():
        value, gradients = jax.block_until_ready(compiled(*tensors))
        return [np.asarray(part) for part in (value, *gradients)]

    return run


def ready_torch(loss):
    import torch

    def step(hidden, table, labels):
        value = loss(hidden, table, labels)
        return value.detach(), *torch.autograd.grad(value, (hidden, table))

    hidden, table, labels = (torch.from_numpy(array) for array in inputs())
    tensors = hidden.requires_grad_(), table.requires_grad_(), labels
    step(hidden[:1, :8], table, labels[:1, :8])  # nothing to compile, but libraries set up what they need
    return lambda: [part.numpy() for part in step(*tensors)]


def contender(backend, form, seconds, folder):
    """The child's side."""
    from keras_transformer.backend_training import keep_freed_memory

    keep_freed_memory()
    loss = {"chunks": chunks, "plain": plain, "one-hot": one_hot, "cross_entropy": cross_entropy}[form]
    run = {"tensorflow": ready_tensorflow, "jax": ready_jax, "torch": ready_torch}[backend](loss)
    gc.collect()
    forget_peak()
    before = status_mb("VmRSS")
    results = run()
    extra = status_mb("VmHWM") - before
    np.savez(Path(folder) / f"{backend} {form}.npz", *results)
    del results
    begin = time.perf_counter()
    run()
    runs = max(1, round(seconds / (time.perf_counter() - begin)))

    def burst():
        begin = time.perf_counter()
        for _ in range(runs):
            run()
        return {"ms": (time.perf_counter() - begin) / runs * 1000, "extra_mb": extra}

    serve(burst)


def difference(folder, backend, form):
    """The largest difference from the plain form's loss and gradients, each relative to its largest entry."""
    with np.load(folder / f"{backend} {form}.npz") as ours, np.load(folder / f"{backend} plain.npz") as plain:
        pairs = [(ours[name], plain[name]) for name in plain.files]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def verdicts(results, name):
    """Whether the chunks keep within their bounds on a backend: lines to print."""
    ours, peer = results[f"{name}, chunks"], results[f"{name}, plain"]
    found = (
        ("extra memory", median(ours, "extra_mb"), MOST_MB, "{:.0f} MB"),
        ("time over plain", median(ours, "ms") / median(peer, "ms"), MOST_TIME, "{:.2f}"),
        ("difference from plain", ours[0]["difference"], MOST_ERROR, "{:.1e}"),
    )
    for what, value, most, form in found:
        verdict = "kept" if value <= most else "MISSED"
        yield f"{name}, chunks: {what} {form.format(value)}, at most {form.format(most)}: {verdict}"


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=float, default=3.0, show_default=True, help="Length of a burst.")
@click.option("--backends", default=",".join(BACKENDS), show_default=True, help="Comma-separated.")
@click.option("--json", "file", default=None, help="Where to write every measurement.")
@click.option("--contender", "child", nargs=3, hidden=True)
def main(rounds, seconds, backends, file, child):
    if child:
        return contender(*child[:2], seconds, child[2])
    click.echo(head(machine()))
    click.echo(f"{ROWS * LENGTH} tokens x {VOCABULARY} entries x width {WIDTH}, float32, {rounds} rounds")
    click.echo(f"{'':26}{'ms':>7} {'spread':>7} {'of plain':>9} {'extra MB':>9} {'difference':>11}")
    results, lines = {}, []
    for backend in chosen(BACKENDS, backends.split(",")):
        found = measure_backend(backend, rounds, seconds)
        results |= found
        base = found.get(f"{BACKENDS[backend]}, plain")
        for name, bursts in found.items():
            ms = median(bursts, "ms")
            ratio = f"{ms / median(base, 'ms'):.2f}" if base else "-"
            click.echo(
                f"{name:26}{ms:7.0f} {spread(bursts, 'ms'):7.1%} {ratio:>9} {median(bursts, 'extra_mb'):9.0f} "
                f"{bursts[0]['difference']:11.1e}"
            )
        if base and f"{BACKENDS[backend]}, chunks" in found:
            lines += verdicts(found, BACKENDS[backend])
    click.echo("\n".join(lines))
    if file:
        write_json(file, "loss", results, tokens=ROWS * LENGTH, vocabulary=VOCABULARY, width=WIDTH)
    return None


def measure_backend(backend, rounds, seconds):
    forms = FORMS if backend == "torch" else FORMS[:-1]
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            f"{BACKENDS[backend]}, {form}": (
                [sys.executable, __file__, "--seconds", str(seconds), "--contender", backend, form, folder],
                {"KERAS_BACKEND": backend},
            )
            for form in forms
        }
        results = measure(commands, rounds, echo=click.echo)
        for name, bursts in results.items():
            error = difference(Path(folder), backend, name.split(", ")[1])
            for burst in bursts:
                burst["difference"] = error
    return results


if __name__ == "__main__":
    main()
