"""Property tests: a function of drawn values becomes a test with few examples in every run and many in the deep one.

Examples are the same at each run: what fails, fails for everybody.
"""

import keras
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def where_nothing_is_compiled(strategy, fixed):
    """Sizes drawn on PyTorch; elsewhere each would compile anew, and there they are ``fixed``."""
    return strategy if keras.backend.backend() == "torch" else st.just(fixed)


def forall(few, many, **strategies):
    """Decorates ``function(**drawn)``, which asserts."""

    def decorate(function):
        @pytest.mark.parametrize("examples", [few, pytest.param(many, marks=pytest.mark.deep)])
        def test(examples):
            limits = settings(
                max_examples=examples,
                derandomize=True,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            limits(given(**strategies)(function))()

        test.__name__, test.__doc__ = function.__name__, function.__doc__
        return test

    return decorate
