"""Models that translate at a lower precision; what it costs in BLEU is in docs/decoding.md."""

import gc

import pytest
from test_translator import TEXTS, TRANSLATOR

import keras_transformer as kt


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_lower_precision_is_near(tmp_path, precision):
    TRANSLATOR.save(tmp_path / "translator")
    loaded = kt.Translator.load(tmp_path / "translator", precision)
    assert TRANSLATOR.model.compute_dtype == "float32"
    if precision == "int8":
        assert str(loaded.model.decoder.layers[0].feed_forward.inner.kernel.dtype).endswith("int8")
    else:
        assert loaded.model.compute_dtype == "bfloat16"
    scores = [t.score(TEXTS[3:4], ["two cats"])[0].log_probability for t in (TRANSLATOR, loaded)]
    assert 0 < abs(scores[0] - scores[1]) < 0.1 * abs(scores[0])
    assert isinstance(loaded.translate(TEXTS[3:4], beam_size=1, max_length=3)[0], str)
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, int8. Received: 'int4'"):
        kt.Translator.load(tmp_path / "translator", "int4")


def test_int8_does_not_search_all_objects_for_garbage_at_each_projection():
    searched, all_objects = [], len(gc.get_objects())

    def count(phase, info):
        if phase == "start" and info["generation"] == 2:
            searched.append(len(gc.get_objects()))

    gc.callbacks.append(count)
    try:
        kt.decoding.at_precision(TRANSLATOR.model, "int8")
    finally:
        gc.callbacks.remove(count)
    assert searched and sorted(searched)[len(searched) // 2] < all_objects / 5
    assert len(gc.get_objects()) > all_objects / 2
