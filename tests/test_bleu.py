"""Bleu: validation text is translated, and the figure stands in the logs for the callbacks behind it."""

import keras
import pytest
from small_training import DE, EN, TOKENIZER, fit, make_training

import keras_transformer as kt
from keras_transformer.callbacks import Bleu


def test_bleu_reaches_history_and_stock_callbacks(tmp_path):
    model, batches = make_training()
    bleu = Bleu(EN[:4], DE[:4], TOKENIZER)
    stop = keras.callbacks.EarlyStopping(monitor="val_bleu", mode="max", patience=0)
    keep = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "best.keras"), monitor="val_bleu", mode="max", save_best_only=True
    )
    history = fit(model, batches, [bleu, keep, stop], epochs=5)
    assert history["val_bleu"][-1] == bleu.score.value
    assert len(history["val_bleu"]) < 5  # an untrained model scores 0 again, so EarlyStopping has seen val_bleu
    assert (tmp_path / "best.keras").is_file()
    assert bleu.translations == kt.Translator(model, TOKENIZER).translate(EN[:4], beam_size=1)


def test_bleu_every_second_epoch_on_some_sentences():
    model, batches = make_training()
    bleu = Bleu(EN, DE, TOKENIZER, every=2, max_sentences=5)
    assert len(bleu.source) == 4  # every fourth of 16: at most 5, evenly spread
    assert len(fit(model, batches, [bleu], epochs=3).get("val_bleu", [])) == 1


def test_impossible_arguments():
    with pytest.raises(ValueError, match="every=0"):
        Bleu(EN, DE, TOKENIZER, every=0)
    with pytest.raises(ValueError, match="lines"):
        Bleu(EN, DE[:3], TOKENIZER)
