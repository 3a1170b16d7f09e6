import importlib.util

import keras
import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy

import keras_transformer as kt

V = 13
SIZES = {"d_model": 8, "num_heads": 2, "num_layers": 1, "seed": 3}


def make_model(**kwargs):
    return kt.Transformer(V, **SIZES | kwargs)


def make_data(rows=7, length=6, seed=0):
    """Sources, targets that begin with bos and labels that end with eos, of several lengths."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(4, V, (rows, length), dtype="int32")
    ends = generator.integers(1, length, rows)
    labels[np.arange(length) == ends[:, None]] = 3
    labels[np.arange(length) > ends[:, None]] = 0
    target = np.concatenate([np.full((rows, 1), 2, "int32"), labels[:, :-1]], axis=1)
    target[labels == 0] = 0
    source = labels[:, ::-1].copy()
    source = np.stack([np.concatenate([row[row != 0], row[row == 0]]) for row in source])
    return {"source": source, "target": target}, labels


INPUTS, LABELS = make_data()


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def expected_logs(logits, labels, smoothing):
    """Loss, accuracy and perplexity a real token in float64, from a one-hot target distribution."""
    table = log_softmax(logits)
    real = labels != 0
    goal = (1 - smoothing) * np.eye(V)[labels] + smoothing / V
    likelihood = np.take_along_axis(table, labels[..., None], -1)[..., 0]
    return {
        "loss": -(goal * table).sum(-1)[real].mean(),
        "token_accuracy": (table.argmax(-1) == labels)[real].mean(),
        "perplexity": np.exp(-likelihood[real].mean()),
    }


# Making one


def test_config_round_trip():
    arguments = {
        "d_ff": 12,
        "num_decoder_layers": 2,
        "dropout": 0.2,
        "attention_dropout": 0.1,
        "activation_dropout": 0.05,
        "norm": "pre",
        "activation": "gelu",
        "epsilon": 1e-5,
        "tie_embeddings": "decoder",
        "residual_dropout_position": "sum",
        "pad_id": 1,
        "bos_id": 4,
        "eos_id": 5,
        "preset": "tiny",
        "dtype": "mixed_bfloat16",
        "name": "mine",
    }
    model = make_model(**arguments)
    config = model.get_config()
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model))
    assert copy.get_config() == config
    for name, value in (arguments | SIZES).items():
        if name != "dtype":
            assert config[name] == value
    assert copy.dtype_policy.name == "mixed_bfloat16"
    assert [w.shape for w in copy.weights] == [w.shape for w in model.weights]
    for one, other in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)  # the same seed


def test_from_preset_and_its_overrides():
    model = kt.Transformer.from_preset("tiny", vocabulary_size=V, num_layers=1, dropout=0.0)
    config = model.get_config()
    assert {name: config[name] for name in ("d_model", "d_ff", "num_heads", "num_layers", "num_decoder_layers")} == {
        "d_model": 128,
        "d_ff": 256,
        "num_heads": 4,
        "num_layers": 1,
        "num_decoder_layers": 1,
    }
    assert config["dropout"] == config["attention_dropout"] == config["activation_dropout"] == 0.0
    assert config["vocabulary_size"] == V and config["preset"] == "tiny"
    with pytest.raises(ValueError, match="No preset is called 'tinny'"):
        kt.Transformer.from_preset("tinny")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "divisible by num_heads"),
        ({"num_heads": 0}, "num_heads"),
        ({"d_model": 7, "num_heads": 1}, "even"),
        ({"d_model": -8}, "d_model"),
        ({"vocabulary_size": 0}, "vocabulary_size must be an integer from 1"),
        ({"vocabulary_size": 10.5}, "vocabulary_size must be an integer from 1"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"num_decoder_layers": 0}, "num_decoder_layers=0"),
        ({"dropout": 1.5}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"attention_dropout": 1.5}, "attention_dropout"),
        ({"activation_dropout": -0.5}, "activation_dropout"),
        ({"d_ff": -4}, "d_ff"),
        ({"d_ff": 0}, "d_ff"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"norm": "middle"}, "norm must be"),
        ({"tie_embeddings": "encoder"}, "tie_embeddings must be"),
        ({"residual_dropout_position": "everywhere"}, "residual_dropout_position must be"),
        ({"activation": "no_such"}, "no_such"),
        ({"pad_id": V}, "pad_id"),
        ({"bos_id": -1}, "bos_id"),
        ({"eos_id": 0}, "eos_id"),  # the pad id
        ({"preset": "tinny"}, "No preset is called"),
    ],
)
def test_impossible_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        kt.Transformer(**{"vocabulary_size": V} | SIZES | arguments)


def test_tied_tables_are_one_weight():
    counts = {}
    for tie in ("all", "decoder", None):
        model = make_model(tie_embeddings=tie)
        counts[tie] = model.count_params()
        tables = [w for w in model.trainable_weights if tuple(w.shape) == (V, 8)]
        assert len(tables) == {"all": 1, "decoder": 2, None: 3}[tie]
        assert (model.source_embedding is model.target_embedding) == (tie == "all")
        hidden = np.random.default_rng(0).normal(size=(2, 3, 8)).astype("float32")
        table = as_numpy(model.output_table)
        np.testing.assert_allclose(as_numpy(model.logits(ops.convert_to_tensor(hidden))), hidden @ table.T, atol=1e-5)
        assert any(model.output_table is w for w in tables)
    assert counts["decoder"] - counts["all"] == counts[None] - counts["decoder"] == V * 8
    # one encoder layer: attention 4 (D D + D), network 2 D d_ff + d_ff + D, two norms 2 D; the decoder's has one more
    # attention and norm
    attention, network, norm = 4 * (64 + 8), 2 * 8 * 32 + 32 + 8, 16
    assert counts["all"] == V * 8 + 3 * attention + 2 * network + 5 * norm


def test_one_seed_gives_the_same_weights_and_another_does_not():
    one, same, other = make_model(), make_model(), make_model(seed=4)
    for a, b in zip(one.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(one.get_weights()[0] - other.get_weights()[0]).max() > 0.01


# Calling it


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_padding_changes_no_real_logits(norm):
    model = make_model(norm=norm, num_layers=2)
    logits = as_numpy(model(INPUTS))
    assert logits.shape == (7, 6, V)
    wider = {"source": np.pad(INPUTS["source"], ((0, 0), (0, 3))), "target": np.pad(INPUTS["target"], ((0, 0), (0, 2)))}
    np.testing.assert_allclose(as_numpy(model(wider))[:, :6], logits, atol=1e-5)
    row = int(np.argmin((INPUTS["target"] != 0).sum(1)))  # the shortest
    lengths = {name: int((ids[row] != 0).sum()) for name, ids in INPUTS.items()}
    assert lengths["target"] < 4
    alone = {name: ids[row : row + 1, : lengths[name]] for name, ids in INPUTS.items()}
    np.testing.assert_allclose(as_numpy(model(alone))[0], logits[row, : lengths["target"]], atol=1e-5)


def test_the_source_matters_where_it_is_real():
    model = make_model()
    changed = INPUTS["source"].copy()
    changed[:, 0] = 4 + (changed[:, 0] + 1) % 9
    difference = as_numpy(model(INPUTS | {"source": changed})) - as_numpy(model(INPUTS))
    assert (np.abs(difference).max(axis=(1, 2)) > 1e-4).all()


def test_logits_do_not_look_ahead():
    model = make_model(num_layers=2)
    target = np.random.default_rng(0).integers(4, V, (2, 6), dtype="int32")
    source = target[:, :4]
    logits = as_numpy(model({"source": source, "target": target}))
    for place in (1, 3, 5):
        changed = target.copy()
        changed[:, place] = 4 + (changed[:, place] - 3) % 9
        after = as_numpy(model({"source": source, "target": changed}))
        np.testing.assert_allclose(after[:, :place], logits[:, :place], atol=1e-6)
        assert np.abs(after[:, place:] - logits[:, place:]).max(-1).min() > 1e-4


def test_predict_returns_logits():
    model = make_model()
    expected = as_numpy(model(INPUTS))
    np.testing.assert_allclose(model.predict(INPUTS, verbose=0), expected, atol=1e-5)
    model.compile()
    model.fit(INPUTS, LABELS, verbose=0, epochs=1)
    found = model.predict(INPUTS, batch_size=3, verbose=0)
    assert found.shape == (7, 6, V) and found.dtype == "float32"
    np.testing.assert_allclose(found, as_numpy(model(INPUTS)), atol=1e-5)


# Training it


def test_compile_defaults_are_the_papers():
    model = make_model()
    model.compile()
    optimizer = model.optimizer
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.9, 0.98, 1e-9)
    assert optimizer.global_clipnorm == 1.0 and optimizer.clipnorm is None and not optimizer.weight_decay
    schedule = optimizer.get_config()["learning_rate"]["config"]
    assert schedule == {"d_model": 8, "warmup_steps": 4000, "scale": 1.0}
    assert isinstance(model.loss, kt.SmoothedCrossentropy) and model.loss.label_smoothing == 0.1
    model = kt.Transformer.from_preset("tiny", vocabulary_size=V, num_layers=1)
    model.compile()
    schedule = kt.WarmupInverseSqrt(**model.optimizer.get_config()["learning_rate"]["config"])
    np.testing.assert_allclose([schedule.peak, schedule.warmup_steps], [5e-3, 2000])


@pytest.mark.parametrize("tie_embeddings", ["all", None])
def test_fit_and_evaluate_report_what_numpy_computes(tie_embeddings):
    model = make_model(dropout=0.0, tie_embeddings=tie_embeddings, pad_id=0)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=kt.SmoothedCrossentropy(0.2))
    expected = expected_logs(as_numpy(model(INPUTS)), LABELS, 0.2)
    history = model.fit(INPUTS, LABELS, batch_size=3, shuffle=False, verbose=0).history
    assert set(history) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(history[name][0], value, rtol=1e-5)
    inputs, labels = make_data(rows=20, seed=1)
    expected = expected_logs(as_numpy(model(inputs)), labels, 0.2)
    for batch_size in (1, 7, 64):
        logs = model.evaluate(inputs, labels, batch_size=batch_size, return_dict=True, verbose=0)
        for name, value in expected.items():
            np.testing.assert_allclose(logs[name], value, rtol=1e-5)


def test_sample_weight_weighs_tokens():
    model = make_model(dropout=0.0)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    weights = np.random.default_rng(0).uniform(0.1, 2, LABELS.shape).astype("float32")
    table = log_softmax(as_numpy(model(INPUTS)))
    likelihood = -np.take_along_axis(table, LABELS[..., None], -1)[..., 0]
    real = weights * (LABELS != 0)
    expected = (real * (0.9 * likelihood - 0.1 * table.mean(-1))).sum() / real.sum()
    logs = model.evaluate(INPUTS, LABELS, sample_weight=weights, batch_size=4, return_dict=True, verbose=0)
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(logs["perplexity"], np.exp((real * likelihood).sum() / real.sum()), rtol=1e-5)


def test_dropout_acts_in_fit_alone():
    model = make_model(dropout=0.5)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    evaluated = [model.evaluate(INPUTS, LABELS, return_dict=True, verbose=0)["loss"] for _ in range(2)]
    fitted = [model.fit(INPUTS, LABELS, verbose=0).history["loss"][0] for _ in range(2)]
    assert evaluated[0] == evaluated[1] and len({*fitted, evaluated[0]}) == 3


def test_a_foreign_loss_takes_the_ordinary_path():
    model = make_model(dropout=0.0)
    model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    table = log_softmax(as_numpy(model(INPUTS)))
    likelihood = -np.take_along_axis(table, LABELS[..., None], -1)[..., 0]
    history = model.fit(INPUTS, LABELS, batch_size=7, verbose=0, epochs=5).history
    assert set(history) == {"loss", "accuracy"}
    np.testing.assert_allclose(history["loss"][0], likelihood[LABELS != 0].mean(), rtol=1e-5)
    np.testing.assert_allclose(history["accuracy"][0], (table.argmax(-1) == LABELS).mean(), rtol=1e-5)
    assert history["loss"][-1] < history["loss"][0]


def test_a_foreign_metric_gets_logits():
    model = make_model(dropout=0.0)
    model.compile(optimizer=keras.optimizers.SGD(0.0), metrics=[keras.metrics.SparseCategoricalAccuracy(name="hits")])
    logits = as_numpy(model(INPUTS))
    logs = model.evaluate(INPUTS, LABELS, batch_size=7, return_dict=True, verbose=0)
    assert set(logs) == {"loss", "hits"}
    np.testing.assert_allclose(logs["hits"], (logits.argmax(-1) == LABELS).mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], expected_logs(logits, LABELS, 0.1)["loss"], rtol=1e-5)


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_clipping_bounds_the_update(clip):
    """With SGD at rate 1 the update is the clipped gradient."""

    def updates(**arguments):
        model = make_model(dropout=0.0)
        # Large weights make large gradients.
        model.set_weights([w * 3 for w in model.get_weights()])
        model.compile(optimizer=keras.optimizers.SGD(1.0, **arguments))
        before = [as_numpy(w) for w in model.trainable_weights]
        model.fit(INPUTS, LABELS, batch_size=7, verbose=0)
        return [as_numpy(w) - b for w, b in zip(model.trainable_weights, before, strict=True)]

    raw = updates()
    limit = 0.5 * min(1.0, max(np.linalg.norm(x) for x in raw))
    clipped = updates(**{clip: limit})
    norms = np.array([np.linalg.norm(x) for x in raw])
    whole = np.sqrt((norms**2).sum())
    assert whole > limit * 1.5 and norms.max() > limit * 1.5  # there is something to clip
    factors = np.minimum(1, limit / norms) if clip == "clipnorm" else np.full(len(norms), limit / whole)
    for update, gradient, factor in zip(clipped, raw, factors, strict=True):
        np.testing.assert_allclose(update, gradient * factor, atol=1e-5, rtol=1e-4)
    clipped_norms = np.array([np.linalg.norm(x) for x in clipped])
    bounded = clipped_norms.max() if clip == "clipnorm" else np.sqrt((clipped_norms**2).sum())
    assert bounded <= limit * (1 + 1e-5)


def test_saving_keeps_the_optimizer_and_training_goes_on(tmp_path):
    model = make_model(dropout=0.0)
    model.compile()
    model.fit(INPUTS, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) == 4
    assert len(loaded.optimizer.variables) == len(model.optimizer.variables) > 2 * len(model.trainable_weights)
    for one, other in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(as_numpy(one), as_numpy(other))
    histories = [x.fit(INPUTS, LABELS, batch_size=4, shuffle=False, verbose=0).history for x in (model, loaded)]
    assert set(histories[0]) == set(histories[1]) == {"loss", "token_accuracy", "perplexity"}
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert int(loaded.optimizer.iterations) == 6


# What fit takes


class Differing(keras.utils.PyDataset):
    """Batches of three shapes."""

    shapes = ((4, 6), (3, 5), (2, 8))

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return make_data(*self.shapes[index], seed=index)


def check_fit(dataset, counted=True):
    model = make_model(dropout=0.0)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    batches = [Differing()[index] for index in range(3)]
    totals = [expected_logs(as_numpy(model(inputs)), labels, 0.1)["loss"] for inputs, labels in batches]
    tokens = [(labels != 0).sum() for _, labels in batches]
    history = model.fit(dataset, epochs=2, shuffle=False, verbose=0).history
    np.testing.assert_allclose(history["loss"], [np.dot(totals, tokens) / sum(tokens)] * 2, rtol=1e-5)
    if counted:
        assert int(model.optimizer.iterations) == 6


def test_fit_takes_a_py_dataset_of_differing_shapes():
    check_fit(Differing())


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
# Keras says so of every tf.data of unknown size.
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_fit_takes_tf_data_of_differing_shapes():
    import tensorflow as tf

    ids = tf.TensorSpec((None, None), "int32")
    dataset = tf.data.Dataset.from_generator(
        lambda: (Differing()[index] for index in range(3)),
        output_signature=({"source": ids, "target": ids}, ids),
    )
    check_fit(dataset.apply(tf.data.experimental.assert_cardinality(3)))
    # Of a dataset whose size is unknown, Keras on TensorFlow counts the attempt that finds the end as an iteration.
    check_fit(dataset, counted=keras.backend.backend() != "tensorflow")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_fit_takes_a_torch_data_loader_of_differing_shapes():
    import torch

    batches = [
        ({name: torch.as_tensor(ids) for name, ids in inputs.items()}, torch.as_tensor(labels))
        for inputs, labels in (Differing()[index] for index in range(3))
    ]
    check_fit(torch.utils.data.DataLoader(batches, batch_size=None))
