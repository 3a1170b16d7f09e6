"""Figures of the reliability tests, for the table that ``make reliability`` prints."""

import json
import os

import keras
import pytest


@pytest.fixture
def figure():
    """Writes down what a test has counted, where RELIABILITY_FIGURES names a file."""

    def write(fault, cases, result, backend=True):
        path = os.environ.get("RELIABILITY_FIGURES")
        row = {
            "fault": fault,
            "cases": cases,
            "result": result,
            "backend": keras.backend.backend() if backend else "none",
        }
        if path:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    return write
