import hashlib
import importlib.util
import json
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.decoding import BeamSearch
from keras_transformer.export import export_saved_model
from keras_transformer.export import saved_model as saved_model_module

TOKENIZER = kt.Tokenizer.train(["a dog runs", "two cats sleep"], vocabulary_size=290)
OPTIONS = {"beam_size": 3, "length_penalty": 0.8, "max_length": 9}
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
NO_TENSORFLOW = "TensorFlow, which writes SavedModels, is not installed"
needs_tensorflow = pytest.mark.skipif(not HAS_TENSORFLOW, reason=NO_TENSORFLOW)

# Run with -I, so that neither the working directory nor PYTHONPATH is searched; and the package is barred by name, in
# case it is installed.
SERVE = """
import json, sys
sys.modules["keras_transformer"] = None
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answers = [serve(source=tf.constant(source, "int32")) for source in json.load(sys.stdin)]
assert [name for name in sys.modules if name.startswith("keras_transformer")] == ["keras_transformer"]
print(json.dumps([{name: value.numpy().tolist() for name, value in answer.items()} for answer in answers]))
print(json.dumps([answers[0]["ids"].dtype.name, answers[0]["scores"].dtype.name]))
"""


def make_model(**kwargs):
    sizes = {"d_model": 8, "num_heads": 2, "num_layers": 1, "seed": 0}
    model = kt.Transformer(TOKENIZER.vocabulary_size, **sizes | kwargs)
    # Weights larger than the initial ones, so that different sources get different translations.
    generator = np.random.default_rng(0)
    model.set_weights([w + 0.3 * generator.normal(size=w.shape) for w in model.get_weights()])
    return model


MODEL = make_model()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    if not HAS_TENSORFLOW:
        pytest.skip(NO_TENSORFLOW)
    folder = tmp_path_factory.mktemp("parent") / "nested" / "export"
    export_saved_model(MODEL, TOKENIZER, folder, **OPTIONS)
    return folder


