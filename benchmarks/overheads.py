"""What the package costs beside the work itself: importing it, and checking ids on the host. Prints ratios.

KERAS_BACKEND=jax python benchmarks/overheads.py
"""

import statistics
import subprocess
import sys
import time

import keras
import numpy as np

import keras_transformer as kt
from keras_transformer.inputs import IdCheck

ROUNDS = 5


def seconds(function, repeat=1):
    begin = time.perf_counter()
    for _ in range(repeat):
        function()
    return (time.perf_counter() - begin) / repeat


def import_seconds(code):
    """Seconds a fresh process takes for ``code``, which prints them."""
    return float(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()[-1]
    )


def main():
    code = "import time; {}; b = time.perf_counter(); import keras_transformer; print(time.perf_counter() - b)"
    cost = statistics.median(import_seconds(code.format("import keras")) for _ in range(ROUNDS))
    print(f"import keras_transformer after import keras: {cost:.2f} s")

    generator = np.random.default_rng(0)
    model = kt.Transformer.from_preset("tiny", vocabulary_size=8000)
    model.compile()
    source, target, labels = (generator.integers(4, 8000, (236, length), dtype="int32") for length in (16, 17, 17))
    inputs = {"source": source, "target": target}
    model.train_on_batch(inputs, labels)
    step = statistics.median(seconds(lambda: model.train_on_batch(inputs, labels)) for _ in range(ROUNDS))
    tokens = int((labels > 0).sum())
    print(f"a step of the preset tiny, {tokens:,} target tokens, {keras.config.backend()}: {step:.2f} s")
    check = IdCheck(8000)
    checking = statistics.median(seconds(lambda: check.batch(inputs, labels), repeat=100) for _ in range(ROUNDS))
    print(
        f"checking the ids of a batch: {1e6 * checking:.0f} microseconds, {checking / step:.3%} of a step of the preset tiny"
    )


if __name__ == "__main__":
    main()
