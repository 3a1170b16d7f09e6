"""What every search checks of its arguments, and the words it says so with."""

import math
import numbers

import numpy as np


def check_integer(name, value, lowest):
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < lowest:
        raise ValueError(f"{name} must be an integer from {lowest}. Received: {name}={value!r}.")


def check_number(name, value, lowest):
    if not isinstance(value, numbers.Real) or not (value >= lowest and math.isfinite(value)):
        raise ValueError(f"{name} must be a number from {lowest}. Received: {name}={value!r}.")


def check_finite(scores):
    """Raises if a sentence's scores (B, ...) are not numbers, and names the rows."""
    broken = np.isnan(scores).reshape(len(scores), -1).any(axis=1)
    if broken.any():
        raise ValueError(
            f"The model's logits are not finite for source rows {np.flatnonzero(broken).tolist()[:10]}: its weights hold NaN "
            "or overflow. Load the last good checkpoint, or decode under a float32 policy."
        )
