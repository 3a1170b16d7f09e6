import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from exported_models import TOKENIZER, make_model, make_sources

import keras_transformer as kt
from keras_transformer.decoding import BeamSearch
from keras_transformer.export import export_saved_model, verify_export
from keras_transformer.export import saved_model as saved_model_module

OPTIONS = {"beam_size": 3, "length_penalty": 0.8, "max_length": 9}
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
NO_TENSORFLOW = "TensorFlow, which writes SavedModels, is not installed"
needs_tensorflow = pytest.mark.skipif(not HAS_TENSORFLOW, reason=NO_TENSORFLOW)

# Run with -I, so that neither the working directory nor PYTHONPATH is searched; and the package is barred by name, in
# case it is installed.
SERVE = """
import json, sys
sys.modules["keras_transformer"] = sys.modules["keras"] = None
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answers = [serve(source=tf.constant(source, "int32")) for source in json.load(sys.stdin)]
assert not [name for name in sys.modules if name.startswith("keras") and sys.modules[name] is not None]
print(json.dumps([{name: value.numpy().tolist() for name, value in answer.items()} for answer in answers]))
print(json.dumps([answers[0]["ids"].dtype.name, answers[0]["scores"].dtype.name]))
"""


MODEL = make_model()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    if not HAS_TENSORFLOW:
        pytest.skip(NO_TENSORFLOW)
    folder = tmp_path_factory.mktemp("parent") / "nested" / "export"
    export_saved_model(MODEL, TOKENIZER, folder, **OPTIONS, text=False)
    return folder


