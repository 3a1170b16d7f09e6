"""Label-smoothed cross-entropy over integer labels, and the one routine behind loss and metrics.

Szegedy et al. 2016, section 7 (smoothing); Vaswani et al. 2017, section 5.4.
"""

from typing import NamedTuple

import keras
from keras import ops


class TokenStatistics(NamedTuple):
    """Sums over the real tokens of a batch, float32 scalars, each weighted by ``sample_weight``."""

    loss: object  # smoothed cross-entropy
    negative_log_likelihood: object  # unsmoothed
    correct: object  # tokens whose label has the highest logit
    tokens: object  # real tokens

    @property
    def mean_loss(self):
        """Loss a token; 0 for a batch of padding."""
        return self.loss / ops.where(self.tokens > 0, self.tokens, 1.0)


def token_statistics(logits, labels, label_smoothing=0.0, pad_id=0, sample_weight=None):
    """TokenStatistics of logits (B, T, V) and integer labels (B, T).

    With log-probabilities p = log_softmax(logits) in float32, a token's loss is -(1 - e) p[label] - (e / V) sum(p): no one-hot tensor.

    Args:
        logits: (B, T, V).
        labels: (B, T) integer ids; pad_id marks positions that do not count.
        label_smoothing: e.
        pad_id: the padding id.
        sample_weight: (B, T) weights of the tokens, or None.
    """
    logits = ops.cast(logits, "float32")
    weights = ops.cast(ops.not_equal(labels, pad_id), "float32")  # (B, T)
    if sample_weight is not None:
        weights = weights * ops.cast(sample_weight, "float32")
    normalizer = ops.logsumexp(logits, axis=-1)  # (B, T)
    label_logits = ops.take_along_axis(logits, ops.cast(labels, "int32")[..., None], axis=-1)[..., 0]
    likelihood = normalizer - label_logits
    uniform = normalizer - ops.mean(logits, axis=-1)
    loss = (1.0 - label_smoothing) * likelihood + label_smoothing * uniform
    correct = ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.cast(labels, "int64")), "float32")
    return TokenStatistics(
        *(ops.sum(weights * values) for values in (loss, likelihood, correct)),
        ops.sum(weights),
    )


def projected_token_statistics(hidden, table, labels, label_smoothing=0.0, pad_id=0, sample_weight=None):
    """TokenStatistics of hidden states (B, T, D) scored against the rows of table (V, D)."""
    table = ops.cast(table, hidden.dtype)
    flat = ops.reshape(hidden, (-1, hidden.shape[-1]))  # (B, T, D) -> (N, D)
    logits = ops.matmul(flat, ops.transpose(table))  # (N, V)
    flat_weight = None if sample_weight is None else ops.reshape(sample_weight, (-1,))
    return token_statistics(logits, ops.reshape(labels, (-1,)), label_smoothing, pad_id, flat_weight)


@keras.saving.register_keras_serializable(package="keras_transformer")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy with label smoothing over integer labels, padding left out.

    The target distribution is (1 - e) on the label plus e / V on all V entries (e = 0.1, V = 5: 0.92 and 0.02). The loss is the
    sum over real tokens divided by their number (their weights, with sample_weight); a batch of padding gives 0.

    Args:
        label_smoothing: e, in [0, 1).
        pad_id: the label that marks positions that do not count.

    Call arguments:
        y_true: (B, T) integer labels.
        y_pred: (B, T, V) logits of any float type; computed in float32.
        sample_weight: (B, T) weights of the tokens, or None.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: label_smoothing outside [0, 1).

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> round(float(kt.SmoothedCrossentropy(0.1)(np.array([[1]]), np.zeros((1, 1, 4), "float32"))), 4)
    1.3863

    Reference: Szegedy et al. 2016, section 7.
    """

    def __init__(self, label_smoothing=0.1, pad_id=0, name="smoothed_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1). Received: {label_smoothing!r}.")
        self.label_smoothing = label_smoothing
        self.pad_id = pad_id

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Not Loss.__call__: its reduction divides by all positions, padding and zero weights included.
        statistics = token_statistics(
            ops.convert_to_tensor(y_pred),
            ops.convert_to_tensor(y_true),
            self.label_smoothing,
            self.pad_id,
            sample_weight,
        )
        return statistics.mean_loss

    def get_config(self):
        return super().get_config() | {"label_smoothing": self.label_smoothing, "pad_id": self.pad_id}
