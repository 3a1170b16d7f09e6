"""What Resume is given to go on with: data that are not those of the checkpoint are refused, or that it cannot tell is said."""

import warnings

import keras
import numpy as np
import pytest
from small_model import make_data, make_model
from test_artifacts import ask

import keras_transformer as kt
from keras_transformer.callbacks import Checkpoints, Resume

X = np.arange(72, dtype="float32").reshape(24, 3) / 72
UNKNOWN = "Resume cannot tell whether the data give the batches again that .*step-3 was trained on, in the same order"


class Break(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 3:
            raise KeyError("broken off")


class Rows(keras.utils.PyDataset):
    def __init__(self, inputs, labels):
        super().__init__()
        self.inputs, self.labels = inputs, labels

    def __len__(self):
        return 6

    def __getitem__(self, index):
        rows = slice(2 * index, 2 * index + 2)
        return {name: ids[rows] for name, ids in self.inputs.items()}, self.labels[rows]

    def fingerprint(self):
        return "rows"


def break_off(model, *data, folder, **kwargs):
    """Leaves a checkpoint of three batches in ``folder``."""
    checkpoints = Checkpoints(folder, steps=1)
    with pytest.raises(KeyError):
        model.fit(*data, shuffle=False, verbose=0, callbacks=[checkpoints, Break()], **kwargs)
    checkpoints.release()


@pytest.fixture
def foreign():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.fixture(scope="module")
def transformer():
    model = make_model(dropout=0.0)
    model.compile()
    return model


def test_another_number_of_batches_is_refused(foreign, tmp_path):
    break_off(foreign, X, X[:, :1], folder=tmp_path, batch_size=4)
    callbacks = [Resume(tmp_path), Checkpoints(tmp_path)]
    with pytest.raises(ValueError, match="middle of an epoch of 6 batches. Received: data of 3"):
        foreign.fit(X, X[:, :1], batch_size=8, shuffle=False, verbose=0, callbacks=callbacks)


def test_arrays_of_a_foreign_model_are_not_seen_and_that_is_said(foreign, tmp_path):
    break_off(foreign, X, X[:, :1], folder=tmp_path, batch_size=4)
    with pytest.warns(UserWarning, match=UNKNOWN):
        foreign.fit(X, X[:, :1], batch_size=4, shuffle=False, verbose=0, callbacks=[Resume(tmp_path)])


def test_arrays_are_known_by_their_values(transformer, tmp_path):
    inputs, labels = make_data(rows=12)
    break_off(transformer, inputs, labels, folder=tmp_path, batch_size=2)

    def resumed(inputs, labels, **options):
        options = {"batch_size": 2, "shuffle": False} | options
        transformer.fit(inputs, labels, verbose=0, callbacks=[Resume(tmp_path)], **options)

    other = labels.copy()
    other[-1, 0] = other[-1, 0] % 8 + 4  # of the last row of all
    for data in ((inputs, other), ({"source": inputs["source"][::-1], "target": inputs["target"]}, labels)):
        with pytest.raises(
            ValueError, match="step-3 stands in the middle of an epoch of other data: .*values of arrays"
        ):
            resumed(*data)
    with pytest.raises(ValueError, match="other data: .*batch_size"):
        resumed(inputs, labels, batch_size=3)
    with pytest.warns(UserWarning, match=UNKNOWN):
        resumed(inputs, labels, shuffle=True)
    resumed(inputs, {"x": labels}["x"].copy())  # the same: nothing is said


def test_a_dataset_that_keras_shuffles_is_not_known_whatever_it_says(transformer, tmp_path):
    data = Rows(*make_data(rows=12))
    break_off(transformer, data, folder=tmp_path)
    with pytest.warns(UserWarning, match=UNKNOWN):
        transformer.fit(data, verbose=0, callbacks=[Resume(tmp_path)])  # shuffle=True is Keras's default
    transformer.fit(data, shuffle=False, verbose=0, callbacks=[Resume(tmp_path)])


def test_a_generator_begins_anew_and_that_is_said(transformer, tmp_path):
    data = Rows(*make_data(rows=12))

    def generated():
        return (data[index % 6] for index in range(60))

    transformer.fit(generated(), steps_per_epoch=3, verbose=0, callbacks=[Checkpoints(tmp_path)])
    with pytest.warns(UserWarning, match="a generator begins anew"):
        transformer.fit(generated(), steps_per_epoch=3, epochs=2, verbose=0, callbacks=[Resume(tmp_path)])


def test_epochs_of_batches_may_not_be_cut(transformer, tmp_path):
    """set_epoch would deal anew in the middle of one: pairs would come twice, others never."""
    texts = ["a dog", "a cat", "a bird", "a fish"]
    tokenizer = kt.Tokenizer.train(texts, vocabulary_size=280)
    batches = kt.Batches(texts, texts, tokenizer, batch_tokens=16)
    assert len(batches) == 2
    model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1)
    model.compile()
    with pytest.raises(ValueError, match="epochs of the data, which have 2 batches. Received: steps_per_epoch=1"):
        model.fit(batches, steps_per_epoch=1, verbose=0, callbacks=[Resume(tmp_path)])
    model.fit(batches, steps_per_epoch=2, verbose=0, callbacks=[Resume(tmp_path)])


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras has one step an execution on PyTorch")
def test_a_place_within_an_execution_is_refused(foreign, tmp_path):
    break_off(foreign, X, X[:, :1], folder=tmp_path, batch_size=4)
    foreign.compile("sgd", "mse", steps_per_execution=2)
    with (
        pytest.warns(UserWarning, match=UNKNOWN),
        pytest.raises(ValueError, match="after 3 batches of an epoch, .*Received: steps_per_execution=2. Compile"),
    ):
        foreign.fit(X, X[:, :1], batch_size=4, shuffle=False, verbose=0, callbacks=[Resume(tmp_path)])


