"""SpikeRollback: a loss that is made to jump, and the weights after it."""

import keras
import numpy as np
import pytest
from small_training import DE, EN, TOKENIZER, fit, make_training

import keras_transformer as kt
from keras_transformer.callbacks import Checkpoints, SpikeRollback


def test_a_loss_that_jumps_is_gone_back_from(tmp_path):
    """The embeddings are spoilt before the eighth batch; a batch later the weights are those before the seventh again."""
    model, _ = make_training()
    batches = kt.Batches(EN, DE, TOKENIZER, batch_tokens=24, num_buckets=2)
    assert len(batches) >= 10
    seen = {}

    class Spoil(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            embeddings = self.model.target_embedding.embeddings
            if batch == 7:
                embeddings.assign(50 * embeddings)
            seen[batch] = [np.array(weight) for weight in self.model.get_weights()]

    checkpoints = Checkpoints(tmp_path, steps=2, keep=9)
    rollback = SpikeRollback(checkpoints, factor=1.5, every=2, window=3)
    fit(model, batches, [checkpoints, rollback, Spoil()])
    (told,) = rollback.rollbacks
    assert (told["step"], told["to"]) == (8, 6) and told["loss"] > 1.5 * told["median"]
    for one, other in zip(seen[6], seen[8], strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(model.optimizer.iterations) == len(batches) - 2
    for name, value in {"factor": 1, "every": 0, "window": 0, "most": 0}.items():
        with pytest.raises(ValueError, match=f"{name}"):
            SpikeRollback(checkpoints, **{name: value})
