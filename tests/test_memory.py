"""What a step takes, and what is advised when it does not fit."""

import dataclasses
import io

import keras
import pytest

import keras_transformer as kt
from keras_transformer.artifacts import lock
from keras_transformer.callbacks import LearningRate
from keras_transformer.memory import OutOfMemory, StepMemory, advice, step_memory
from keras_transformer.runs import Run, Settings

STEP = StepMemory(50_000_000, 512, 2048, 8, 6, 6, 32_000, batch_tokens=50_000, length=100)


def test_weights_count_in_full():
    """Where nothing is kept, weights, gradients and two moments of float32 are left, and the logits of a chunk."""
    tiny = dataclasses.replace(STEP, batch_tokens=1, length=1)
    assert tiny.bytes == pytest.approx(4 * 4 * 50_000_000, rel=0.01)
    assert dataclasses.replace(tiny, accumulate=2).bytes == pytest.approx(5 * 4 * 50_000_000, rel=0.01)


def test_activations_grow_with_tokens_and_shrink_with_each_remedy():
    more = dataclasses.replace(STEP, batch_tokens=100_000)
    fixed = dataclasses.replace(STEP, batch_tokens=0).bytes
    assert more.bytes - fixed == pytest.approx(2 * (STEP.bytes - fixed), rel=0.1)
    for change in ({"remat": True}, {"mixed": True}, {"batch_tokens": 25_000}):
        assert dataclasses.replace(STEP, **change).bytes < 0.7 * STEP.bytes, change


def test_advice_says_what_fits():
    lines = advice(STEP, memory=int(1.3 * dataclasses.replace(STEP, remat=True).bytes)).splitlines()
    assert f"batch_tokens={STEP.batch_tokens}" in lines[0]
    remat = next(line for line in lines if line.startswith("  remat=True: "))
    assert remat.endswith(" GB, fits")
    assert any(line.endswith("does not fit") for line in lines[1:])
    assert len(lines) == 6


def test_sizes_come_from_the_model():
    model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1, num_decoder_layers=2, remat=True)
    step = step_memory(model, batch_tokens=64, length=9, accumulate=2)
    assert (step.parameters, step.num_decoder_layers, step.remat, step.mixed) == (model.count_params(), 2, True, False)


@pytest.mark.usefixtures("tiny_is_one_layer")
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")])
def test_a_run_that_does_not_fit_says_what_would(tmp_path, monkeypatch, error):
    for name, line in (("train.en", "a dog runs\n"), ("train.de", "ein Hund rennt\n")):
        (tmp_path / name).write_text(8 * line, encoding="utf-8")
    settings = Settings(str(tmp_path / "train.en"), str(tmp_path / "train.de"), vocabulary_size=280)
    run = Run(tmp_path / "run", settings, file=io.StringIO())

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(keras.Model, "fit", fail)
    monkeypatch.setattr(kt.Transformer, "fit", fail)
    with pytest.raises(
        OutOfMemory, match=r"does not fit into memory. There is no checkpoint so far.\nA step takes about"
    ):
        run.train(epochs=1)
    error = ValueError("something else")
    with pytest.raises(ValueError, match="something else"):
        run.train(epochs=1)


@pytest.mark.usefixtures("tiny_is_one_layer")
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the way of an error is the same on every backend")
def test_the_last_checkpoint_is_as_it_was_and_the_run_goes_on_with_remat(tmp_path, monkeypatch):
    for name, line in (("train.en", "a dog runs\n"), ("train.de", "ein Hund rennt\n")):
        (tmp_path / name).write_text(8 * line, encoding="utf-8")
    files = str(tmp_path / "train.en"), str(tmp_path / "train.de")
    settings = Settings(*files, vocabulary_size=280, batch_tokens=32)
    run = Run(tmp_path / "run", settings, file=io.StringIO())
    held = dict(lock._held)
    run.train(epochs=1)
    steps = len(run.batches)
    contents = [path.read_bytes() for path in sorted((tmp_path / "run" / "checkpoints").rglob("step-*/*"))]

    def fail(callback, batch, logs=None):
        if batch == 1:
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(LearningRate, "on_train_batch_begin", fail, raising=False)
        with pytest.raises(
            OutOfMemory, match=rf"The last checkpoint, step-{steps}, is as it was.\nA step takes (.|\n)*--remat"
        ):
            run.train(epochs=2)
    assert lock._held == held  # another process may write
    assert contents == [path.read_bytes() for path in sorted((tmp_path / "run" / "checkpoints").rglob("step-*/*"))]
    again = Run(tmp_path / "run", dataclasses.replace(settings, remat=True), file=io.StringIO())
    again.train(epochs=2)
    assert again.updates == 2 * steps


def test_long_rows_keep_no_attention_weights():
    """As blockwise attention works: at eight times the length a batch of as many tokens takes no more."""
    step = StepMemory(7_500_000, 256, 1024, 4, 3, 3, 8000, batch_tokens=4096, length=512)
    assert dataclasses.replace(step, length=4096).bytes < step.bytes
    assert dataclasses.replace(step, length=4096).bytes == dataclasses.replace(step, length=1024).bytes