def test_the_learning_rate_that_is_replaced_is_told(foreign, tmp_path):
    foreign.fit(X, X[:, :1], verbose=0, callbacks=[Checkpoints(tmp_path)])
    foreign.fit(X, X[:, :1], epochs=2, verbose=0, callbacks=[Resume(tmp_path)])  # the same: nothing is said
    foreign.compile(keras.optimizers.SGD(0.001), "mse")
    with pytest.warns(
        UserWarning, match=r"goes on as the checkpoint has it, 0.01. Received: an optimizer of 0.001, which"
    ):
        foreign.fit(X, X[:, :1], epochs=2, verbose=0, callbacks=[Resume(tmp_path)])
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: 0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        foreign.fit(X, X[:, :1], epochs=2, verbose=0, callbacks=[Resume(tmp_path), rate])
    assert float(keras.ops.convert_to_numpy(foreign.optimizer.learning_rate)) == pytest.approx(0.001)


def test_the_epoch_gone_on_in_is_that_of_one_fit(foreign, tmp_path):
    """Else a later one would begin there too, and perhaps train nothing."""

    class Refuse(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise KeyError("refused")

    def fit(*callbacks, epochs):
        return len(foreign.fit(X, X[:, :1], epochs=epochs, verbose=0, callbacks=list(callbacks)).epoch)

    assert fit(Checkpoints(tmp_path), epochs=3) == 3
    assert fit(Resume(tmp_path), epochs=3) == 0
    assert fit(epochs=2) == 2
    with pytest.raises(KeyError):
        fit(Resume(tmp_path), Refuse(), epochs=5)
    assert fit(epochs=2) == 2
    assert fit(Resume(tmp_path), epochs=5) == 2


def test_after_a_fit_that_was_broken_off_the_folder_is_locked_too(foreign, tmp_path):
    class BreakOff(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyError("broken off")

    class Ask(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            told.add(ask(tmp_path) if not told else "in use")

    told, left = set(), Checkpoints(tmp_path)  # which a notebook's traceback keeps alive
    with pytest.raises(KeyError):
        foreign.fit(X, X[:, :1], verbose=0, callbacks=[left, BreakOff()])
    foreign.fit(X, X[:, :1], verbose=0, callbacks=[Checkpoints(tmp_path), Ask()])
    assert told == {"in use"} and ask(tmp_path) == "free"


def test_a_checkpoints_that_is_refused_keeps_no_lock(foreign, tmp_path):
    foreign.fit(X, X[:, :1], verbose=0, callbacks=[Checkpoints(tmp_path)])
    foreign.fit(X, X[:, :1], verbose=0)  # goes on by itself
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="a training that this one does not go on from"):
        foreign.fit(X, X[:, :1], verbose=0, callbacks=[checkpoints])
    assert ask(tmp_path) == "free"
