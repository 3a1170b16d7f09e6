"""Prints how many MB training takes beyond what the built model holds; run as a child process, for peak memory is a process's.

4,096 target tokens, V = 32,000, 2 layers of width 256, through ``fit`` with both metrics.
"""

import threading
import time

import numpy as np
import psutil

import keras_transformer as kt


class _PeakMemory(threading.Thread):
    """Samples the resident memory: ru_maxrss would also count what building the model took for a moment."""

    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.open = 0, True

    def run(self):
        process = psutil.Process()
        while self.open:
            self.peak = max(self.peak, process.memory_info().rss)
            time.sleep(0.005)


def main(rows=128, length=32, vocabulary_size=32_000):
    model = kt.Transformer(vocabulary_size, d_model=256, num_heads=4, num_layers=2, d_ff=1024, dropout=0.1)
    model.compile()
    model.optimizer.build(model.trainable_variables)
    generator = np.random.default_rng(0)
    ids = generator.integers(4, vocabulary_size, (3 * rows, length), dtype="int32")
    watch = _PeakMemory()
    before = psutil.Process().memory_info().rss
    watch.start()
    model.fit({"source": ids, "target": ids}, ids, batch_size=rows, epochs=2, verbose=0)
    watch.open = False
    watch.join()
    print(f"{(max(watch.peak, before) - before) / 2**20:.0f} MB")


if __name__ == "__main__":
    main()
