"""Ids outside the vocabulary: one ValueError on every backend and for every kind of input."""

import importlib.util

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.inputs import IdCheck

V = 12
GENERATOR = np.random.default_rng(2)
SOURCE = GENERATOR.integers(4, V, (8, 5), dtype="int32")
TARGET = GENERATOR.integers(4, V, (8, 6), dtype="int32")
LABELS = GENERATOR.integers(4, V, (8, 6), dtype="int32")
ROWS = 4  # a batch

MODEL = kt.Transformer(V, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1)
MODEL.compile()


def is_installed(name):
    return importlib.util.find_spec(name) is not None


def broken(side, value):
    arrays = {"source": SOURCE.copy(), "target": TARGET.copy(), "labels": LABELS.copy()}
    if side:
        arrays[side][5, 2] = value
    return {"source": arrays["source"], "target": arrays["target"]}, arrays["labels"]


class Dataset(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y) // ROWS

    def __getitem__(self, index):
        rows = slice(index * ROWS, (index + 1) * ROWS)
        return {name: ids[rows] for name, ids in self.x.items()}, self.y[rows]


def generator(x, y):
    dataset = Dataset(x, y)
    while True:
        yield from (dataset[index] for index in range(len(dataset)))


def tf_data(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(ROWS)


def torch_loader(x, y):
    import torch

    rows = [({name: ids[row] for name, ids in x.items()}, y[row]) for row in range(len(y))]
    return torch.utils.data.DataLoader(rows, batch_size=ROWS)


def grain_dataset(x, y):
    import grain

    batches = Dataset(x, y)
    return grain.MapDataset.source([batches[index] for index in range(len(batches))])


def grain_loader(x, y):
    import grain

    batches = Dataset(x, y)
    sampler = grain.samplers.IndexSampler(len(batches), grain.sharding.NoSharding(), shuffle=False, num_epochs=1)
    return grain.DataLoader(data_source=[batches[index] for index in range(len(batches))], sampler=sampler)


SOURCES = {"PyDataset": Dataset, "generator": generator}
if is_installed("grain"):
    SOURCES |= {
        "grain.MapDataset": grain_dataset,
        "grain.IterDataset": lambda x, y: grain_dataset(x, y).to_iter_dataset(),
        "grain.DataLoader": grain_loader,
    }
if is_installed("tensorflow"):
    SOURCES["tf.data"] = tf_data
if is_installed("torch"):
    SOURCES["DataLoader"] = torch_loader


@pytest.mark.parametrize("kind", SOURCES)
def test_good_ids_pass(kind):
    logs = MODEL.evaluate(SOURCES[kind](*broken(None, 0)), steps=2, verbose=0, return_dict=True)
    arrays = MODEL.evaluate(*broken(None, 0), batch_size=ROWS, verbose=0, return_dict=True)
    assert logs == pytest.approx(arrays, rel=1e-5)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("call", ["fit", "evaluate"])
def test_bad_ids_in_a_stream(kind, call):
    data = SOURCES[kind](*broken("source", V))
    steps = {"fit": {"steps_per_epoch": 2}, "evaluate": {"steps": 2}}[call]
    with pytest.raises(ValueError, match=rf"source contain the id {V} at row 1, column 2.*0 to {V - 1}"):
        getattr(MODEL, call)(data, verbose=0, **steps)


@pytest.mark.parametrize(("side", "value"), [("source", -1), ("target", V), ("labels", V + 3)])
@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_bad_ids_in_arrays(side, value, call):
    with pytest.raises(ValueError, match=f"{side} contain the id {value} at row 5, column 2"):
        getattr(MODEL, call)(*broken(side, value))


@pytest.mark.parametrize("call", ["predict", "predict_on_batch"])
def test_bad_ids_in_predict(call):
    with pytest.raises(ValueError, match="target contain the id 99"):
        getattr(MODEL, call)(broken("target", 99)[0])


def test_bad_ids_in_validation_data():
    x, y = broken(None, 0)
    with pytest.raises(ValueError, match=f"labels contain the id {V}"):
        MODEL.fit(x, y, validation_data=broken("labels", V), verbose=0)
    with pytest.raises(ValueError, match=f"labels contain the id {V}"):
        MODEL.fit(x, y, validation_data=Dataset(*broken("labels", V)), verbose=0)


def test_predict_takes_a_dataset():
    x, y = broken(None, 0)
    np.testing.assert_allclose(MODEL.predict(Dataset(x, y), verbose=0), MODEL.predict(x, verbose=0), atol=1e-6)


def test_wrong_structure():
    x, y = broken(None, 0)
    with pytest.raises(ValueError, match=r'must be a dict \{"source".*a tuple'):
        MODEL.train_on_batch((x["source"], x["target"]), y)
    with pytest.raises(ValueError, match="a dict of 'source'"):
        MODEL.fit({"source": SOURCE}, y, verbose=0)
    with pytest.raises(ValueError, match=r"the same shape.*target \(8, 6\), labels \(8, 5\)"):
        MODEL.fit(x, y[:, 1:], verbose=0)
    with pytest.raises(ValueError, match=r"source must have two axes.*\(5,\)"):
        IdCheck(V).batch({"source": SOURCE[0], "target": TARGET})
    with pytest.raises(ValueError, match="source must be integers"):
        IdCheck(V).batch({"source": SOURCE.astype("float32"), "target": TARGET})


@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_without_labels(call):
    x, _ = broken(None, 0)
    with pytest.raises(ValueError, match=r"no labels.*Received: y=None. Expected: labels \(B, T\)"):
        getattr(MODEL, call)(x)


def test_a_stream_without_labels():
    x, y = broken(None, 0)

    class Unlabelled(Dataset):
        def __getitem__(self, index):
            return super().__getitem__(index)[:1]

    with pytest.raises(ValueError, match="no labels"):
        MODEL.evaluate(Unlabelled(x, y), verbose=0)
    assert MODEL.predict(Unlabelled(x, y), verbose=0).shape == (8, 6, V)


@pytest.mark.parametrize("shape", [(6,), (8, 2), (1, 8), (8, 6, 1), ()])
@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_sample_weight_of_another_shape(call, shape):
    message = r"does not fit labels \(8, 6\).*Expected: \(8,\) or \(8, 1\), a weight a sentence, or \(8, 6\)"
    with pytest.raises(ValueError, match=message):
        getattr(MODEL, call)(*broken(None, 0), sample_weight=np.ones(shape, "float32"))


def test_sample_weight_of_another_shape_in_a_stream_and_in_validation():
    x, y = broken(None, 0)

    class Weighted(Dataset):
        def __getitem__(self, index):
            return *super().__getitem__(index), np.ones(6, "float32")

    with pytest.raises(ValueError, match=r"does not fit labels \(4, 6\). Received: shape \(6,\)"):
        MODEL.fit(Weighted(x, y), verbose=0)
    with pytest.raises(ValueError, match=r"does not fit labels \(8, 6\). Received: shape \(6,\)"):
        MODEL.fit(x, y, validation_data=(x, y, np.ones(6, "float32")), verbose=0)


@pytest.mark.parametrize("shape", [(8,), (8, 1), (8, 6)])
def test_sample_weight_of_a_right_shape(shape):
    x, y = broken(None, 0)
    IdCheck(V).batch(x, y, np.ones(shape, "float32"))


@pytest.mark.parametrize("call", ["fit", "train_on_batch"])
def test_class_weight_is_refused(call):
    with pytest.raises(
        ValueError, match=r"class_weight does not fit.*Received: class_weight=\{5: 2.0\}.*sample_weight"
    ):
        getattr(MODEL, call)(*broken(None, 0), class_weight={5: 2.0})


needs_torch = pytest.mark.skipif(not is_installed("torch"), reason="PyTorch is not installed")


@needs_torch
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("iterated", [False, True])
@pytest.mark.filterwarnings("ignore:.*(fork|os.fork).*")  # of JAX and of Python 3.12, where a DataLoader starts workers
def test_workers_of_a_data_loader(persistent, iterated):
    import torch

    rows = torch_loader(*broken("source", V)).dataset
    options = {"num_workers": 1, "persistent_workers": persistent, "multiprocessing_context": "spawn"}
    loader = torch.utils.data.DataLoader(rows, batch_size=ROWS, **options)
    if iterated:
        assert len(list(loader)) == 2
    with pytest.raises(ValueError, match=rf"source contain the id {V} at row 1, column 2"):
        MODEL.evaluate(loader, verbose=0)


def test_other_errors_stay_as_they_are():
    class Failing(Dataset):
        def __getitem__(self, index):
            raise OSError("disk")

    with pytest.raises(Exception, match="disk"):
        MODEL.fit(Failing(*broken(None, 0)), verbose=0)


def test_epoch_hooks_reach_the_dataset():
    seen = []

    class Listening(Dataset):
        def on_epoch_begin(self):
            seen.append("begin")

        def on_epoch_end(self):
            seen.append("end")

    MODEL.fit(Listening(*broken(None, 0)), epochs=2, verbose=0)
    assert seen.count("begin") >= 2
    assert seen.count("end") >= 2


@pytest.mark.parametrize("call", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_empty_data_are_refused(call):
    x, y = broken(None, 0)
    with pytest.raises(ValueError, match=r"the data are empty. Received: shape \(0, 5\)"):
        getattr(MODEL, call)({name: ids[:0] for name, ids in x.items()}, y[:0])


def empty_data(kind):
    """Data that give no batch."""
    x, y = broken(None, 0)
    if kind == "pydataset":
        empty = Dataset(x, y)
        empty.__class__ = type("Empty", (Dataset,), {"__len__": lambda _: 0})
        return empty
    if kind == "tf.data":
        tf = pytest.importorskip("tensorflow")
        return tf.data.Dataset.from_tensor_slices((x, y)).batch(4).take(0)
    if kind == "DataLoader":
        return pytest.importorskip("torch.utils.data").DataLoader([], batch_size=4)
    return iter(())


@pytest.mark.parametrize("kind", ["pydataset", "generator", "tf.data", "DataLoader"])
@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
def test_data_without_a_batch_are_refused(call, kind):
    with pytest.raises(ValueError, match="The data are empty: .* gave no batch"):
        getattr(MODEL, call)(empty_data(kind), verbose=0)


def test_data_without_a_batch_are_refused_beside_validation_data():
    with pytest.raises(ValueError, match="The data are empty: .* gave no batch"):
        MODEL.fit(empty_data("generator"), validation_data=broken(None, 0), verbose=0)


@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
def test_an_error_within_the_data_is_not_taken_for_empty_data(call):
    """Keras fails with an UnboundLocalError where no batch comes; so may a generator of one's own."""

    def batches():
        if not call:
            row = None
        yield row

    with pytest.raises(UnboundLocalError, match="'row'"):
        getattr(MODEL, call)(batches(), verbose=0)


@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
def test_no_data_are_refused(call):
    with pytest.raises(ValueError, match="The input must be a dict .* Received: a NoneType"):
        getattr(MODEL, call)(None, verbose=0)


def test_rows_without_a_partner_are_refused():
    x, _ = broken(None, 0)
    with pytest.raises(ValueError, match=r"a row for each other. Received: source \(7, 5\), target \(8, 6\)"):
        MODEL.predict({"source": x["source"][:7], "target": x["target"]}, verbose=0)


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_impossible_sample_weights_are_refused(weight):
    with pytest.raises(ValueError, match="sample_weight must hold finite weights from 0"):
        MODEL.evaluate(*broken(None, 0), sample_weight=np.full((8,), weight), verbose=0)