def test_plain_tensorflow_answers_as_the_search_does(exported, tmp_path):
    sources = [make_sources(rows, length) for rows, length in ((1, 1), (1, 6), (4, 3), (5, 12))]
    child = subprocess.run(
        [sys.executable, "-I", "-c", SERVE, str(exported / "1")],
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
    assert card["exported_on"] == keras.backend.backend() and card["keras"] == keras.__version__
    assert card["parameters"] == sum(w.size for w in MODEL.get_weights())
    assert card["pad_id"] == 0 and card["eos_id"] == 3
    assert set(card["signature"]) == {"serving_default", "encode", "decode_step", "score"}
    report = card["compared_with_python"]
    assert (report["sentences"], report["sentences_with_other_ids"], report["sentences_are"]) == (50, 0, "made-up ids")
    assert report["largest_difference_of_a_score"] < 1e-4 and len(report["shapes"]) == 3
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
        monkeypatch.setattr(saved_model_module.saved_model_check, "compare", _fail)
    else:
        monkeypatch.setattr(saved_model_module, "save_model", lambda model, folder: None)
    before = tmp_path / "kept"
    before.mkdir()
    (before / "card.json").write_text("an earlier export")
    for folder in (tmp_path / "new", before):
        with pytest.raises(ValueError, match="does not answer|ArtifactError: .* holds no model: model.json is missing"):
            export_saved_model(MODEL, None, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (before / "card.json").read_text() == "an earlier export"


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


def test_only_core_operations_of_tensorflow(exported):
    """In a process that has loaded TensorFlow alone, every operation of the graph is known, and none hides another program."""
    operations = json.loads((exported / "card.json").read_text())["compared_with_python"]["operations"]
    assert {"While", "StatefulPartitionedCall", "MatMul"} & set(operations)
    forbidden = [name for name in operations if name.startswith("Xla") or "PyFunc" in name or "Custom" in name]
    assert not forbidden
    code = (
        "import json, sys; sys.modules['keras'] = None; from tensorflow.python.framework import op_def_registry\n"
        "import tensorflow; print([name for name in json.loads(sys.argv[1]) if op_def_registry.get(name) is None])"
    )
    command = [sys.executable, "-I", "-c", code, json.dumps(operations)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_score_tells_probabilities_and_attention(exported):
    """Against the model's own call: log-probabilities of labels, and attention as wide as the source."""
    import tensorflow as tf

    source = make_sources(3, 6)
    labels = make_sources(3, 4, seed=2)
    answer = tf.saved_model.load(str(exported / "1")).signatures["score"](
        source=tf.constant(source), labels=tf.constant(labels)
    )
    target = np.concatenate([np.full((3, 1), MODEL.bos_id), labels[:, :-1]], axis=1)
    logits = keras.ops.convert_to_numpy(MODEL({"source": source, "target": target})).astype("float64")
    expected = np.take_along_axis(logits, labels[:, :, None], 2)[..., 0] - np.log(np.exp(logits).sum(-1))
    expected = np.where(labels == MODEL.pad_id, 0, expected)
    np.testing.assert_allclose(answer["log_probabilities"].numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(answer["scores"].numpy(), expected.sum(1), rtol=1e-4, atol=1e-4)
    assert answer["attention"].shape == (3, 4, 6)
    np.testing.assert_allclose(answer["attention"].numpy().sum(-1), 1, rtol=1e-5)
    assert np.abs(answer["attention"].numpy()[source[:, None, :].repeat(4, 1) == MODEL.pad_id]).max() == 0


def test_one_flipped_bit_is_refused(exported, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    verify_export(copy)
    data = copy / "1" / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 3] ^= 4
    data.write_bytes(content)
    with pytest.raises(ValueError, match="variables.data-00000-of-00001 cannot be used: corrupt: its sha256 is not"):
        verify_export(copy)


@needs_tensorflow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="compares within this process")
@pytest.mark.parametrize("what", ["ids", "scores"])
def test_an_artefact_that_answers_otherwise_is_an_error(exported, what):
    source = make_sources(4, 5)
    ids, scores = BeamSearch(MODEL, **OPTIONS)(source)
    expected = {"source": source, "ids": ids, "scores": scores}
    saved_model_module.saved_model_check.compare(MODEL, exported / "1", expected)
    expected[what] = expected[what] + (np.arange(4) == 2).astype(ids.dtype).reshape(
        -1, *[1] * (expected[what].ndim - 1)
    )
    with pytest.raises(ValueError, match="does not answer as the model does for 1 of 4 sentences"):
        saved_model_module.saved_model_check.compare(MODEL, exported / "1", expected)


@needs_tensorflow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="once is enough")
def test_text_in_text_out_and_the_next_version(tmp_path):
    pytest.importorskip("tensorflow_text")
    texts = ["a dog runs", "", "two cats", "\t", "\u3000\x0b\xa0"]  # blank, as Python sees it, are three
    (tmp_path / "export" / "1").mkdir(parents=True)  # as an earlier export leaves it
    (tmp_path / "export" / "card.json").write_text("{}")
    more = {"sentences": texts, "facts": {"data": "two lines"}}  # text is written, for tensorflow-text is there
    export_saved_model(MODEL, TOKENIZER, tmp_path / "export", **OPTIONS, **more)
    assert [path.name for path in (tmp_path / "export").iterdir() if path.name.isdecimal()] == ["2"]
    verify_export(tmp_path / "export")
    code = (
        "import json, sys, tensorflow as tf, tensorflow_text\n"
        "serve = tf.saved_model.load(sys.argv[1]).signatures['translate_text']\n"
        "texts = serve(text=tf.constant(json.loads(sys.argv[2])))['translation'].numpy()\n"
        "print(json.dumps([text.decode('utf-8', 'replace') for text in texts]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "export" / "text" / "2"), json.dumps(texts)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    expected = kt.Translator(MODEL, TOKENIZER).translate(texts, **OPTIONS)
    assert json.loads(child.stdout.splitlines()[-1]) == expected
    card = json.loads((tmp_path / "export" / "card.json").read_text())
    assert card["compared_with_python"]["sentences_are"] == "given" and card["compared_with_python"]["sentences"] == 2
    assert card["data"] == "two lines" and card["compared_with_python"]["texts"] == 5


@needs_tensorflow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="an export costs seconds; once is enough")
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
    assert (tmp_path / "export" / "1" / "saved_model.pb").is_file()


@needs_tensorflow
def test_impossible_options_are_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="beam_size must be an integer from 1"):
        export_saved_model(MODEL, None, tmp_path / "export", beam_size=0)
    assert not list(tmp_path.iterdir())


@needs_tensorflow
def test_a_tokenizer_that_cannot_be_saved_is_told_before_the_search(tmp_path, monkeypatch):
    class Unsaved:
        vocabulary_size, pad_id, bos_id, eos_id = TOKENIZER.vocabulary_size, 0, 2, 3

        def save(self, path):
            raise ValueError("three files")

    monkeypatch.setattr(saved_model_module.saved_model_check, "sources", None)
    with pytest.raises(ValueError, match="three files"):
        export_saved_model(MODEL, Unsaved(), tmp_path / "export")
    assert not list(tmp_path.iterdir())


@needs_tensorflow
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")
def test_a_model_of_16_bits_is_exported_in_float32(monkeypatch, tmp_path):
    """In bfloat16 scores differ by more between two backends than between two translations."""

    def write(model, tokenizer, folder, options, expected):
        written.append((model, expected))
        return {}

    written = []
    monkeypatch.setattr(saved_model_module, "_write_anywhere", write)
    model = make_model(dtype="mixed_bfloat16")
    export_saved_model(model, None, tmp_path / "export", beam_size=2, max_length=3)
    ((copy, expected),) = written
    assert (model.compute_dtype, copy.compute_dtype) == ("bfloat16", "float32")
    ids, scores = BeamSearch(MODEL, 2, max_length=3)(expected["source"])  # of the same weights
    np.testing.assert_array_equal(expected["ids"], ids)
    np.testing.assert_allclose(expected["scores"], scores, rtol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX takes fewer bits by itself, on a GPU or TPU")
def test_jax_searches_at_full_precision_for_the_comparison(monkeypatch, tmp_path):
    import jax

    class Search:
        def __init__(self, model, **options):
            pass

        def __call__(self, source):
            precisions.append(jax.config.jax_default_matmul_precision)
            return np.zeros((len(source), 1, 1), "int32"), np.zeros((len(source), 1), "float32")

    precisions = []
    monkeypatch.setattr(saved_model_module, "_check_installed", lambda text: None)
    monkeypatch.setattr(saved_model_module, "BeamSearch", Search)
    monkeypatch.setattr(saved_model_module, "_write_anywhere", lambda *arguments: {})
    export_saved_model(MODEL, None, tmp_path / "export")
    assert precisions == ["highest"] and jax.config.jax_default_matmul_precision is None


def test_the_child_process_sees_no_gpu(monkeypatch, tmp_path):
    def run(command, env, **options):
        environment.update(env)
        return subprocess.CompletedProcess(command, 1, "", "ValueError: enough seen\n")

    environment = {}
    monkeypatch.setattr(saved_model_module.subprocess, "run", run)
    with pytest.raises(ValueError, match=r"TensorFlow backend \(exit status 1\): ValueError: enough seen"):
        saved_model_module._run_child(tmp_path, tmp_path / "export", {})
    assert (environment["KERAS_BACKEND"], environment["CUDA_VISIBLE_DEVICES"]) == ("tensorflow", "-1")


@needs_tensorflow
def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds other files.*card.json"):
        export_saved_model(MODEL, None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_without_tensorflow_the_error_says_what_to_install(tmp_path, monkeypatch):
    if HAS_TENSORFLOW:
        find_spec = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorflow" else find_spec(name))
    with pytest.raises(ValueError, match=r"TensorFlow, which is not installed.*pip install .*tensorflow"):
        export_saved_model(MODEL, TOKENIZER, tmp_path / "export")
    assert not list(tmp_path.iterdir())
