"""What a checkpoint costs training: seconds that training waits for it, over 500 median steps.

python benchmarks/saving.py --preset small --saves 5
"""

import statistics
import tempfile
import time

import click


@click.command()
@click.option("--preset", default="small")
@click.option("--saves", default=5, help="Checkpoints taken.")
@click.option("--between", default=10, help="Steps from one to the next.")
@click.option("--batch-tokens", default=4096)
def main(preset, saves, between, batch_tokens):
    """Prints a line of figures; the share is that of one save every 500 steps."""
    import keras
    import numpy as np

    import keras_transformer as kt

    model = kt.Transformer.from_preset(preset, seed=1)
    model.compile()
    generator = np.random.default_rng(1)
    rows = batch_tokens // 32
    ids = generator.integers(4, model.vocabulary_size, (rows, 32), dtype="int32")
    steps = saves * between + 1
    batches = ((({"source": ids, "target": ids}), ids) for _ in range(steps))
    times, blocked = [], []

    class Clock(keras.callbacks.Callback):
        """The last callback before a step and the first after: their difference is the step."""

        def on_train_batch_begin(self, batch, logs=None):
            self.begin = time.monotonic()

        def on_train_batch_end(self, batch, logs=None):
            times.append(time.monotonic() - self.begin)

    with tempfile.TemporaryDirectory() as folder:
        checkpoints = kt.callbacks.Checkpoints(folder, steps=between, minutes=None)
        save = checkpoints.save

        def timed():
            before = checkpoints.blocked
            save()
            blocked.append(checkpoints.blocked - before)

        checkpoints.save = timed
        model.fit(batches, steps_per_epoch=steps, callbacks=[checkpoints, Clock()], verbose=0)
    step, wait = statistics.median(times), statistics.median(blocked)
    click.echo(
        f"{keras.backend.backend()} {preset}: step {step * 1e3:.1f} ms, blocked {wait * 1e3:.1f} ms a save, "
        f"{wait / (500 * step):.3%} of 500 steps"
    )


if __name__ == "__main__":
    main()
