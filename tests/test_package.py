"""What importing the package costs and loads."""

import os
import subprocess
import sys

import keras
import pytest


def run(code, *options, **environment):
    child = subprocess.run(
        [sys.executable, *options, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return child


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow is the backend here")
def test_no_tensorflow_on_other_backends():
    code = (
        "import sys, numpy as np, keras_transformer as kt\n"
        "tokenizer = kt.Tokenizer.train(['a dog', 'ein Hund'], vocabulary_size=280)\n"
        "model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1)\n"
        "model.compile()\n"
        "model.fit(kt.Batches(['a dog'], ['ein Hund'], tokenizer, batch_tokens=64), verbose=0)\n"
        "kt.Translator(model, tokenizer).translate(['a dog'], max_length=3)\n"
        "print('tensorflow' in sys.modules)"
    )
    assert run(code).stdout.strip() == "False"


def test_heavy_libraries_wait_until_they_are_needed():
    code = (
        "import sys, keras; before = set(sys.modules); import keras_transformer\n"
        "heavy = {'matplotlib', 'keras_nlp', 'keras_hub', 'grain', 'sacrebleu', 'tensorboardX', 'rich', 'torch', 'tensorflow'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    assert run(code).stdout.strip() == "[]"


def test_fresh_process_loads_what_was_saved(tmp_path):
    import keras_transformer as kt

    model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1)
    model.compile()
    model.save(tmp_path / "model.keras")
    code = f"import keras, keras_transformer; print(keras.saving.load_model({str(tmp_path / 'model.keras')!r}).d_model)"
    assert run(code).stdout.strip().endswith("8")


def test_version_is_the_package_metadata():
    import importlib.metadata

    import keras_transformer

    assert importlib.metadata.version("keras-transformer") == keras_transformer.__version__


@pytest.mark.parametrize(
    "options", [["-m", "keras_transformer"], ["-um", "keras_transformer"], ["-mkeras_transformer"]]
)
def test_the_command_line_starts_without_keras(options):
    """It chooses the backend first; however Python is told to run it."""
    command = [sys.executable, "-X", "importtime", *options, "--version"]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in child.stderr.splitlines()}
    assert "keras_transformer.cli" in imported and "keras" not in imported
