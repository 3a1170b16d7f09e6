"""A Dropout layer whose bits come from the seed of the layer it stands in."""

from keras_transformer.initializers import SeedStream
from keras_transformer.layers.dropout import Dropout


def seeded_dropout(rate: float, seeds: SeedStream, dtype=None) -> Dropout:
    """A Dropout with the next seed of a stream.

    Drawn after the seeds of weights, so that a seed gives the weights that it gives without dropout.

    Args:
        rate: share dropped in training.
        seeds: an initializers.SeedStream.
        dtype: policy of the layer.

    Example:

    >>> from keras_transformer.initializers import SeedStream
    >>> from keras_transformer.layers.seeded_dropout import seeded_dropout
    >>> seeded_dropout(0.1, SeedStream(1)).seed == seeded_dropout(0.1, SeedStream(1)).seed
    True
    """
    return Dropout(rate, seed=seeds.next() % 2**31, dtype=dtype)  # PyTorch and JAX keep seeds as int32
