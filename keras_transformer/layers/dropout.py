"""Dropout at all four places of the Transformer, with cheap random bits."""

import keras

from keras_transformer.backend import dropout


@keras.saving.register_keras_serializable(package="keras_transformer")
class Dropout(keras.layers.Dropout):
    """keras.layers.Dropout, with bits that cost a fraction of a training step's time on TensorFlow and JAX.

    Arguments, state and results are Keras's; only which elements a seed drops differs.

    Args:
        rate: share dropped in training; the rest is scaled by 1 / (1 - rate).
        noise_shape: as in keras.layers.Dropout, whose bits are then used.
        seed: of the bits; None draws one from Python's generator (keras.utils.set_random_seed).

    Call arguments:
        inputs: any shape.
        training: whether to drop.

    Returns:
        A tensor like ``inputs``.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.layers import Dropout
    >>> tuple(Dropout(0.1)(np.ones((2, 3, 4), "float32"), training=True).shape)
    (2, 3, 4)

    Reference: Srivastava et al. 2014; Vaswani et al. 2017, section 5.4.
    """

    def call(self, inputs, training: bool | None = False):
        if training and self.rate > 0 and self.noise_shape is None:
            return dropout(inputs, self.rate, self.seed_generator.next())
        return super().call(inputs, training=training)
