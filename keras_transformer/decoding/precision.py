"""Models that translate at a lower precision than they were trained at: bfloat16, or int8 weights.

Before any search, which takes such a model as it takes another: softmax, scores and rankings stay float32.
"""

import contextlib
import gc
import warnings

PRECISIONS = ("float32", "bfloat16", "int8")


def at_precision(model, precision):
    """A copy of a model for inference at a precision.

    Args:
        model: a Transformer with float32 weights.
        precision: "float32"; "bfloat16": products in bfloat16, weights stay float32 (Keras's policy mixed_bfloat16); "int8": the
            kernels of all projections become int8 with a scale for each column, and inputs are rounded to int8 for the product
            (Keras's ``quantize``); embeddings and logits stay float32.

    Returns:
        A model of the same class, not compiled.

    Raises:
        ValueError: no such precision.

    Example:

    >>> import keras_transformer as kt
    >>> model = kt.Transformer(20, d_model=8, num_heads=2, num_layers=1)
    >>> kt.decoding.at_precision(model, "bfloat16").compute_dtype
    'bfloat16'
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}. Received: {precision!r}.")
    dtype = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    copy = type(model).from_config(model.get_config() | {"dtype": dtype})
    copy.set_weights(model.get_weights())
    if precision == "int8":
        with warnings.catch_warnings(), _collecting_little():
            # Keras warns of embeddings and positions, which are meant to stay as they are.
            warnings.filterwarnings("ignore", message=".*does not have a `quantize` method")
            copy.quantize("int8")
    return copy


@contextlib.contextmanager
def _collecting_little():
    """A context in which the garbage collector leaves alone the objects that exist already.

    Keras 3.15 collects garbage whenever it takes a variable off a layer, here once a projection. Through all objects of PyTorch and
    TensorFlow that took 0.6 s each, 27 of the 34 s for a model with 44 projections.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