def test_plain_tensorflow_answers_as_the_search_does(exported, tmp_path):
    generator = np.random.default_rng(1)
    sources = []
    for rows, length in ((1, 1), (1, 6), (4, 3), (5, 12)):
        source = generator.integers(4, MODEL.vocabulary_size, (rows, length), dtype="int32")
        ends = generator.integers(0, length, rows)
        source[np.arange(length) == ends[:, None]] = MODEL.eos_id
        source[np.arange(length) > ends[:, None]] = MODEL.pad_id
        sources.append(source)
    child = subprocess.run(
        [sys.executable, "-I", "-c", SERVE, str(exported)],
        input=json.dumps([source.tolist() for source in sources]),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    answers, dtypes = map(json.loads, child.stdout.splitlines())
    assert dtypes == ["int32", "float32"]
    search = BeamSearch(MODEL, **OPTIONS)
    found = set()
    for source, answer in zip(sources, answers, strict=True):
        ids, scores = search(source)
        assert ids.shape == (len(source), 3, 9)
        np.testing.assert_array_equal(answer["ids"], ids)
        np.testing.assert_allclose(answer["scores"], scores, rtol=1e-5, atol=1e-5)
        found |= set(map(tuple, ids[:, 0].tolist()))
    assert len(found) > 3  # the sources matter


def test_card_and_tokenizer(exported):
    card = json.loads((exported / "card.json").read_text())
    assert card["kind"] == "TensorFlow SavedModel"
    assert card["search"] == OPTIONS
    assert card["trained_on"] == keras.backend.backend() and card["keras"] == keras.__version__
    assert card["parameters"] == sum(w.size for w in MODEL.get_weights())
    assert card["pad_id"] == 0 and card["eos_id"] == 3
    assert set(card["signature"]["serving_default"]) == {"inputs", "outputs"}
    for word in ("tf.saved_model.load", "serving_default", "tokenizer.model", "eos_id"):
        assert word in card["use"]
    rebuilt = kt.Transformer.from_config(card["model"])
    assert rebuilt.get_config() == MODEL.get_config()
    serialized = (exported / "tokenizer.model").read_bytes()
    assert card["tokenizer_sha256"] == hashlib.sha256(serialized).hexdigest()
    assert kt.Tokenizer.load(exported / "tokenizer.model") == TOKENIZER
    assert [path.name for path in exported.parent.iterdir()] == ["export"]


@needs_tensorflow
def test_a_failed_export_leaves_nothing_and_says_why(tmp_path, monkeypatch):
    """From another backend than TensorFlow, the reason is that of the child process."""
    if keras.backend.backend() == "tensorflow":
        monkeypatch.setattr(saved_model_module, "_compare", _fail)
    else:
        monkeypatch.setattr(saved_model_module, "save_model", lambda model, folder: None)
    before = tmp_path / "kept"
    before.mkdir()
    (before / "saved_model.pb").write_text("an earlier export")
    for folder in (tmp_path / "new", before):
        with pytest.raises(ValueError, match="does not answer|ArtifactError: .* holds no model: model.json is missing"):
            export_saved_model(MODEL, None, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (before / "saved_model.pb").read_text() == "an earlier export"


def _fail(*_):
    raise ValueError("The exported SavedModel does not answer as the model does.")


def test_the_reason_is_the_last_exception_not_the_last_line():
    stderr = (
        "W0000 TensorFlow starts\nTraceback (most recent call last):\n  File 'x', line 1\nKeyError: 'a'\n\n"
        "During handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n"
        "  File 'x', line 2\ntensorflow.python.framework.errors_impl.ResourceExhaustedError: out of memory\n"
        "I0000 TensorFlow ends\n"
    )
    assert saved_model_module._reason(stderr) == (
        "tensorflow.python.framework.errors_impl.ResourceExhaustedError: out of memory"
    )
    assert saved_model_module._reason("Killed\n") == "Killed"
    assert saved_model_module._reason("") == "it gave no reason."


@needs_tensorflow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares within this process")
def test_an_artefact_that_answers_otherwise_is_an_error():
    search = BeamSearch(MODEL, **OPTIONS)

    def serve(source):
        ids, scores = search.search(source)
        return {"ids": ids + 1, "scores": scores}

    with pytest.raises(ValueError, match="does not answer as the model does"):
        saved_model_module._compare(search, serve)


@needs_tensorflow
@pytest.mark.parametrize(
    ("vocabulary_size", "ids"),
    [
        (6, {"pad_id": 0, "bos_id": 2, "eos_id": 5}),  # eos is the last id
        (5, {"pad_id": 4, "bos_id": 0, "eos_id": 1}),  # pad is the last id
        (3, {"pad_id": 0, "bos_id": 1, "eos_id": 2}),  # no word but these
    ],
)
def test_special_ids_may_stand_anywhere(tmp_path, vocabulary_size, ids):
    model = kt.Transformer(vocabulary_size, d_model=8, num_heads=2, num_layers=1, seed=0, **ids)
    export_saved_model(model, None, tmp_path / "export", beam_size=2, max_length=3)
    assert (tmp_path / "export" / "saved_model.pb").is_file()


@needs_tensorflow
def test_impossible_options_are_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="beam_size must be an integer from 1"):
        export_saved_model(MODEL, None, tmp_path / "export", beam_size=0)
    assert not list(tmp_path.iterdir())


@needs_tensorflow
def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds other files.*saved_model.pb"):
        export_saved_model(MODEL, None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_without_tensorflow_the_error_says_what_to_install(tmp_path, monkeypatch):
    if HAS_TENSORFLOW:
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name))
    with pytest.raises(ValueError, match=r"TensorFlow, which is not installed.*pip install .*tensorflow"):
        export_saved_model(MODEL, TOKENIZER, tmp_path / "export")
    assert not list(tmp_path.iterdir())
