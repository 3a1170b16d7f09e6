import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.presets import PRESETS, get_preset

# name: layers, d_model, d_ff, heads, dropout, norm, warmup steps, peak, label smoothing, batch tokens, vocabulary
TABLE = {
    "tiny": (4, 128, 256, 4, 0.3, "post", 2000, 5e-3, 0.1, 4096, 8000),
    "small": (6, 256, 1024, 4, 0.3, "pre", 4000, (256 * 4000) ** -0.5, 0.1, 4096, 8000),
    "base": (6, 512, 2048, 8, 0.1, "post", 4000, (512 * 4000) ** -0.5, 0.1, 25_000, 32_000),
    "large": (12, 1024, 4096, 16, 0.1, "pre", 4000, (1024 * 4000) ** -0.5, 0.1, 25_000, 32_000),
}


def test_the_presets_are_those_of_the_guide():
    assert list(PRESETS) == list(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_has_the_values_of_the_guide(name):
    layers, d_model, d_ff, heads, dropout, norm, warmup, peak, smoothing, batch_tokens, vocabulary = TABLE[name]
    preset = get_preset(name)
    places = {"attention_dropout": 0.0, "activation_dropout": 0.0} if name == "tiny" else {}
    assert preset["model"] == {
        "num_layers": layers,
        "d_model": d_model,
        "d_ff": d_ff,
        "num_heads": heads,
        "dropout": dropout,
        "norm": norm,
        **places,
    }
    recipe = dict(preset["recipe"])
    schedule = kt.WarmupInverseSqrt(d_model, recipe["warmup_steps"], recipe.pop("scale"))
    np.testing.assert_allclose(schedule.peak, peak, rtol=1e-12)
    assert recipe == {
        "warmup_steps": warmup,
        "label_smoothing": smoothing,
        "batch_tokens": batch_tokens,
        "vocabulary_size": vocabulary,
    }


def test_an_unknown_name_is_refused_with_the_choices():
    for make in (get_preset, kt.Transformer.from_preset):
        with pytest.raises(ValueError, match="'huge'. Choose one of 'tiny', 'small', 'base', 'large'"):
            make("huge")


def test_from_preset_makes_the_model_and_compile_takes_the_recipe():
    model = kt.Transformer.from_preset("tiny", vocabulary_size=50)
    assert (len(model.encoder.layers), len(model.decoder.layers)) == (4, 4)
    # 12 weights an encoder layer, 20 a decoder layer, one tied table; no final norm, for it is post-LN
    assert len(model.trainable_weights) == 4 * 12 + 4 * 20 + 1
    d, f = 128, 256
    attention, feed_forward, norm = 4 * d * d + 4 * d, 2 * d * f + f + d, 2 * d
    parameters = 50 * d + 4 * (attention + feed_forward + 2 * norm) + 4 * (2 * attention + feed_forward + 3 * norm)
    assert model.count_params() == parameters
    assert model.dropout == 0.3
    model.compile()
    assert model.optimizer.get_config()["learning_rate"]["config"]["warmup_steps"] == 2000
    assert model.loss.label_smoothing == 0.1


def test_overrides_win():
    model = kt.Transformer.from_preset("tiny", vocabulary_size=50, num_layers=1, dropout=0.0, norm="pre")
    assert (model.num_layers, model.dropout, model.norm, model.d_ff) == (1, 0.0, "pre", 256)
