import importlib.util
import threading

import keras
import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy
from numpy_oracle import dropout_masks, layer_norm, which

import keras_transformer as kt
from keras_transformer.layers import padding_mask

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
        ({"epsilon": "1e-6"}, "epsilon must be a positive number. Received: epsilon='1e-6'"),
        ({"dropout": "0.1"}, r"dropout must be a number in \[0, 1\). Received: dropout='0.1'"),
        ({"pad_id": "0"}, "pad_id='0'"),
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


def test_a_seed_gives_the_weights_it_always_gave():
    """Sums noted before dropout drew its seeds from the same stream."""
    model = make_model(tie_embeddings=None, num_layers=2, norm="pre", dropout=0.3)
    sums = [np.abs(w).sum(dtype="float64") for w in model.get_weights()]
    np.testing.assert_allclose([sums[0], sums[1], sum(sums)], [31.3925, 30.9388, 965.717], rtol=1e-5)


def test_a_clone_has_the_arguments_and_the_first_weights():
    model = make_model()
    clone = keras.models.clone_model(model)
    assert type(clone) is kt.Transformer and clone.get_config() == model.get_config()
    np.testing.assert_allclose(as_numpy(clone(INPUTS)), as_numpy(model(INPUTS)), atol=1e-6)


def test_summary_before_and_after_fit():
    model = make_model(tie_embeddings=None)
    model.compile()
    for _ in range(2):
        lines = []
        model.summary(expand_nested=True, print_fn=lines.append)
        text = "\n".join(lines)
        assert "layer_0 (DecoderLayer)" in text and f"(None, None, {V})" in text and "(None, None, 8)" in text
        model.fit(INPUTS, LABELS, verbose=0)


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


def test_another_thread_gets_logits_while_a_step_is_under_way():
    model = make_model()
    model.compile()
    shapes = {}

    def call(who):
        shapes[who] = tuple(model(INPUTS).shape)

    with model._scoring.hidden_states():
        thread = threading.Thread(target=call, args=("other",))
        thread.start()
        thread.join()
        call("own")
    call("later")
    assert shapes == {"other": (7, 6, V), "own": (7, 6, 8), "later": (7, 6, V)}


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras exports no dict of inputs from PyTorch")
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")
# Keras hands it to jax2tf.
@pytest.mark.filterwarnings("ignore:The `native_serialization` parameter is deprecated:DeprecationWarning")
def test_keras_export_needs_no_signature(tmp_path):
    import tensorflow as tf

    model = make_model()
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.serve(INPUTS).numpy(), as_numpy(model(INPUTS)), atol=1e-5)
    assert model.get_build_config() == {"input_shape": {"source": (None, None), "target": (None, None)}}


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


class Unchanged(kt.SmoothedCrossentropy):
    """A subclass may do anything, so Keras's own step runs: the reference of the step on hidden states."""


class Doubled(kt.SmoothedCrossentropy):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return 2.0 * super().__call__(y_true, y_pred, sample_weight)


@keras.saving.register_keras_serializable(package="test_transformer")
class Penalised(kt.Transformer):
    """Adds to its loss the mean square of what the encoder gives."""

    def encode(self, source, source_mask, training=None):
        x = super().encode(source, source_mask, training=training)
        self.add_loss(0.5 * ops.mean(x**2))
        return x


def one_batch(model, loss, **kwargs):
    """The loss reported for one batch, and the weights after it."""
    model.compile(optimizer=keras.optimizers.SGD(0.5), loss=loss, metrics=[], **kwargs)
    return model.train_on_batch(INPUTS, LABELS, return_dict=True)["loss"], [
        as_numpy(w) for w in model.trainable_weights
    ]


@pytest.mark.parametrize("kind", ["regularizer", "add_loss"])
def test_what_is_added_to_the_loss_is_reported_and_trained(kind):
    def make():
        model = (Penalised if kind == "add_loss" else kt.Transformer)(V, dropout=0.0, **SIZES)
        if kind == "regularizer":
            model.target_embedding.embeddings.regularizer = keras.regularizers.L2(0.1)
        return model

    plain, _ = one_batch(make_model(dropout=0.0), kt.SmoothedCrossentropy())
    loss, weights = one_batch(make(), kt.SmoothedCrossentropy())
    expected, expected_weights = one_batch(make(), Unchanged())
    assert loss > plain + 0.1
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for one, other in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def evaluated(weights=None, **compiled):
    model = make_model(dropout=0.0)
    model.compile(optimizer=keras.optimizers.SGD(0.0), **compiled)
    return model.evaluate(INPUTS, LABELS, sample_weight=weights, batch_size=7, return_dict=True, verbose=0)


