"""Label-smoothed cross-entropy over integer labels, and the one routine behind loss and metrics.

Szegedy et al. 2016, section 7 (smoothing); Vaswani et al. 2017, section 5.4.
"""

from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.backend import fold_chunks


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

    With log-probabilities p = log_softmax(logits) in float32, a token's loss is -(1 - e) p[label] - (e / V) sum(p), without a
    one-hot tensor.

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
    correct = ops.cast(ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), ops.cast(labels, "int32")), "float32")
    return TokenStatistics(
        *(ops.sum(weights * values) for values in (loss, likelihood, correct)),
        ops.sum(weights),
    )


# Rows of a chunk times V: 64 MB of float32 logits, a few of which live at a time.
_CHUNK_LOGITS = 2**24


def projected_token_statistics(
    hidden, table, labels, label_smoothing=0.0, pad_id=0, sample_weight=None, training=False, chunk_size=None
):
    """TokenStatistics of hidden states (B, T, D) scored against the rows of table (V, D).

    What token_statistics gives for the logits, without the logits: some hundred rows are projected and scored at a time. Where the
    gradient of ``loss`` is wanted it is made in the same pass, since logits tell their own gradient, softmax - target: three
    matrix products, as in the plain form, and nothing computed twice.

    Args:
        hidden: (B, T, D), of any float type.
        table: (V, D) float32.
        labels: (B, T) integer ids; pad_id marks positions that do not count.
        label_smoothing: e.
        pad_id: the padding id.
        sample_weight: (B, T) weights of the tokens, or None.
        training: whether ``loss`` shall have a gradient, by hidden and table.
        chunk_size: rows projected at a time; None for as many as make 2**24 logits.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.losses import projected_token_statistics
    >>> hidden, table = np.zeros((1, 2, 3), "float32"), np.zeros((4, 3), "float32")
    >>> round(float(projected_token_statistics(hidden, table, np.array([[1, 0]])).mean_loss), 4)
    1.3863
    """
    table = ops.convert_to_tensor(table)
    hidden = ops.reshape(ops.convert_to_tensor(hidden), (-1, table.shape[1]))  # (B, T, D) -> (N, D)
    labels = ops.reshape(ops.cast(labels, "int32"), (-1,))  # (N,)
    weights = ops.cast(ops.not_equal(labels, pad_id), "float32")  # (N,)
    if sample_weight is not None:
        weights = weights * ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
    chunk_size = chunk_size or max(_CHUNK_LOGITS // table.shape[0], 1)

    def score(hidden, table):
        sums, hidden_gradient, table_gradient = _score_in_chunks(
            hidden, table, labels, weights, label_smoothing, chunk_size, training
        )

        def gradient(*args, upstream=None):
            (upstream,) = args if upstream is None else (upstream,)
            return (
                ops.cast(upstream[0] * hidden_gradient, hidden.dtype),
                ops.cast(upstream[0] * table_gradient, table.dtype),
            )

        return (sums, gradient) if training else sums

    sums = ops.custom_gradient(score)(hidden, table) if training else score(hidden, table)
    return TokenStatistics(sums[0], sums[1], sums[2], ops.sum(weights))


def _score_in_chunks(hidden, table, labels, weights, label_smoothing, chunk_size, training):
    """Sums (loss, negative log-likelihood, correct) over N rows; the gradients of the first, (N, D) and (V, D), or None.

    By the logits of a row with weight w and label y, the gradient is w (softmax - (1 - e) onehot(y) - e / V). Only softmax
    needs all V entries; the rest is a gathered row and the table's mean, taken once for all rows.
    """
    rows = ops.shape(hidden)[0]
    chunk_size = min(chunk_size, rows) if isinstance(rows, int) else ops.minimum(chunk_size, rows)
    projection = ops.cast(table, hidden.dtype)  # (V, D)
    mean_row = ops.mean(table, axis=0)  # (D,)

    def score_chunk(carry, chunk):
        sums, table_gradient = carry
        hidden, labels, weights = chunk  # (C, D), (C,), (C,)
        logits = ops.cast(ops.matmul(hidden, ops.transpose(projection)), "float32")  # (C, V)
        highest = ops.max(logits, axis=-1)
        exponentials = ops.exp(logits - highest[:, None])
        total = ops.sum(exponentials, axis=-1)
        normalizer = ops.log(total) + highest  # logsumexp
        likelihood = normalizer - ops.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
        uniform = normalizer - ops.matmul(ops.cast(hidden, "float32"), mean_row)
        loss = (1.0 - label_smoothing) * likelihood + label_smoothing * uniform
        correct = ops.cast(ops.equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), labels), "float32")
        sums = sums + ops.stack([ops.sum(weights * values) for values in (loss, likelihood, correct)])
        if not training:
            return (sums, table_gradient), None
        softmax = ops.cast(exponentials * (weights / total)[:, None], hidden.dtype)
        table_gradient = table_gradient + ops.cast(ops.matmul(ops.transpose(softmax), hidden), "float32")
        return (sums, table_gradient), ops.cast(ops.matmul(softmax, projection), "float32")

    carry = (ops.zeros((3,), dtype="float32"), ops.zeros(table.shape if training else (), dtype="float32"))
    (sums, table_gradient), hidden_gradient = fold_chunks(score_chunk, carry, (hidden, labels, weights), chunk_size)
    if not training:
        return sums, None, None
    weights = weights[:, None]
    weighted = weights * ops.cast(hidden, "float32")  # (N, D)
    target_rows = (1.0 - label_smoothing) * ops.take(table, labels, axis=0) + label_smoothing * mean_row
    target_sums = (1.0 - label_smoothing) * ops.segment_sum(weighted, labels, num_segments=table.shape[0])
    uniform_sum = label_smoothing / table.shape[0] * ops.sum(weighted, axis=0)
    return sums, hidden_gradient - weights * target_rows, table_gradient - target_sums - uniform_sum


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
