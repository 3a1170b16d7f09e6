import importlib.util

import keras
import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy
from numpy_oracle import dropout_masks, layer_norm, which
from small_model import INPUTS, LABELS, SIZES, V, make_model

import keras_transformer as kt
from keras_transformer.layers import padding_mask

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


@keras.saving.register_keras_serializable(package="test_transformer")
class Doubled(kt.Transformer):
    """Its logits are twice the Transformer's."""

    def logits(self, hidden):
        return 2 * super().logits(hidden)


def test_a_subclass_stays_one_with_another_vocabulary():
    model = Doubled(12, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1)
    inputs = {"source": np.array([[5, 6, 3]]), "target": np.array([[2, 7]])}
    resized = model.resize_vocabulary(15)
    assert type(resized) is Doubled
    np.testing.assert_allclose(as_numpy(resized(inputs))[..., :12], as_numpy(model(inputs)), atol=1e-6)


def test_another_weight_of_the_size_of_the_vocabulary_is_told():
    from keras_transformer.interchange import MarianTransformer

    model = MarianTransformer(12, d_model=8, num_heads=2, num_layers=1)
    with pytest.raises(
        ValueError, match=r"a MarianTransformer whose weight .*output_bias of shape \(12,\) would be \(15,\)"
    ):
        model.resize_vocabulary(15)


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


@pytest.mark.parametrize(("name", "value"), [("seed", -1), ("seed", "a"), ("d_model", 8.0), ("num_layers", 0)])
def test_impossible_numbers_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be an integer from .*Received: {name}={value!r}"):
        kt.Transformer(**({"vocabulary_size": 20, "d_model": 8, "num_heads": 2} | {name: value}))


def test_sizes_of_numpy_become_plain():
    config = kt.Transformer(np.int64(20), d_model=np.int64(8), num_heads=2, num_layers=1).get_config()
    assert type(config["d_model"]) is type(config["vocabulary_size"]) is int