@pytest.mark.parametrize(
    "compiled",
    [{"loss": Doubled()}, {"loss": kt.SmoothedCrossentropy(), "loss_weights": [2.0]}],
    ids=["subclass", "weight"],
)
def test_a_loss_that_does_more_is_asked(compiled):
    np.testing.assert_allclose(evaluated(**compiled)["loss"], 2 * evaluated()["loss"], rtol=1e-5)


def test_weighted_metrics_are_weighted():
    weights = np.random.default_rng(0).uniform(0.1, 2, LABELS.shape).astype("float32")
    expected = evaluated(weights)
    logs = evaluated(weights, weighted_metrics=[kt.TokenAccuracy(), kt.Perplexity()])
    assert set(logs) == set(expected) == {"loss", "token_accuracy", "perplexity"}
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5)


def test_a_pad_id_of_its_own_is_kept():
    table = log_softmax(as_numpy(make_model()(INPUTS)))
    counted = LABELS != 5
    logs = evaluated(metrics=[kt.TokenAccuracy(pad_id=5)])
    np.testing.assert_allclose(logs["token_accuracy"], (table.argmax(-1) == LABELS)[counted].mean(), rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], evaluated()["loss"], rtol=1e-5)
    likelihood = -np.take_along_axis(table, LABELS[..., None], -1)[..., 0]
    logs = evaluated(loss=kt.SmoothedCrossentropy(0.0, pad_id=5))
    np.testing.assert_allclose(logs["loss"], likelihood[counted].mean(), rtol=1e-5)


def test_metrics_by_name_and_in_a_dict_go_to_keras_as_they_are():
    hits = (as_numpy(make_model()(INPUTS)).argmax(-1) == LABELS).mean()
    np.testing.assert_allclose(evaluated(metrics=["accuracy"])["accuracy"], hits, rtol=1e-5)
    model = make_model()
    model.compile(metrics={"logits": "accuracy"})
    assert model.get_compile_config()["metrics"] == {"logits": "accuracy"}
    with pytest.raises(ValueError, match="metrics"):
        model.compile(metrics="accuracy")


OPTIONS = {
    "run_eagerly": {"run_eagerly": True},
    "steps_per_execution": {"steps_per_execution": 2},
    "jit_compile": {"jit_compile": True},
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_compile_change_no_number(option):
    if keras.backend.backend() == "torch" and option != "run_eagerly":
        pytest.skip("Keras on PyTorch refuses steps_per_execution, and torch.compile takes minutes")
    found = []
    for kwargs in ({}, OPTIONS[option]):
        model = make_model(dropout=0.0)
        model.compile(optimizer=keras.optimizers.SGD(0.5), **kwargs)
        history = model.fit(INPUTS, LABELS, batch_size=4, shuffle=False, epochs=2, verbose=0).history
        logs = model.evaluate(INPUTS, LABELS, batch_size=4, return_dict=True, verbose=0)
        found.append([*history["loss"], *history["perplexity"], *logs.values()])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


def test_one_seed_gives_one_training_with_dropout():
    histories = []
    for seed in (1, 1, 2):
        model = make_model(dropout=0.3, seed=seed)
        model.set_weights(make_model().get_weights())  # so that dropout alone can differ
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        histories.append(model.fit(INPUTS, LABELS, batch_size=4, epochs=2, shuffle=False, verbose=0).history["loss"])
    assert histories[0] == histories[1]
    assert histories[0][0] != histories[2][0]


@pytest.mark.parametrize("shape", [(7,), (7, 1)])
@pytest.mark.parametrize("loss", [kt.SmoothedCrossentropy, Unchanged])
def test_a_weight_a_sentence_is_that_of_each_of_its_tokens(shape, loss):
    weights = np.random.default_rng(0).uniform(0.1, 2, 7).astype("float32")
    model = make_model(dropout=0.0)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss=loss())
    results = [
        model.evaluate(INPUTS, LABELS, sample_weight=x, batch_size=7, return_dict=True, verbose=0)
        for x in (weights.reshape(shape), np.repeat(weights[:, None], 6, axis=1))
    ]
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    history = model.fit(INPUTS, LABELS, sample_weight=weights.reshape(shape), batch_size=7, verbose=0).history
    np.testing.assert_allclose(history["loss"][0], results[1]["loss"], rtol=1e-5)


def freeze_encoder(model):
    model.encoder.trainable = False


def freeze_a_part(model):
    model.decoder.layers[0].feed_forward.trainable = False


