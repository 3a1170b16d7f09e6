"""Checks of arguments that all searches share, and their errors."""

import math
import numbers

import numpy as np

from keras_transformer.text.ids import check_ids


def check_integer(name, value, lowest):
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"{name} must be an integer from {lowest}. Received: {name}={value!r}.")


def check_number(name, value, lowest):
    if not isinstance(value, numbers.Real) or not (value >= lowest and math.isfinite(value)):
        raise ValueError(f"{name} must be a number from {lowest}. Received: {name}={value!r}.")


def checked_source(model, source):
    """The source as a NumPy array (B, S) of ids that the model has."""
    source = np.asarray(source)
    if source.ndim != 2 or not source.shape[1]:
        raise ValueError(
            f"source must have two axes, sentences and positions, one at least. Received: shape {source.shape}."
        )
    check_ids(source, model.num_source_pieces, "source")
    return source


def check_finite(scores):
    """Raises if a sentence's scores (B, ...) are not numbers, and names the rows."""
    broken = np.isnan(scores).any(axis=tuple(range(1, scores.ndim)))
    if broken.any():
        raise RowError(
            "The model's logits are not finite for {}: its weights hold NaN or overflow. Load the last good checkpoint, or decode "
            "under a float32 policy.",
            np.flatnonzero(broken).tolist(),
        )


class RowError(ValueError):
    """What is wrong with some rows of a batch. Who made the batch can say what they were made of.

    Args:
        problem: str, with {} in the rows' place.
        rows: list of int.
        name: what the numbers count.
    """

    def __init__(self, problem, rows, name="source rows"):
        super().__init__(problem, rows, name)
        self.problem = problem
        self.rows = rows
        self.name = name

    def __str__(self):
        return self.problem.format(f"{self.name} {self.rows[:10]}")

    def of(self, name, numbers):
        """The same error about what the rows were made of: numbers[row] in place of each row; rows of filling have none."""
        return RowError(self.problem, sorted(numbers[row] for row in self.rows if row < len(numbers)), name)
