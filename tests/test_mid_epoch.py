"""``fit`` from the middle of an epoch: the batches trained on, the state after each, and what callbacks are told."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.text import Batches

PAD, BOS, EOS = 0, 2, 3


class Letters:
    """An id a character."""

    pad_id, vocabulary_size = PAD, 30

    def encode(self, texts, add_bos=False, add_eos=False):
        return [[BOS] * add_bos + [4 + ord(letter) - ord("a") for letter in text] + [EOS] * add_eos for text in texts]


def make_batches(seed=3):
    """Seven batches of two shapes, no two alike."""
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list("abcdefgh"), length)) for length in [4] * 20 + [7] * 6]
    return Batches(texts, texts, Letters(), batch_tokens=24, num_buckets=2, seed=seed)


@pytest.fixture(scope="module")
def model():
    model = kt.Transformer(Letters.vocabulary_size, d_model=4, num_heads=1, num_layers=1, d_ff=4, dropout=0.1, seed=1)
    model.compile()
    return model


class Diary(keras.callbacks.Callback):
    """What is told, with the state at each point."""

    def __init__(self, batches, stop_at=None):
        super().__init__()
        self.batches, self.stop_at = batches, stop_at
        self.events, self.states = [], []

    def on_train_begin(self, logs=None):
        self.events.append("begin")

    def on_train_end(self, logs=None):
        self.events.append("end")

    def on_epoch_begin(self, epoch, logs=None):
        self.events.append(("epoch", epoch, self.params["steps"]))

    def on_epoch_end(self, epoch, logs=None):
        self.states.append(tuple(self.batches.state().values()))

    def on_train_batch_end(self, batch, logs=None):
        self.states.append(tuple(self.batches.state().values()))
        if len(self.states) == self.stop_at:
            self.model.stop_training = True


def test_state_counts_steps_and_not_what_was_read_ahead(model):
    batches = make_batches()
    length = batches.full_length
    assert length == len(batches) == 7
    diary = Diary(batches)
    model.fit(batches, epochs=2, verbose=0, callbacks=[diary])
    expected = []
    for epoch in range(2):
        expected += [(epoch, step) for step in range(1, length)] + [(epoch + 1, 0)] * 2
    assert diary.states == expected


def weights_after(model, start, **kwargs):
    """Weights after training on from where the recorded run stood."""
    batches = make_batches()
    batches.restore(start["state"])
    model.set_weights(start["weights"])
    model.optimizer.build(model.trainable_variables)
    for variable, value in zip(model.optimizer.variables, start["optimizer"], strict=True):
        variable.assign(value)
    diary = Diary(batches)
    history = model.fit(batches, verbose=0, callbacks=[diary], **kwargs)
    return model.get_weights(), diary, history


def snapshot(model, batches):
    getattr(model, "jax_state_sync", lambda: None)()  # JAX keeps the weights outside of the model during an epoch
    return {
        "state": batches.state(),
        "weights": [np.array(weight) for weight in model.get_weights()],
        "optimizer": [np.array(keras.ops.convert_to_numpy(variable)) for variable in model.optimizer.variables],
    }


@pytest.fixture(scope="module")
def plain_model():
    """No dropout, whose generator is not this test's concern; averages of weights, which the end of ``fit`` puts in."""
    model = kt.Transformer(Letters.vocabulary_size, d_model=4, num_heads=1, num_layers=1, d_ff=4, dropout=0.0, seed=1)
    model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5))
    return model


def test_training_from_the_middle_ends_with_the_same_weights(plain_model):
    model, batches = plain_model, make_batches()
    kept = []
    keep = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: kept.append(snapshot(model, batches)))
    model.fit(batches, epochs=3, verbose=0, callbacks=[keep])
    expected = [np.array(weight) for weight in model.get_weights()]
    for place in (0, 3, 6, 9):  # the last of an epoch among them
        start = kept[place]
        first = start["state"]["epoch"]
        weights, diary, history = weights_after(model, start, epochs=3, initial_epoch=first)
        assert all(np.array_equal(a, b) for a, b in zip(weights, expected, strict=True)), place
        assert diary.events[0] == "begin" and diary.events[-1] == "end"
        assert [epoch for _, epoch, _ in diary.events[1:-1]] == list(range(first, 3))
        lengths = [7 - start["state"]["position"]] + [7] * (2 - first)
        assert [steps for _, _, steps in diary.events[1:-1]] == lengths
        assert history.epoch == list(range(first, 3))


def test_the_rest_of_an_epoch_may_be_one_batch_of_an_unbuilt_model():
    """Keras looks at a batch to build what is not built: it must not count."""
    model = kt.Transformer(Letters.vocabulary_size, d_model=4, num_heads=1, num_layers=1, d_ff=4)
    model.compile()
    batches = make_batches()
    batches.restore({"epoch": 4, "position": 6})
    diary = Diary(batches)
    model.fit(batches, verbose=0, epochs=2, callbacks=[diary])
    assert diary.states[:4] == [(5, 0), (5, 0), (5, 1), (5, 2)]


def test_training_stopped_in_the_rest_ends_once(model):
    batches = make_batches()
    batches.restore({"epoch": 1, "position": 4})
    diary = Diary(batches, stop_at=2)
    model.fit(batches, verbose=0, epochs=5, callbacks=[diary])
    assert diary.events == ["begin", ("epoch", 0, 3), "end"]
    assert batches.state() == {"epoch": 1, "position": 6}


def test_steps_per_epoch_from_the_middle(model):
    batches = make_batches()
    batches.restore({"epoch": 1, "position": 5})
    diary = Diary(batches)
    model.fit(batches, verbose=0, epochs=3, steps_per_epoch=4, callbacks=[diary])
    steps = [state for place, state in enumerate(diary.states) if place % 5 != 4]
    assert steps == [((1 * 7 + 5 + step) // 7, (5 + step) % 7) for step in range(1, 13)]


def test_evaluate_in_between_changes_nothing(model):
    batches = make_batches()
    batches.restore({"epoch": 2, "position": 3})
    state, rest = batches.state(), len(batches)
    found = model.evaluate(batches, verbose=0)
    assert (batches.state(), len(batches)) == (state, rest)
    assert found == pytest.approx(model.evaluate(make_batches(), verbose=0), rel=1e-5)  # the whole epoch, not its rest
