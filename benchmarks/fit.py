"""What ``fit`` costs beside the bare step, what length-bucketed batches gain, and how many shapes are compiled.

    python benchmarks/fit.py --rounds 5

overhead  ``train_on_batch`` on one batch against ``fit`` on batches of that shape, without callbacks and with those of a run. A
          share is lost to each batch; ending an epoch (curves, checkpoint, translator) and beginning ``fit`` cost seconds.
tokens    real target tokens a second on Multi30k: kt.Batches under a token budget against random batches of 64 rows, padded to
          their longest. Same pairs, tokenizer and model (bench-small). Every shape was compiled before. The random way is timed
          on a sample of its batches, for each has a shape of its own, which JAX compiles for seconds.
shapes    how often the Python body of the train and test step is traced in the first and second epoch of ``fit``.

The last two need Multi30k, in ../shared/data/multi30k or where KERAS_TRANSFORMER_MULTI30K says.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from harness import chosen, head, machine, measure, median, serve, spread, write_json
from train import LENGTH, ROWS, SIZES, VOCABULARY

MULTI30K = Path(os.environ.get("KERAS_TRANSFORMER_MULTI30K") or Path(__file__).parents[2] / "shared/data/multi30k")
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
RANDOM_ROWS = 64


# overhead


def overhead(size, seconds):
    """One burst: as many steps in each of three ways, and what each took."""
    import keras

    import keras_transformer as kt

    generator = np.random.default_rng(0)
    ids = [generator.integers(4, VOCABULARY, (ROWS, LENGTH), dtype="int32") for _ in range(3)]
    batch = {"source": ids[0], "target": ids[1]}, ids[2]

    class SameBatch(keras.utils.PyDataset):
        def __init__(self, length):
            super().__init__()
            self.length = length

        def __len__(self):
            return self.length

        def __getitem__(self, index):
            return batch

    class Clock(keras.callbacks.Callback):
        """Put first: its on_epoch_end runs when the last step's logs have come back, before any other callback's."""

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch_begin = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.steps_end = time.perf_counter()

    class EpochEnd(keras.callbacks.Callback):
        """Put last."""

        def on_epoch_end(self, epoch, logs=None):
            self.time = time.perf_counter()

    model = kt.Transformer(VOCABULARY, dropout=0.1, seed=0, **SIZES[size])
    model.compile()
    folder = tempfile.TemporaryDirectory()

    def bare(steps):
        begin = time.perf_counter()
        for _ in range(steps):
            model.train_on_batch(*batch)
        return (time.perf_counter() - begin) / steps

    def fit(steps, callbacks):
        clock, end = Clock(), EpochEnd()
        begin = time.perf_counter()
        model.fit(SameBatch(steps), epochs=1, verbose=0, callbacks=[clock, *callbacks, end])
        return {
            "step": (clock.steps_end - clock.epoch_begin) / steps,
            "begin": clock.epoch_begin - begin,
            "end": end.time - clock.steps_end,
        }

    def of_a_run():
        run = tempfile.mkdtemp(dir=folder.name)  # each is a training of its own
        return _callbacks_of_a_run(Path(run), ROWS * LENGTH)

    bare(1)
    fit(2, of_a_run())
    steps = max(3, round(seconds / bare(2)))

    def burst():
        step, plain, full = bare(steps), fit(steps, []), fit(steps, of_a_run())
        return {
            "steps": steps,
            "step_ms": 1000 * step,
            "lost": 1 - step / plain["step"],
            "lost_with_callbacks": 1 - step / full["step"],
            "begin_s": full["begin"],
            "epoch_end_s": full["end"],
        }

    return burst


def _callbacks_of_a_run(folder, tokens_per_batch):
    """Those of runs.Run.train but for Bleu, whose time is decoding; a model file stands for the best translator's."""
    import keras

    from keras_transformer import callbacks

    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, lives as long as the process
    return [
        callbacks.LearningRate(),
        callbacks.ProgressBar(tokens_per_batch, file=nowhere),
        callbacks.LearningCurves(folder),
        callbacks.TensorBoard(folder / "tensorboard"),
        callbacks.Checkpoints(folder / "checkpoints"),
        keras.callbacks.ModelCheckpoint(str(folder / "best.keras")),
        callbacks.Limit(minutes=1e6),
    ]


# tokens


def corpus(pairs):
    """The first pairs of Multi30k and a tokenizer made from them, the same in every process."""
    import keras_transformer as kt
    from keras_transformer.text import read_pairs

    texts = read_pairs(MULTI30K / "train.en.gz", MULTI30K / "train.de.gz")
    source, target = texts.source[:pairs], texts.target[:pairs]
    return source, target, kt.Tokenizer.train([*source, *target], vocabulary_size=VOCABULARY)