@pytest.mark.parametrize("freeze", [freeze_encoder, freeze_a_part])
def test_a_frozen_part_stays_as_it_is_also_through_saving(freeze, tmp_path):
    model = make_model(dropout=0.0)
    freeze(model)
    model.compile()
    before = {w.path: as_numpy(w) for w in model.weights}
    model.fit(INPUTS, LABELS, batch_size=4, shuffle=False, verbose=0)
    frozen = {w.path for w in model.non_trainable_weights}
    assert 4 <= len(frozen) < len(before)
    for weight in model.weights:
        assert (np.abs(as_numpy(weight) - before[weight.path]).max() == 0) == (weight.path in frozen)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert {w.path for w in loaded.non_trainable_weights} == frozen
    for part in (lambda x: x.encoder, lambda x: x.decoder, lambda x: x.decoder.layers[0].feed_forward):
        assert part(loaded).trainable == part(model).trainable
    assert int(loaded.optimizer.iterations) == 2
    for one, other in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(as_numpy(one), as_numpy(other))
    losses = [x.fit(INPUTS, LABELS, batch_size=4, shuffle=False, verbose=0).history["loss"] for x in (model, loaded)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    for part in (loaded.encoder, loaded.decoder.layers[0].feed_forward):
        part.trainable = True
    assert len(loaded.trainable_weights) == len(before)
    renamed = kt.Transformer.from_config(model.get_config() | {"name": "renamed"})
    assert len(renamed.non_trainable_weights) == len(frozen)


def test_a_configuration_that_freezes_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="Received: encoder/layer_9. Expected: some of target_embedding, encoder"):
        kt.Transformer.from_config(make_model().get_config() | {"frozen": ["encoder/layer_9"]})


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


def test_evaluate_and_predict_leave_batches_in_their_epoch():
    texts = ["a dog runs", "two cats see a dog", "a cat"]
    tokenizer = kt.Tokenizer.train(texts, vocabulary_size=280)
    batches = kt.Batches(texts, texts, tokenizer, batch_tokens=64, num_buckets=1, seed=1)  # predict wants one shape
    model = kt.Transformer(tokenizer.vocabulary_size, **SIZES)
    model.compile()
    batches.set_epoch(3)
    model.evaluate(batches, verbose=0)
    assert batches.epoch == 3
    model.predict(batches, verbose=0)
    assert batches.epoch == 3


@pytest.mark.parametrize("tie_embeddings", ["all", "decoder", None])
def test_resized_vocabulary_keeps_shared_rows_exactly(tie_embeddings):
    sizes = {"d_model": 8, "num_heads": 2, "num_layers": 1, "d_ff": 12, "dropout": 0.0}
    model = kt.Transformer(12, tie_embeddings=tie_embeddings, **sizes, seed=1)  # d_ff equals V: shapes tell nothing
    inputs = {"source": np.array([[5, 6, 3]]), "target": np.array([[2, 7]])}
    logits = keras.ops.convert_to_numpy(model(inputs))
    for size in (12, 20, 9):
        resized = model.resize_vocabulary(size)
        kept = min(size, 12)
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(resized(inputs))[..., :kept], logits[..., :kept], atol=1e-6
        )
    rows = np.array([0, 1, 2, 3, 7, -1, 6, 5, -1, 4])
    resized = model.resize_vocabulary(10, rows=rows)
    old, new = (keras.ops.convert_to_numpy(x.target_embedding.embeddings) for x in (model, resized))
    assert np.array_equal(new[rows >= 0], old[rows[rows >= 0]])
    assert np.abs(new[5]).max() > 0 and not (new[5] == old).all(axis=1).any()
    places = {int(row): place for place, row in enumerate(rows)}
    moved = {name: np.vectorize(places.get)(ids) for name, ids in inputs.items()}
    moved_logits = keras.ops.convert_to_numpy(resized(moved))
    np.testing.assert_allclose(moved_logits[..., rows >= 0], logits[..., rows[rows >= 0]], atol=1e-6)
    with pytest.raises(ValueError, match="rows must hold 10 ids from -1 to 11"):
        model.resize_vocabulary(10, rows=[12] * 10)


# Dropout on embedding + position, and precision


