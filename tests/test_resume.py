"""Training broken off and gone on with is the training that was never broken off: every bit of it."""

import shutil

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.callbacks import Checkpoints, Interrupted, Resume
from keras_transformer.checkpoints import save_checkpoint

EN = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps"] * 3
DE = ["ein Hund rennt", "eine Katze rennt", "der Hund schläft", "die Katze schläft"] * 3
TOKENIZER = kt.Tokenizer.train(EN + DE, vocabulary_size=300)
EPOCHS = 2


class Stop(keras.callbacks.Callback):
    """Ends ``fit`` as a signal does, before its n-th batch."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_train_batch_begin(self, batch, logs=None):
        self.at -= 1
        if self.at < 0:
            raise Interrupted(15)


class Training:
    """One model, compiled once; brought back to its beginning for each training."""

    def __init__(self, folder, dropout, accumulate=1, policy=None):
        self.folder = folder
        optimizer = keras.optimizers.Adam(kt.WarmupInverseSqrt(8, warmup_steps=10), global_clipnorm=1.0)
        if accumulate > 1:
            optimizer = kt.AccumulateGradients(optimizer, accumulate)
        self.model = kt.Transformer(
            TOKENIZER.vocabulary_size, d_model=8, num_heads=2, num_layers=1, dropout=dropout, seed=1, dtype=policy
        )
        self.model.compile(kt.SkipNonFinite(optimizer))
        self.model.optimizer.build(self.model.trainable_variables)
        self.beginning = self.variables()

    def data(self):
        return kt.Batches(EN, DE, TOKENIZER, batch_tokens=24, num_buckets=2, seed=3)

    def all(self):
        model = self.model
        return [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]

    def variables(self):
        return [np.array(ops.convert_to_numpy(variable)) for variable in self.all()]

    def set(self, values):
        for variable, value in zip(self.all(), values, strict=True):
            variable.assign(value)

    def scramble(self):
        """Another process would begin with other numbers."""
        generator = np.random.default_rng(0)
        self.set([generator.integers(1, 9, value.shape).astype(value.dtype) for value in self.beginning])

    def fit(self, name, *callbacks):
        folder = self.folder / name
        if not callbacks and name == "whole":
            shutil.rmtree(folder, ignore_errors=True)
        self.checkpoints = Checkpoints(folder)
        callbacks = [Resume(folder), self.checkpoints, *callbacks]
        return self.model.fit(self.data(), epochs=EPOCHS, callbacks=callbacks, verbose=0).history

    def whole(self):
        self.set(self.beginning)
        return self.fit("whole"), self.variables()

    def broken_off(self, *stops):
        """The same, broken off before each of those batches."""
        name = "-".join(map(str, stops))
        self.set(self.beginning)
        for at in stops:
            with pytest.raises(Interrupted):
                self.fit(name, Stop(at))
            self.checkpoints.save()
            self.checkpoints.wait()
            self.checkpoints.on_train_end()
            self.scramble()
        return self.fit(name), self.variables()


def largest_difference(one, other):
    return max(np.abs(np.subtract(a, b, dtype="float64")).max() for a, b in zip(one, other, strict=True))


def check(training, *stops):
    """The largest difference of all variables after training broken off at those batches; logs must be equal too."""
    history, variables = training.whole()
    worst = 0.0
    for at in stops:
        other_history, other_variables = training.broken_off(at)
        worst = max(worst, largest_difference(variables, other_variables))
        for name, numbers in other_history.items():
            assert numbers == history[name][EPOCHS - len(numbers) :], name
    return worst


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    return Training(tmp_path_factory.mktemp("runs"), dropout=0.3, accumulate=3, policy="mixed_float16")


MIXED = "broken off and gone on with: dropout 0.3, accumulation of 3, mixed_float16"


def test_in_mid_epoch_with_dropout_accumulation_and_mixed_precision(training, figure):
    steps = len(training.data())
    worst = check(training, 2, steps + 1)
    figure(f"{MIXED}; in mid-epoch", 2, f"largest difference {worst}")
    assert worst == 0.0
    assert training.checkpoints.step == EPOCHS * steps


def test_broken_off_twice_and_while_batches_are_passed_over(training, figure):
    steps = len(training.data())
    _, variables = training.whole()
    for stops in ((steps - 1, steps), (5, 2), (steps + 3, 0)):  # the second ones while the first are only read
        _, others = training.broken_off(*stops)
        worst = largest_difference(variables, others)
        figure(f"{MIXED}; twice, also while batches are passed over", 1, f"largest difference {worst}")
        assert worst == 0.0, stops
    assert largest_difference(training.beginning, variables) > 0


def test_a_foreign_model_goes_on_too(tmp_path):
    x, y = np.arange(24, dtype="float32").reshape(12, 2) / 24, np.arange(12, dtype="float32").reshape(12, 1)

    def make():
        layers = [keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(1)]
        model = keras.Sequential(layers)
        model.compile("adam", loss="mse")
        return model

    def fit(model, name, *more):
        checkpoints = Checkpoints(tmp_path / name)
        callbacks = [Resume(tmp_path / name), checkpoints, *more]
        try:
            model.fit(x, y, batch_size=2, epochs=3, shuffle=False, callbacks=callbacks, verbose=0)
        except Interrupted:
            checkpoints.save()
            checkpoints.on_train_end()

    whole, parts, other = make(), make(), make()
    parts.set_weights(whole.get_weights())
    fit(whole, "whole")
    fit(parts, "parts", Stop(9))
    with pytest.warns(UserWarning, match="Resume cannot tell whether the data give the batches again"):
        fit(other, "parts")
    assert largest_difference(whole.get_weights(), other.get_weights()) == 0.0


def test_a_checkpoint_that_tells_no_place_is_refused(training, tmp_path):
    save_checkpoint(training.model, tmp_path, {"epoch": 1})
    with pytest.raises(kt.ArtifactError, match="it does not tell where training stood. Expected what callbacks.Check"):
        training.model.fit(training.data(), callbacks=[Resume(tmp_path)], verbose=0)


def test_without_a_checkpoint_it_begins_as_always(training, tmp_path):
    resume = Resume(tmp_path / "none")
    training.model.fit(training.data(), callbacks=[resume], verbose=0)
    assert resume.state is None


def test_in_the_middle_of_an_epoch_other_data_are_refused(training):
    training.set(training.beginning)
    with pytest.raises(Interrupted):
        training.fit("other data", Stop(2))
    training.checkpoints.save()
    training.checkpoints.on_train_end()
    folder = training.folder / "other data"
    others = [
        kt.Batches(EN[:-1], DE[:-1], TOKENIZER, batch_tokens=24, num_buckets=2, seed=3),
        kt.Batches(EN, DE, TOKENIZER, batch_tokens=24, num_buckets=2, seed=4),
        kt.Batches(EN, DE, TOKENIZER, batch_tokens=32, num_buckets=2, seed=3),
    ]
    for data in others:
        with pytest.raises(ValueError, match="step-2 stands in the middle of an epoch of other data"):
            training.model.fit(data, callbacks=[Resume(folder)], verbose=0)
    training.fit("other data")
    assert training.checkpoints.epoch == EPOCHS  # at whose end others may come
    training.model.fit(others[0], epochs=EPOCHS + 1, callbacks=[Resume(folder), Checkpoints(folder)], verbose=0)