def random_batches(source, target, tokenizer, epoch=0):
    """A whole epoch of 64 random rows at a time, padded to their longest: list of ({"source", "target"}, labels)."""
    sources = tokenizer.encode(source, add_eos=True)
    targets = tokenizer.encode(target, add_bos=True, add_eos=True)

    def pad(rows):
        padded = np.full((RANDOM_ROWS, max(map(len, rows))), tokenizer.pad_id, dtype="int32")
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return padded

    order = np.random.default_rng(epoch).permutation(len(source))
    made = []
    for begin in range(0, len(order) - RANDOM_ROWS + 1, RANDOM_ROWS):
        chosen = order[begin : begin + RANDOM_ROWS]
        inputs = {"source": pad([sources[i] for i in chosen]), "target": pad([targets[i][:-1] for i in chosen])}
        made.append((inputs, pad([targets[i][1:] for i in chosen])))
    return made


def tokens(way, pairs, batch_tokens, sample):
    import keras_transformer as kt

    source, target, tokenizer = corpus(pairs)
    if way == "bucketed":
        batches = kt.Batches(source, target, tokenizer, batch_tokens=batch_tokens)
        made = [batches[index] for index in range(len(batches))]
        shapes = [len(_shapes(made))] * 2  # the same in every epoch
    else:
        epochs = [random_batches(source, target, tokenizer, epoch) for epoch in range(5)]
        made = epochs[0]
        shapes = [len(_shapes(made)), len(set().union(*map(_shapes, epochs)))]
    padding = 1 - _count_real(made) / sum(x["source"].size + y.size for x, y in made)
    chosen = made if way == "bucketed" else made[:sample]
    model = kt.Transformer(tokenizer.vocabulary_size, dropout=0.1, seed=0, **SIZES["small"])
    model.compile()
    # JAX compiles for each shape; TensorFlow traces again at the second one, with the sizes left open.
    first_of_shape = list({(x["source"].shape, y.shape): (x, y) for x, y in chosen}.values())
    for inputs, labels in first_of_shape:
        model.train_on_batch(inputs, labels)
    real = sum(int((labels > 0).sum()) for _, labels in chosen)

    def burst():
        begin = time.perf_counter()
        for inputs, labels in chosen:
            model.train_on_batch(inputs, labels)  # gives the loss as a number: each is awaited
        return {
            "tokens_per_second": real / (time.perf_counter() - begin),
            "padding": padding,
            "shapes_epoch": shapes[0],
            "shapes_5_epochs": shapes[1],
            "positions_a_batch": sum(labels.size for _, labels in made) / len(made),
        }

    return burst


def _shapes(batches):
    return {(*inputs["source"].shape, labels.shape[1]) for inputs, labels in batches}


def _count_real(batches):
    return sum(int((inputs["source"] > 0).sum() + (labels > 0).sum()) for inputs, labels in batches)


# shapes


