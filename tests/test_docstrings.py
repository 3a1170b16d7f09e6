"""The examples of docstrings run, and give what they say."""

import doctest
import importlib
import inspect
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


# Errors and what functions return, told where these are; and what stands beside a name whose example shows it too.
WITHOUT_AN_EXAMPLE = {
    "artifacts": "ArrayFile FolderInUse check_folder check_manifest check_sidecar file_sha256 latest_step list_steps open_step "
    "parse_json prune_steps read_state remove_step replace_folder to_disk tree_to_disk",
    "callbacks": "Interrupted epochs_since_best read_curves",
    "checkpoints": "NonFiniteError capture_metrics check_finite first_non_finite latest_checkpoint list_checkpoints "
    "load_checkpoint restore",
    "decoding": "AttentionMaps Forced Hypothesis Scored sampler_search",
    "export": "verify_export",
    "interchange": "load_preset",
    "testing": "Finding Report",
    "text": "Corpus DemoCorpus PairCounts WorkerError source_tokenizer",
}


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_an_example(name):
    """Those in __all__ of every package: a new one comes with an example."""
    module = load(name)
    excepted = WITHOUT_AN_EXAMPLE.get(name.removeprefix("keras_transformer."), "").split()
    for public in set(getattr(module, "__all__", ())) - set(excepted):
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert "Example:" in value.__doc__, f"{name}.{public}"


def test_checks_say_what_they_take_and_give():
    from keras_transformer.testing import CHECKS

    for look in CHECKS.values():
        assert all(word in look.__doc__ for word in ("Args:", "Returns:", "Raises:", ">>> testing.")), look.__name__
