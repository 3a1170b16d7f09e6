"""Checks of attention itself and of decoding with a cache."""

import numpy as np
from keras import ops

from keras_transformer.testing.probes import source_and_target
from keras_transformer.testing.report import needs, pitfall

_WIDTH = 16  # K: 1 / sqrt(K) differs from 1, 1 / K and sqrt(K) by far


@pitfall("attention scaling")
def attention_scaling(subject):
    """Whether scores are divided by the square root of the head width.

    Of two keys whose scores differ by 2, the logarithm of the weights' ratio tells the factor.
    """
    needs(subject, "attention")
    query, key, value = (np.zeros((1, 1, length, _WIDTH), "float32") for length in (1, 2, 2))
    query[0, 0, 0, 0], key[0, 0, 0, 0] = 2.0, 1.0
    value[0, 0, [0, 1], [0, 1]] = 1.0  # so that the sum shows the two weights
    for name, attend in subject.attention.items():
        attended = ops.convert_to_numpy(attend(*map(ops.convert_to_tensor, (query, key, value))))
        first, second = attended[0, 0, 0, :2]
        factor = float(np.log(first / second) / 2.0)
        if not abs(factor - _WIDTH**-0.5) <= 0.02 * _WIDTH**-0.5:
            return f"{name} scales scores by {factor:.3g} where 1 / sqrt(K) is {_WIDTH**-0.5:.3g} (K = {_WIDTH})."
    return None


@pitfall("cached decoding")
def cached_decoding(subject):
    """Whether decoding token by token from a cache gives the logits of the whole target at once."""
    needs(subject, "cached_logits")
    source, target = source_and_target(subject)
    source[1, -3:] = subject.pad_id
    expected, found = subject.run(source, target), subject.run_cached(source, target)
    for step in range(target.shape[1]):
        if subject.differ(found[:, step], expected[:, step]):
            return (
                f"from step {step} on, decoding with the cache differs from the whole target at once: look at the position it "
                "adds, the place it writes to, and its masks."
            )
    return None