def shapes(pairs):
    """Traces in each of two epochs of ``fit``; the count does not depend on the model's size, so a small one does."""
    import keras

    import keras_transformer as kt

    traces = {"train": 0, "test": 0}

    class Counting(kt.Transformer):
        """JAX and TensorFlow run the body of a step only when they trace it; PyTorch runs it each time."""

        def train_step(self, *args):
            traces["train"] += 1
            return super().train_step(*args)

        def test_step(self, *args):
            traces["test"] += 1
            return super().test_step(*args)

    class Record(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.seen = []

        def on_epoch_end(self, epoch, logs=None):
            self.seen.append(dict(traces))
            traces.update(train=0, test=0)

    source, target, tokenizer = corpus(pairs)
    cut = len(source) * 9 // 10
    train = kt.Batches(source[:cut], target[:cut], tokenizer)
    valid = kt.Batches(source[cut:], target[cut:], tokenizer, shuffle=False, num_buckets=4)
    model = Counting(tokenizer.vocabulary_size, d_model=32, num_heads=2, num_layers=1, seed=0)
    model.compile()

    def burst():
        record = Record()
        model.fit(train, validation_data=valid, epochs=2, verbose=0, callbacks=[record])
        first, second = record.seen
        return {
            "train_shapes": len(train.shapes),
            "test_shapes": len(valid.shapes),
            "train_first": first["train"],
            "test_first": first["test"],
            "train_second": second["train"],
            "test_second": second["test"],
        }

    return burst


# The parent's side


def command(*arguments):
    return [sys.executable, __file__, "--contender", *map(str, arguments)]


def report_overhead(sizes, rounds, seconds):
    results = {}
    click.echo(f"\nfit against train_on_batch, batch {ROWS} x {LENGTH}")
    click.echo(
        f"{'':18}{'step ms':>8} {'spread':>7} {'lost':>6} {'with callbacks':>15} {'epoch end s':>12} {'begin s':>8} {'peak MB':>8}"
    )
    for size in sizes:
        commands = {
            f"{size}, {title}": (command("overhead", size, seconds), {"KERAS_BACKEND": backend})
            for backend, title in BACKENDS.items()
        }
        for name, bursts in measure(commands, rounds, echo=click.echo).items():
            results[name] = bursts
            click.echo(
                f"{name:18}{median(bursts, 'step_ms'):8.0f} {spread(bursts, 'step_ms'):7.1%} {median(bursts, 'lost'):6.1%} "
                f"{median(bursts, 'lost_with_callbacks'):15.1%} {median(bursts, 'epoch_end_s'):12.2f} "
                f"{median(bursts, 'begin_s'):8.2f} {median(bursts, 'peak_mb'):8.0f}"
            )
    return results


def report_tokens(rounds, pairs, batch_tokens, sample):
    results = {}
    click.echo(
        f"\nreal target tokens a second, {pairs} pairs of Multi30k, size small, kt.Batches of {batch_tokens} tokens"
    )
    click.echo(
        f"{'':30}{'tokens/s':>9} {'spread':>7} {'padding':>8} {'positions':>10} {'shapes: 1 epoch':>16} {'5 epochs':>9} "
        f"{'peak MB':>8}"
    )
    for backend, title in BACKENDS.items():
        commands = {
            f"{title}, {name}": (command("tokens", way, pairs, batch_tokens, sample), {"KERAS_BACKEND": backend})
            for name, way in (("kt.Batches", "bucketed"), (f"{RANDOM_ROWS} random rows", "random"))
        }
        found = measure(commands, rounds, echo=click.echo)
        results |= found
        for name, bursts in found.items():
            about = bursts[0]
            click.echo(
                f"{name:30}{median(bursts, 'tokens_per_second'):9.0f} {spread(bursts, 'tokens_per_second'):7.1%} "
                f"{about['padding']:8.0%} {about['positions_a_batch']:10.0f} {about['shapes_epoch']:16} "
                f"{about['shapes_5_epochs']:9} {median(bursts, 'peak_mb'):8.0f}"
            )
        if len(found) == 2:
            ours, peer = (median(bursts, "tokens_per_second") for bursts in found.values())
            click.echo(f"{ours / peer:5.2f}  {title}, kt.Batches / {RANDOM_ROWS} random rows")
    return results


def report_shapes(pairs):
    commands = {
        title: (command("shapes", pairs), {"KERAS_BACKEND": backend})
        for backend, title in BACKENDS.items()
        if backend != "torch"
    }
    results = measure(commands, 1, echo=click.echo)
    click.echo("\ntraces of the steps in fit with kt.Batches and validation (PyTorch compiles nothing)")
    click.echo(f"{'':12}{'step':>6} {'shapes':>7} {'epoch 1':>8} {'epoch 2':>8}")
    for name, (found,) in results.items():
        for step in ("train", "test"):
            first, second, most = (found[f"{step}_{what}"] for what in ("first", "second", "shapes"))
            verdict = "kept" if first <= most and not second else "MISSED"
            click.echo(f"{name:12}{step:>6} {most:7} {first:8} {second:8} {verdict}")
    return results


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--parts", default="overhead,tokens,shapes", show_default=True, help="Comma-separated.")
@click.option("--sizes", default=",".join(SIZES), show_default=True, help="Of the overhead, comma-separated.")
@click.option("--seconds", type=float, default=5.0, show_default=True, help="Length of each way of the overhead.")
@click.option("--pairs", type=int, default=6000, show_default=True, help="Of Multi30k.")
@click.option("--batch-tokens", type=int, default=4096, show_default=True, help="Of kt.Batches.")
@click.option("--sample", type=int, default=16, show_default=True, help="Random batches that are timed.")
@click.option("--json", "file", default=None, help="Where to write every measurement.")
@click.option("--contender", "child", is_flag=True, hidden=True)
@click.argument("arguments", nargs=-1)
def main(rounds, parts, sizes, seconds, pairs, batch_tokens, sample, file, child, arguments):
    if child:
        return contender(*arguments)
    click.echo(f"{head(machine())}\n{rounds} rounds")
    parts, results = chosen(("overhead", "tokens", "shapes"), parts.split(",")), {}
    if "overhead" in parts:
        results["overhead"] = report_overhead(chosen(SIZES, sizes.split(",")), rounds, seconds)
    if {"tokens", "shapes"} & set(parts) and not (MULTI30K / "train.de.gz").is_file():
        click.echo(
            f"\nno Multi30k in {MULTI30K}: tokens and shapes are skipped; KERAS_TRANSFORMER_MULTI30K names its folder"
        )
        parts = []
    if "tokens" in parts:
        results["tokens"] = report_tokens(rounds, pairs, batch_tokens, sample)
    if "shapes" in parts:
        results["shapes"] = report_shapes(pairs)
    if file:
        write_json(file, "fit", results, pairs=pairs, batch_tokens=batch_tokens, sample=sample)
    return None


def contender(part, *arguments):
    """The child's side."""
    if part == "overhead":
        return serve(overhead(arguments[0], float(arguments[1])))
    if part == "tokens":
        return serve(tokens(arguments[0], *map(int, arguments[1:])))
    return serve(shapes(int(arguments[0])))


if __name__ == "__main__":
    main()
