"""Checks of attention itself and of decoding with a cache."""

import numpy as np
from keras import ops

from keras_transformer.testing.probes import source_and_target
from keras_transformer.testing.report import NotChecked, needs, pitfall


@pitfall("attention scaling", steady=False)
def attention_scaling(subject):
    """Whether scores are divided by the square root of the head width.

    Of two keys whose products with a query differ, the logarithm of the weights' ratio tells the factor.
    """
    needs(subject, "attention", "head_width")
    width = subject.head_width
    if width < 2:
        raise NotChecked("needs a head width from 2: of 1, scaled and not scaled are the same")
    x = np.zeros((1, 1, 2, width), "float32")
    product = 2 * width**0.5  # scaled it is 2, far enough from 0 for half precision
    # As query, key and value at once: a row's product with itself is ``product``, with the other 0, and the sum shows both weights.
    x[0, 0, [0, 1], [0, 1]] = product**0.5
    for name, attend in subject.attention.items():
        attended = ops.convert_to_numpy(attend(*map(ops.convert_to_tensor, (x, x, x)))).astype("float64")
        first, second = attended[0, 0, 0, :2]
        with np.errstate(all="ignore"):
            factor = float(np.log(first / second) / product)
        if not abs(factor - width**-0.5) <= 0.02 * width**-0.5:
            return f"{name} scales scores by {factor:.3g} where 1 / sqrt(K) is {width**-0.5:.3g} (K = {width})."
    return None


@pitfall("cached decoding")
def cached_decoding(subject):
    """Whether decoding token by token from a cache gives the logits of the whole target at once."""
    needs(subject, "cached_logits")
    source, target = source_and_target(subject)
    source[1, -3:] = subject.pad_id
    source[3, -1:] = subject.pad_id
    expected, found = subject.run(source, target), subject.run_cached(source, target)
    for step in range(target.shape[1]):
        if subject.differ(found[:, step], expected[:, step]):
            return (
                f"from step {step} on, decoding with the cache differs from the whole target at once: look at the position it "
                "adds, the place it writes to, and its masks."
            )
    return None
