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


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_most_public_names_have_an_example():
    tests = [test for name in MODULES for test in doctest.DocTestFinder().find(importlib.import_module(name))]
    assert sum(bool(test.examples) for test in tests) > 60
