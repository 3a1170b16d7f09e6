"""The examples of docstrings run, and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import keras_transformer

MODULES = [
    module.name
    for module in pkgutil.walk_packages(keras_transformer.__path__, "keras_transformer.")
    if not module.name.endswith("__main__")
]


def load(name):
    """The module; None where it belongs to an extra that is not installed here."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name.startswith("keras_transformer"):
            raise
        return None


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = load(name)
    if module is None:
        pytest.skip("what it needs is an extra that is not installed")
    assert doctest.testmod(module).failed == 0


def test_most_public_names_have_an_example():
    tests = [test for name in MODULES if load(name) for test in doctest.DocTestFinder().find(load(name))]
    assert sum(bool(test.examples) for test in tests) > 60
