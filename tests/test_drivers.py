"""translate.py as it is written. What it translates is compared in test_onnx.py and test_ctranslate2.py."""

import ast
import sys

import keras
import pytest

from keras_transformer.export.driver_command import length_divisor
from keras_transformer.export.drivers import write_driver

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


@pytest.mark.parametrize("name", ["onnx", "ctranslate2"])
def test_one_file_that_imports_what_it_says(tmp_path, name):
    write_driver(name, tmp_path)
    tree = ast.parse((tmp_path / "translate.py").read_text(encoding="utf-8"))
    imported = {
        (alias.name if isinstance(node, ast.Import) else node.module).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    said = {word.strip(".,;") for word in ast.get_docstring(tree).split("needs")[1].splitlines()[0].split()}
    outside = {module for module in imported if module not in sys.stdlib_module_names}
    assert outside and outside <= said
    assert {"length_divisor", "run_command"} <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_divisor_is_wu_et_als():
    assert length_divisor(1, 0.6) == 1
    assert length_divisor(7, 1) == 2
    assert length_divisor(7, 0) == 1