@pytest.mark.parametrize("side", ["source", "target"])
def test_dropout_on_embedding_and_position(side):
    """With sub-layers that give nothing, a training pass shows the rows that dropout leaves of embedding + position."""
    model = kt.Transformer(
        20, 4, num_heads=1, num_layers=1, dropout=0.5, attention_dropout=0, activation_dropout=0, norm="pre"
    )
    for weight in model.weights:
        if weight.path.split("/")[-1] in ("kernel", "bias"):
            weight.assign(np.zeros(weight.shape))
    table = as_numpy(model.target_embedding.embeddings)
    ids = np.random.default_rng(0).integers(4, 20, (8, 3))
    angles = np.arange(3)[:, None] / np.array([1.0, 100.0])  # 10000^(2 i / 4)
    positions = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(3, 4)
    rows = (table[ids] * 2 + positions).reshape(-1, 1, 4)
    candidates = layer_norm(rows * dropout_masks(4))
    if side == "source":
        seen = model.encode(ids, padding_mask(ids), training=True)
    else:
        seen = model({"source": ids, "target": ids}, training=True)
        candidates = candidates @ table.T
    found = which(as_numpy(seen).reshape(24, -1), candidates)
    assert (found >= 0).all() and len(set(found)) > 4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_pure_16_bits_train(dtype):
    model = kt.Transformer(V, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1, dtype=dtype)
    model.compile(keras.optimizers.SGD(0.1))
    expected = kt.Transformer(V, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1)
    expected.compile(keras.optimizers.SGD(0.1))
    losses = [[x.train_on_batch(INPUTS, LABELS)[0] for _ in range(2)] for x in (model, expected)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("seed", "a"), ("d_model", 8.0), ("num_layers", 0)])
def test_impossible_numbers_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer from .*Received: {name}={value!r}"):
        kt.Transformer(**({"vocabulary_size": 20, "d_model": 8, "num_heads": 2} | {name: value}))


def test_sizes_of_numpy_become_plain():
    config = kt.Transformer(np.int64(20), d_model=np.int64(8), num_heads=2, num_layers=1).get_config()
    assert type(config["d_model"]) is type(config["vocabulary_size"]) is int


def test_the_first_step_is_traced_once():
    """TensorFlow traces again where a step makes variables: the optimizer's are there before."""
    traced = []

    class Counted(kt.Transformer):
        def train_step(self, *args):
            traced.append(True)
            return super().train_step(*args)

    model = Counted(V, **SIZES)
    model.compile()
    model.train_on_batch(INPUTS, LABELS)
    assert len(traced) == 1


def test_the_loss_is_one_metric():
    model = make_model()
    model.compile()
    assert model.metrics_names == ["loss", "token_accuracy", "perplexity"]
    loss, accuracy, perplexity = model.evaluate(INPUTS, LABELS, verbose=0)
    logs = model.evaluate(INPUTS, LABELS, verbose=0, return_dict=True)
    assert [loss, accuracy, perplexity] == pytest.approx([logs[name] for name in model.metrics_names])
    assert len(model.train_on_batch(INPUTS, LABELS)) == 3


class Doubled(kt.Transformer):
    def logits(self, hidden):
        return 2 * super().logits(hidden)


class Squashed(kt.Transformer):
    def call(self, inputs, training=None):
        return 3 * ops.tanh(super().call(inputs, training=training))


@pytest.mark.parametrize("kind", [Doubled, Squashed])
def test_a_subclass_with_other_logits_is_scored_by_them(kind):
    model = kind(V, **SIZES)
    model.compile()
    logs = model.evaluate(INPUTS, LABELS, batch_size=7, verbose=0, return_dict=True)
    expected = expected_logs(model.predict(INPUTS, verbose=0), LABELS, 0.1)
    assert logs == pytest.approx({name: expected[name] for name in logs}, rel=1e-4)


def test_a_train_step_of_ones_own_as_in_keras_guide():
    if keras.backend.backend() != "torch":
        pytest.skip("the guide has a step for each backend; PyTorch's is the shortest")

    class Own(kt.Transformer):
        def train_step(self, data):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
            self.zero_grad()
            loss.backward()
            self.optimizer.apply([v.value.grad for v in self.trainable_weights], self.trainable_weights)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, y_pred)
            return {metric.name: metric.result() for metric in self.metrics}

    own, plain = (kind(V, **SIZES, dropout=0.0) for kind in (Own, kt.Transformer))
    logs = []
    for model in (own, plain):
        model.compile(keras.optimizers.SGD(0.1))
        logs.append(model.train_on_batch(INPUTS, LABELS, return_dict=True))
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)


def test_a_subclass_makes_layers_of_its_own_in_build():
    class Headed(kt.Transformer):
        def build(self, input_shape=None):
            self.head = keras.layers.Dense(V)
            self.head.build((None, None, V))
            super().build(input_shape)

        def call(self, inputs, training=None):
            return self.head(super().call(inputs, training=training))

    model = Headed(V, **SIZES, dropout=0.0)
    model.compile(keras.optimizers.SGD(0.1))
    before = as_numpy(model.head.kernel)
    logs = model.evaluate(INPUTS, LABELS, batch_size=7, verbose=0, return_dict=True)
    expected = expected_logs(model.predict(INPUTS, verbose=0), LABELS, 0.1)
    assert logs == pytest.approx({name: expected[name] for name in logs}, rel=1e-4)
    model.train_on_batch(INPUTS, LABELS)
    assert np.abs(as_numpy(model.head.kernel) - before).max() > 0
