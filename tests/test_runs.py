"""Runs: limits, the best translator, and going on as if never stopped."""

import dataclasses
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import sentencepiece

import keras_transformer as kt
from keras_transformer.artifacts import FolderLock
from keras_transformer.callbacks import read_curves
from keras_transformer.runs import Run, Settings
from keras_transformer.text import PairStream, prepare

EN = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps", "a bird sings"] * 8
DE = ["ein Hund rennt", "eine Katze rennt", "der Hund schläft", "die Katze schläft", "ein Vogel singt"] * 8

pytestmark = pytest.mark.usefixtures("tiny_is_one_layer")


@pytest.fixture
def settings(tmp_path):
    for name, lines in (("train.en", EN), ("train.de", DE)):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    files = str(tmp_path / "train.en"), str(tmp_path / "train.de")
    return Settings(*files, *files, batch_tokens=200, vocabulary_size=300)


def test_another_process_sees_the_same_order_and_epoch(settings, tmp_path):
    whole = Run(tmp_path / "whole", settings)
    whole.train(epochs=2)
    Run(tmp_path / "parts", settings).train(epochs=1)
    second = Run(tmp_path / "parts", settings)
    assert second.epoch == 1
    assert int(second.model.optimizer.iterations) == len(second.batches)
    second.train(epochs=2)
    for one, other in zip(whole.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert second.batches.epoch == whole.batches.epoch
    steps = [[row["step"] for row in read_curves(tmp_path / name / "curves.csv")] for name in ("whole", "parts")]
    assert steps[0] == steps[1]


def test_trained_enough_already(settings, tmp_path):
    run = Run(tmp_path / "run", settings)
    run.train(epochs=1)
    run.train(epochs=1)  # nor in the same object
    assert run.epoch == 1 and run.updates == len(run.batches)
    again = Run(tmp_path / "run", settings)
    before = again.model.get_weights()
    again.train(epochs=1)
    for one, other in zip(before, again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("limit", ["epochs", "updates"])
def test_a_new_run_of_no_length_can_be_gone_on_with(settings, tmp_path, limit):
    Run(tmp_path / "run", settings).train(**{limit: 0})
    assert (tmp_path / "run" / "translator").is_dir()
    run = Run(tmp_path / "run", settings)
    run.train(updates=1)
    assert run.updates == 1


def test_best_translator_stays(settings, tmp_path, monkeypatch):
    """The second epoch scores worse by a stand-in for BLEU: its model must not replace the first's."""
    scores = iter([30.0, 20.0, 10.0])
    monkeypatch.setattr(
        "keras_transformer.callbacks.bleu.bleu", lambda *_: kt.evaluation.Score("BLEU", next(scores), "stand-in")
    )
    run = Run(tmp_path / "run", settings)
    run.train(epochs=1)
    best = kt.Translator.load(tmp_path / "run" / "translator").model.get_weights()
    shutil.rmtree(tmp_path / "run" / "translator")  # as if a kill had come before it was written
    (tmp_path / "run" / ".translator-a1b2").mkdir()
    run = Run(tmp_path / "run", settings)
    run.train(epochs=2)
    assert not list((tmp_path / "run").glob(".translator-*"))
    for one, other in zip(best, kt.Translator.load(tmp_path / "run" / "translator").model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any((one != other).any() for one, other in zip(best, run.model.get_weights(), strict=True))
    (tmp_path / "run" / "translator").rename(tmp_path / "run" / ".translator-a1b2-old")  # a kill between two renames
    run.train(epochs=3)
    assert not list((tmp_path / "run").glob(".translator-*"))
    for one, other in zip(best, kt.Translator.load(tmp_path / "run" / "translator").model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_equal_bleu_the_translator_with_less_loss_stays(settings, tmp_path, monkeypatch):
    """As in the first epochs, whose BLEU is 0."""
    monkeypatch.setattr(
        "keras_transformer.callbacks.bleu.bleu", lambda *_: kt.evaluation.Score("BLEU", 0.0, "stand-in")
    )
    run = Run(tmp_path / "run", settings)
    run.train(epochs=2)
    first, last = run.history
    assert last["val_loss"] < first["val_loss"]
    saved = kt.Translator.load(tmp_path / "run" / "translator").model.get_weights()
    for one, other in zip(saved, run.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_monitored_must_be_there(settings, tmp_path):
    with pytest.raises(
        ValueError, match="monitor must be one of val_bleu, val_loss, .*loss.*Received: monitor='nonsense'."
    ):
        Run(tmp_path / "run", settings).train(epochs=1, monitor="nonsense")
    alone = dataclasses.replace(settings, valid_source=None, valid_target=None)
    with pytest.raises(ValueError, match="monitor='val_loss'. Those of validation need valid_source and valid_target."):
        Run(tmp_path / "alone", alone).train(epochs=1, monitor="val_loss")
    assert not (tmp_path / "run").exists() and not (tmp_path / "alone").exists()  # other settings may come


def test_record_of_settings_stays_and_damage_is_told(settings, tmp_path, monkeypatch):
    run = Run(tmp_path / "run", settings)
    run.begin()
    record = tmp_path / "run" / "run.yaml"
    before = record.stat().st_mtime_ns
    Run(tmp_path / "run", settings).begin()
    assert record.stat().st_mtime_ns == before
    for content in (b"", b"source: [", b"\xff", b"- a", b"colour: red", b"source: a\ntarget: b\npreset: huge"):
        record.write_bytes(content)
        with pytest.raises(ValueError, match=r"run.yaml does not hold the settings of a run: .* Write the file anew"):
            Run(tmp_path / "run", settings)
    save = kt.callbacks.Checkpoints(tmp_path / "run" / "checkpoints")
    run.model.fit(run.batches, callbacks=[save], verbose=0)
    record.unlink()
    with pytest.raises(ValueError, match=r"holds checkpoints, but no run.yaml"):
        Run(tmp_path / "run", settings)


def test_a_tokenizer_that_has_changed_is_refused(settings, tmp_path):
    """A flipped bit in a piece makes other ids of the same text; SentencePiece reads it all the same."""
    Run(tmp_path / "run", settings).begin()
    path = tmp_path / "run" / "tokenizer.model"
    content = path.read_bytes()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=content)
    piece = pieces.id_to_piece(len(pieces) - 1).encode()
    entry = b"\n" + bytes([len(piece)]) + piece
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, entry[:-1] + b"Q"))
    assert kt.Tokenizer.load(path).vocabulary_size == len(pieces)
    with pytest.raises(kt.ArtifactError, match="tokenizer.model cannot be used: corrupt: its sha256 is not"):
        Run(tmp_path / "run", settings)
    path.with_name("tokenizer.model.sha256.json").unlink()  # as in a run of an earlier release
    path.write_bytes(content)
    assert Run(tmp_path / "run", settings).tokenizer.to_bytes() == content


def test_kill_while_settings_are_written_leaves_none_of_them(settings, tmp_path, monkeypatch):
    rename = os.rename

    def killed(old, new):
        if new.name == "run.yaml":
            raise OSError("killed")
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("os.rename", killed)
        with pytest.raises(OSError, match="killed"):
            Run(tmp_path / "run", settings).begin()
    assert not (tmp_path / "run" / "run.yaml").exists()
    assert Run(tmp_path / "run", settings).epoch == 0


def test_run_that_could_not_begin_leaves_no_tokenizer(settings, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match="No pair"):
        Run(folder, dataclasses.replace(settings, batch_tokens=1))
    assert not folder.exists()
    folder.mkdir()
    kt.Tokenizer.train(EN + DE, vocabulary_size=300).save(folder / "tokenizer.model")  # left by an earlier release
    run = Run(folder, dataclasses.replace(settings, vocabulary_size=290))
    run.begin()
    assert run.tokenizer.vocabulary_size == 290
    assert kt.Tokenizer.load(folder / "tokenizer.model").vocabulary_size == 290


def test_every_other_setting_is_refused_in_one_error(settings, tmp_path):
    Run(tmp_path / "run", settings).begin()
    record = (tmp_path / "run" / "run.yaml").read_bytes()
    others = {"source": "other.en", "batch_tokens": 100, "vocabulary_size": None, "seed": 2, "valid_source": "b"}
    with pytest.raises(ValueError) as error:
        Run(tmp_path / "run", dataclasses.replace(settings, **others))
    held, received = str(error.value).split(" Received: ")
    for name in others:
        assert f"{name}={getattr(settings, name)!r}" in held
        assert f"{name}={others[name] or 8000!r}" in received
    assert "target" not in received and "preset" not in received
    assert (tmp_path / "run" / "run.yaml").read_bytes() == record


def test_a_run_that_another_process_has_begun_meanwhile_is_left_alone(settings, tmp_path, monkeypatch):
    other, record = dataclasses.replace(settings, seed=2), tmp_path / "run" / "run.yaml"

    class Late(FolderLock):
        def __enter__(self):
            self.folder.mkdir(exist_ok=True)
            other.write(record)
            return super().__enter__()

    monkeypatch.setattr("keras_transformer.runs.FolderLock", Late)
    run = Run(tmp_path / "run", settings)
    with pytest.raises(ValueError, match=r"holds a run with seed=2. Received: seed=1"):
        run.train(epochs=1)
    assert Settings.read(record) == other and not (tmp_path / "run" / "tokenizer.model").exists()


def test_mixed_precision_under_a_loss_scale_goes_on(settings, tmp_path):
    half = dataclasses.replace(settings, dtype="mixed_float16")
    Run(tmp_path / "run", half).train(epochs=1)
    run = Run(tmp_path / "run", half)
    assert isinstance(run.model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert isinstance(run.model.optimizer.inner_optimizer, kt.SkipNonFinite)
    run.train(epochs=2)
    assert run.epoch == 2 and run.updates > 0


def test_the_same_settings_may_be_written_otherwise(settings, tmp_path, monkeypatch):
    """A path from the working folder; a value of the preset's in place of none."""
    settings = dataclasses.replace(settings, batch_tokens=None)
    Run(tmp_path / "run", settings).begin()
    monkeypatch.chdir(tmp_path)
    Run(tmp_path / "run", dataclasses.replace(settings, source="train.en", batch_tokens=4096, dtype="float32"))


@pytest.mark.parametrize("name", ["batch_tokens", "vocabulary_size"])
def test_nought_is_not_the_presets_value(settings, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be an integer from 1"):
        Run(tmp_path / "run", dataclasses.replace(settings, **{name: 0}))


def test_the_global_policy_is_recorded(settings, tmp_path):
    """Else a run begun under one would go on under another."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        Run(tmp_path / "run", settings).begin()
    finally:
        keras.config.set_dtype_policy(before)
    with pytest.raises(ValueError, match=r"dtype='mixed_bfloat16'. Received: dtype='float32'"):
        Run(tmp_path / "run", settings)


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match="No preset is called"):
        Settings("a", "b", preset="huge")
    with pytest.raises(ValueError, match="valid_source='c', valid_target=None"):
        Settings("a", "b", "c")


def test_a_folder_of_other_files_is_refused_and_stays(settings, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds other files, among which a run would be lost: there is no run.yaml"):
        Run(folder, settings)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


@pytest.fixture
def prepared(settings, tmp_path):
    """The text of the settings as shards, by the tokenizer that a run would train on it."""
    pytest.importorskip("pyarrow")
    tokenizer = kt.Tokenizer.train(EN + DE, vocabulary_size=300)
    prepare(PairStream(settings.source, settings.target), tokenizer, tmp_path / "shards", shard_pairs=7, num_workers=0)
    return dataclasses.replace(settings, source=str(tmp_path / "shards"), target=None, vocabulary_size=None)


def test_prepared_text_trains_as_the_text_does_and_goes_on_at_the_very_batch(settings, prepared, tmp_path):
    whole = Run(tmp_path / "whole", settings)
    whole.train(epochs=2)
    first = Run(tmp_path / "parts", prepared)
    assert len(first.batches) > 2 and first.tokenizer == whole.tokenizer
    first.train(updates=len(first.batches) + 1)
    second = Run(tmp_path / "parts", prepared, num_workers=1)
    second.train(epochs=2)
    assert second.updates == whole.updates == 2 * len(first.batches)
    for one, other in zip(whole.model.get_weights(), second.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_prepared_text_with_another_vocabulary_or_a_target_is_refused(settings, prepared, tmp_path):
    with pytest.raises(
        ValueError, match=r"was prepared with a vocabulary of \d+ pieces\. Received: vocabulary_size=90\."
    ):
        Run(tmp_path / "run", dataclasses.replace(prepared, vocabulary_size=90))
    with pytest.raises(ValueError, match=r"holds both sides\. Received also target="):
        dataclasses.replace(prepared, target=settings.target)
    with pytest.raises(ValueError, match="holds no prepared text"):
        Run(tmp_path / "run", dataclasses.replace(prepared, source=str(tmp_path)))
    assert not (tmp_path / "run").exists()
    Run(tmp_path / "run", prepared).begin()
    kt.Tokenizer.train(DE, vocabulary_size=290).save(tmp_path / "run" / "tokenizer.model")
    (tmp_path / "run" / "tokenizer.model.sha256.json").unlink()
    with pytest.raises(ValueError, match="was prepared with another tokenizer than"):
        Run(tmp_path / "run", prepared)


def test_a_file_of_both_sides_needs_no_target(settings, tmp_path):
    table = tmp_path / "train.tsv"
    table.write_text("".join(f"{en}\t{de}\n" for en, de in zip(EN, DE, strict=True)), encoding="utf-8")
    run = Run(tmp_path / "run", dataclasses.replace(settings, source=str(table), target=None))
    assert run.batches.num_pairs == len(EN)
    with pytest.raises(ValueError, match="There is no target for the source"):
        Run(tmp_path / "other", dataclasses.replace(settings, target=None))


def test_lines_of_a_batch_are_those_of_the_file(settings, tmp_path):
    """Though blank ones before them were left out."""
    for path in (settings.source, settings.target):
        text = Path(path).read_text(encoding="utf-8")
        Path(path).write_text(f"\n\n{text}", encoding="utf-8")
    batches = Run(tmp_path / "run", settings).batches
    lines = [line for place in range(len(batches)) for line in batches.lines(0, place)]
    assert sorted(lines) == list(range(3, 3 + len(EN)))


def test_blank_sides_are_counted(settings, tmp_path):
    files = {}
    for name, path, line in (("source", settings.source, ""), ("target", settings.target, "x")):
        files[name] = tmp_path / name
        files[name].write_text(f"{Path(path).read_text(encoding='utf-8')}{line}\n", encoding="utf-8")
    more = dataclasses.replace(settings, **{name: str(path) for name, path in files.items()})
    assert Run(tmp_path / "run", more).skipped["empty"] == 1
