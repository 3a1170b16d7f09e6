"""A small training for children that are killed: python tests/reliability/training.py FOLDER [STEP]

Goes on where FOLDER stands; kills itself with signal 9 when it reaches step STEP. Prints a line "step tokens loss" a batch, both
of the epoch so far, the loss their mean, and writes the weights to FOLDER/weights.npz when it ends.
"""

import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

import keras_transformer as kt
from keras_transformer.callbacks import Checkpoints, Resume

EN = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps"] * 3
DE = ["ein Hund rennt", "eine Katze rennt", "der Hund schläft", "die Katze schläft"] * 3
EPOCHS = 5


class Watch(keras.callbacks.Callback):
    def __init__(self, data, last):
        super().__init__()
        self.data, self.last = data, last

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
        self.data.set_epoch(epoch)
        self.tokens = np.cumsum([(self.data[index][1] != 0).sum() for index in range(len(self.data))])

    def on_train_batch_end(self, batch, logs=None):
        step = self.epoch * len(self.tokens) + batch + 1
        if (logs or {}).get("loss"):  # nothing while batches are passed over
            print(step, self.tokens[batch], f"{float(logs['loss']):.8f}", flush=True)
        if step == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder, last=None):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(1)
    tokenizer = kt.Tokenizer.train(EN + DE, vocabulary_size=300)
    data, same = (kt.Batches(EN, DE, tokenizer, batch_tokens=24, num_buckets=2, seed=3) for _ in range(2))
    assert EPOCHS * len(data) == 60
    model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1)
    # At ten times the rate the same training is chaos: 1e-7 of the first weights becomes 6e-2 of the last losses, on one backend.
    model.compile(kt.SkipNonFinite(keras.optimizers.Adam(kt.WarmupInverseSqrt(8, warmup_steps=20, scale=0.1))))
    checkpoints = Checkpoints(folder / "checkpoints", steps=3)
    callbacks = [Resume(folder), checkpoints, Watch(same, last)]
    model.fit(data, epochs=EPOCHS, callbacks=callbacks, verbose=0)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == checkpoints.step == 60
    np.savez(folder / "weights.npz", *model.get_weights())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
