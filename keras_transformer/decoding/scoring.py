"""Forced decoding: what the model thinks of translations that are given, token by token, and what it attends to.

After the searches, whose results it explains, and of use without them: to score and to align pairs. One pass over all positions,
as in training.
"""

import dataclasses

import numpy as np
from keras import ops

from keras_transformer.backend import compiled
from keras_transformer.decoding.errors import check_finite


@dataclasses.dataclass(frozen=True)
class Forced:
    """What forced decoding gives for a batch.

    Attributes:
        log_probabilities: (B, T) float32, of each token of the labels; 0 at padding.
        attention: (B, T, S) float32, what each token attends to in the source: the mean over the heads of the last layer.
    """

    log_probabilities: np.ndarray
    attention: np.ndarray


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """What each layer and head of a model attends to, for one pair.

    Attributes:
        source: list of str, the source's pieces, S of them.
        target: list of str, the pieces that the decoder reads, T of them, bos first.
        labels: list of str, the pieces that it says at the same places, eos last.
        encoder: (layers, H, S, S) float32; rows attend to columns and sum to 1.
        decoder: (layers, H, T, T).
        cross: (layers, H, T, S).
    """

    source: list
    target: list
    labels: list
    encoder: np.ndarray
    decoder: np.ndarray
    cross: np.ndarray


class ForcedDecoding:
    """Scores given translations with a model.

    Args:
        model: a Transformer.

    Call arguments:
        source: (B, S) integer ids, each row ended by eos and filled up with pad.
        labels: (B, T) integer ids of the translations, ended by eos (or not, if they were cut off) and filled up with pad.

    Returns:
        Forced.

    Raises:
        ValueError: the model's logits are not finite.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> forced = kt.decoding.ForcedDecoding(model)(np.array([[5, 6, 3]]), np.array([[7, 3]]))
    >>> forced.log_probabilities.shape, forced.attention.shape
    ((1, 2), (1, 2, 3))
    """

    def __init__(self, model):
        self.model = model
        self._forced = compiled(self.forced, model)
        self._maps = compiled(model.with_scores, model)

    def __call__(self, source, labels):
        log_probabilities, attention = self._forced(*self._tensors(source, labels))
        log_probabilities = ops.convert_to_numpy(log_probabilities)
        check_finite(log_probabilities)
        return Forced(log_probabilities, ops.convert_to_numpy(attention))

    def forced(self, source, target, labels):
        """The pass as a function of tensors, for compilation."""
        logits, scores = self.model.with_scores(source, target)
        total = ops.logsumexp(logits, axis=-1)  # (B, T)
        chosen = ops.take_along_axis(logits, labels[:, :, None], axis=-1)[:, :, 0]
        # inf - inf is NaN, and NaN stays: what is not finite shows, but at padding.
        log_probabilities = ops.where(labels == self.model.pad_id, 0.0, chosen - total)
        return log_probabilities, ops.mean(scores["cross"][-1], axis=1)

    def maps(self, source, labels):
        """Attention weights of all layers: {"encoder": (layers, B, H, S, S), "decoder": ..., "cross": ...} as NumPy arrays.

        Raises as a call does.
        """
        source, target, _ = self._tensors(source, labels)
        logits, scores = self._maps(source, target)
        total = ops.logsumexp(logits, axis=-1)
        check_finite(ops.convert_to_numpy(total - total))  # NaN of what is NaN or infinite
        return {name: np.stack([ops.convert_to_numpy(x) for x in layers]) for name, layers in scores.items()}

    def _tensors(self, source, labels):
        """Source, target and labels; the target is the labels behind bos."""
        labels = np.asarray(labels)
        target = np.pad(labels[:, :-1], ((0, 0), (1, 0)), constant_values=self.model.bos_id)
        return [ops.convert_to_tensor(x, dtype="int32") for x in (np.asarray(source), target, labels)]
