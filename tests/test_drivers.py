"""translate.py as it is written: one file, and no more imports than it says."""

import ast
import sys

import keras
import pytest

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
    assert {"check_files", "length_divisor", "run_command"} <= {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef)
    }
