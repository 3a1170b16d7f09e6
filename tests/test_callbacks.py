"""Callbacks around fit: what stands in the logs, the files and on the screen."""

import io
import time

import keras
import pytest

import keras_transformer as kt
from keras_transformer.callbacks import (
    Bleu,
    Checkpoints,
    LearningCurves,
    LearningRate,
    Limit,
    ProgressBar,
    TensorBoard,
    read_curves,
)
from keras_transformer.checkpoints import latest_checkpoint, load_checkpoint

EN = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps"] * 4
DE = ["ein Hund rennt", "eine Katze rennt", "der Hund schläft", "die Katze schläft"] * 4
TOKENIZER = kt.Tokenizer.train(EN + DE, vocabulary_size=300)


@pytest.fixture
def batches():
    return kt.Batches(EN, DE, TOKENIZER, batch_tokens=32, num_buckets=1)


@pytest.fixture
def model():
    model = kt.Transformer(TOKENIZER.vocabulary_size, d_model=8, num_heads=2, num_layers=1, dropout=0.0, seed=1)
    model.compile(optimizer=keras.optimizers.Adam(kt.WarmupInverseSqrt(8, warmup_steps=10)))
    return model


def fit(model, batches, callbacks, epochs=1, **kwargs):
    return model.fit(batches, epochs=epochs, callbacks=callbacks, verbose=0, **kwargs).history


def test_bleu_reaches_history_and_stock_callbacks(model, batches, tmp_path):
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


def test_bleu_every_second_epoch_on_some_sentences(model, batches):
    bleu = Bleu(EN, DE, TOKENIZER, every=2, max_sentences=5)
    assert len(bleu.source) == 4  # every fourth of 16: at most 5, evenly spread
    assert len(fit(model, batches, [bleu], epochs=3).get("val_bleu", [])) == 1


def test_learning_rate_of_the_schedule(model, batches):
    history = fit(model, batches, [LearningRate()], epochs=2)
    updates = [len(batches), 2 * len(batches)]
    expected = [8**-0.5 * min((n + 1) ** -0.5, (n + 1) * 10**-1.5) for n in updates]
    assert history["learning_rate"] == pytest.approx(expected, rel=1e-5)


def test_progress_in_a_file(model, batches):
    file = io.StringIO()
    fit(model, batches, [ProgressBar(12.0, seconds=0, file=file)], validation_data=batches)
    lines = file.getvalue().splitlines()
    assert len(lines) == len(batches) + 1
    for word in ("loss", "perplexity", "learning rate", "tokens/s", "min left"):
        assert word in lines[0]
    assert "val_loss" in lines[-1]


def test_progress_leaves_jax_state_whole(model, batches):
    """Looking at the optimizer within an epoch must not change what is trained."""
    before = fit(model, batches, [], shuffle=False)["loss"]
    other = kt.Transformer.from_config(model.get_config())
    other.compile(optimizer=keras.optimizers.Adam(kt.WarmupInverseSqrt(8, warmup_steps=10)))
    batches.set_epoch(0)
    watched = fit(other, batches, [ProgressBar(12.0, seconds=0, file=io.StringIO())], shuffle=False)["loss"]
    assert watched == pytest.approx(before, rel=1e-6)


def test_curves_go_on_and_replace_what_is_done_again(model, batches, tmp_path):
    fit(model, batches, [LearningCurves(tmp_path)], epochs=3)
    first = read_curves(tmp_path / "curves.csv")
    assert [row["epoch"] for row in first] == [1, 2, 3]
    assert first[-1]["step"] == 3 * len(batches)
    fit(model, batches, [LearningCurves(tmp_path)], epochs=4, initial_epoch=2)
    second = read_curves(tmp_path / "curves.csv")
    assert [row["epoch"] for row in second] == [1, 2, 3, 4]
    assert second[:2] == first[:2]
    assert second[2]["step"] == 4 * len(batches)
    assert second[2]["seconds"] >= first[2]["seconds"]


def test_curves_are_drawn_or_their_lack_is_told(model, batches, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    fit(model, batches, [LearningCurves(tmp_path / "a")])
    assert (tmp_path / "a" / "curves.png").stat().st_size > 1000
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.warns(UserWarning, match=r"keras-transformer\[plots\]"):
        callback = LearningCurves(tmp_path / "b")
    fit(model, batches, [callback])
    assert (tmp_path / "b" / "curves.csv").is_file()


def test_tensorboard_writes_all_logs(model, batches, tmp_path):
    fit(model, batches, [LearningRate(), TensorBoard(tmp_path)])
    (events,) = tmp_path.iterdir()
    for name in (b"loss", b"perplexity", b"learning_rate"):
        assert name in events.read_bytes()


def test_checkpoint_after_each_epoch(model, batches, tmp_path):
    fit(model, batches, [Checkpoints(tmp_path)], epochs=2)
    assert load_checkpoint(model, latest_checkpoint(tmp_path)) == {"epoch": 2}


def test_epoch_broken_off_will_be_begun_anew(model, batches, tmp_path):
    assert len(batches) > 2
    fit(model, batches, [Checkpoints(tmp_path), Limit(updates=len(batches) + 2)], epochs=9)
    assert int(model.optimizer.iterations) == len(batches) + 2
    assert load_checkpoint(model, latest_checkpoint(tmp_path)) == {"epoch": 1}


def test_time_limit(model, batches):
    class Slow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            time.sleep(0.05)

    fit(model, batches, [Slow(), Limit(minutes=0.1 / 60)], epochs=1000)
    assert 1 <= int(model.optimizer.iterations) <= 3


def test_impossible_arguments():
    with pytest.raises(ValueError, match="every=0"):
        Bleu(EN, DE, TOKENIZER, every=0)
    with pytest.raises(ValueError, match="lines"):
        Bleu(EN, DE[:3], TOKENIZER)
