"""Label-smoothed cross-entropy over integer labels, and the one routine behind loss and metrics.

Szegedy et al. 2016, section 7 (smoothing); Vaswani et al. 2017, section 5.4.
"""

import numbers
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_transformer.backend import fold_chunks, matrix_product, max_and_argmax


class TokenStatistics(NamedTuple):
    """Sums over the real tokens of a batch, float32 scalars, each weighted by ``sample_weight``."""

    loss: Any  # smoothed cross-entropy
    negative_log_likelihood: Any  # unsmoothed
    correct: Any  # tokens whose label has the highest logit
    tokens: Any  # real tokens

    @property
    def mean_loss(self):
        """Loss a token; 0 for a batch of padding."""
        return self.loss / ops.where(self.tokens > 0, self.tokens, 1.0)


def token_weights(labels, pad_id: int = 0, sample_weight=None):
    """The weight of each position, (B, T) float32: 0 at padding, elsewhere ``sample_weight``, or 1 where there is none.

    Args:
        labels: (B, T) integer ids; pad_id marks positions that do not count.
        pad_id: the padding id.
        sample_weight: (B, T) weights of tokens, (B,) or (B, 1) of rows, or None.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.losses import token_weights
    >>> np.asarray(token_weights(np.array([[5, 0]]), sample_weight=np.array([2.0]))).tolist()
    [[2.0, 0.0]]
    """
    weights = ops.cast(ops.not_equal(labels, pad_id), "float32")
    if sample_weight is None:
        return weights
    # A row each, not by rank: TensorFlow may not know it here, and (B,) as it is would weigh positions where B = T.
    return weights * ops.reshape(ops.cast(sample_weight, "float32"), (ops.shape(labels)[0], -1))  # (B, 1) or (B, T)


def token_statistics(
    logits, labels, label_smoothing: float = 0.0, pad_id: int = 0, sample_weight=None
) -> TokenStatistics:
    """TokenStatistics of logits (B, T, V) and integer labels (B, T).

    With log-probabilities p = log_softmax(logits) in float32, a token's loss is -(1 - e) p[label] - (e / V) sum(p), without a
    one-hot tensor.

    Args:
        logits: (B, T, V).
        labels: (B, T) integer ids; pad_id marks positions that do not count.
        label_smoothing: e.
        pad_id: the padding id.
        sample_weight: (B, T) weights of tokens, (B,) or (B, 1) of rows, or None.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.losses import token_statistics
    >>> statistics = token_statistics(np.zeros((1, 2, 4), "float32"), np.array([[1, 0]]))  # log 4, of the one real token
    >>> round(float(statistics.mean_loss), 4), float(statistics.tokens)
    (1.3863, 1.0)
    """
    logits = ops.cast(logits, "float32")
    weights = token_weights(labels, pad_id, sample_weight)  # (B, T)
    labels = ops.cast(labels, "int32")
    normalizer = ops.logsumexp(logits, axis=-1)  # (B, T)
    mean_logit = ops.mean(logits, axis=-1)
    return _weighted_sums(normalizer, logits, mean_logit, max_and_argmax(logits)[1], labels, weights, label_smoothing)


def _weighted_sums(
    normalizer, logits, mean_logit, predicted, labels, weights, label_smoothing: float
) -> TokenStatistics:
    """TokenStatistics of rows of logits (..., V); all else has their shape but for V."""
    likelihood = normalizer - ops.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    loss = (1.0 - label_smoothing) * likelihood + label_smoothing * (normalizer - mean_logit)
    correct = ops.cast(ops.equal(ops.cast(predicted, "int32"), labels), "float32")
    return TokenStatistics(*(ops.sum(weights * values) for values in (loss, likelihood, correct)), ops.sum(weights))


# Rows of a chunk times V: 32 MB of float32 logits, a few of which live at a time.
_CHUNK_LOGITS = 2**23
# Most rows of a chunk, for small V: a float16 sum over 4,096 hidden states (of unit variance, after a LayerNorm) stays in range.
_CHUNK_ROWS = 2**12


def projected_token_statistics(
    hidden,
    table,
    labels,
    label_smoothing: float = 0.0,
    pad_id: int = 0,
    sample_weight=None,
    training: bool = False,
    chunk_size: int | None = None,
) -> TokenStatistics:
    """TokenStatistics of hidden states (B, T, D) scored against the rows of table (V, D).

    Equals token_statistics of the logits, but never holds all logits: some hundred rows are projected and scored at a time. In
    training the gradient of ``loss`` is made in the same pass, because logits tell their own gradient, softmax - target: three
    matrix products, as in the plain form, and nothing computed twice.

    Args:
        hidden: (B, T, D), of any float type.
        table: (V, D), of any float type.
        labels: (B, T) integer ids; pad_id marks positions that do not count.
        label_smoothing: e.
        pad_id: the padding id.
        sample_weight: (B, T) weights of tokens, (B,) or (B, 1) of rows, or None.
        training: whether ``loss`` is to have gradients, with respect to hidden and table.
        chunk_size: rows projected at a time; None for as many as make 2**23 logits, 4096 at most.

    Raises:
        ValueError: chunk_size is no positive integer.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.losses import projected_token_statistics
    >>> hidden, table = np.zeros((1, 2, 3), "float32"), np.zeros((4, 3), "float32")
    >>> round(float(projected_token_statistics(hidden, table, np.array([[1, 0]])).mean_loss), 4)
    1.3863
    """
    _check_chunk_size(chunk_size)
    # Makes a tensor of a variable: eager TensorFlow would hand on the variable itself, which custom_gradient refuses.
    table = ops.reshape(table, table.shape)
    hidden = ops.reshape(ops.convert_to_tensor(hidden), (-1, table.shape[1]))  # (B, T, D) -> (N, D)
    weights = ops.reshape(token_weights(labels, pad_id, sample_weight), (-1,))  # (N,)
    labels = ops.reshape(ops.cast(labels, "int32"), (-1,))  # (N,)
    chunk_size = chunk_size or min(max(_CHUNK_LOGITS // table.shape[0], 1), _CHUNK_ROWS)

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


def _check_chunk_size(chunk_size):
    if chunk_size is not None and (not isinstance(chunk_size, numbers.Integral) or chunk_size < 1):
        raise ValueError(f"chunk_size must be an integer from 1, or None. Received: chunk_size={chunk_size!r}.")


def _score_in_chunks(hidden, table, labels, weights, label_smoothing, chunk_size, training):
    """Sums (loss, negative log-likelihood, correct) over N rows; the gradients of the first, (N, D) and (V, D), or None.

    By the logits of a row with weight w and label y, the gradient is w (softmax - (1 - e) onehot(y) - e / V). Only softmax
    needs all V entries; the rest is a gathered row and the table's mean, taken once for all rows.
    """
    rows = ops.shape(hidden)[0]
    chunk_size = min(chunk_size, rows) if isinstance(rows, int) else ops.minimum(chunk_size, rows)
    projection = ops.cast(table, hidden.dtype)  # (V, D)
    table = ops.cast(table, "float32")
    mean_row = ops.mean(table, axis=0)  # (D,)
    weighted = weights[:, None] * ops.cast(hidden, "float32")  # (N, D)

    def score_chunk(carry, chunk):
        sums, table_gradient = carry
        hidden, weighted, labels, weights = chunk  # (C, D), (C, D), (C,), (C,)
        logits = ops.cast(matrix_product(hidden, ops.transpose(projection)), "float32")  # (C, V)
        highest, predicted = max_and_argmax(logits)
        softmax = ops.softmax(logits, axis=-1)
        # softmax is 1 / sum(exp(logits - highest)) where the logit is highest: logsumexp without another pass.
        normalizer = highest - ops.log(ops.max(softmax, axis=-1))
        mean_logit = ops.matmul(ops.cast(hidden, "float32"), mean_row)
        counted = _weighted_sums(normalizer, logits, mean_logit, predicted, labels, weights, label_smoothing)
        sums = sums + ops.stack(counted[:3])
        if not training:
            return (sums, table_gradient), None
        softmax = ops.cast(softmax, hidden.dtype)
        weighted = ops.cast(weighted, hidden.dtype)
        table_gradient = table_gradient + ops.cast(matrix_product(ops.transpose(softmax), weighted), "float32")
        return (sums, table_gradient), ops.cast(matrix_product(softmax, projection), "float32")

    # The table's gradient begins with what is known beforehand, so that fewer tensors (V, D) live at a time.
    known = _target_sums(weighted, labels, table, label_smoothing) if training else ops.zeros(())
    carry = (ops.zeros((3,), dtype="float32"), known)
    rows = (hidden, weighted, labels, weights)
    (sums, table_gradient), expected_rows = fold_chunks(score_chunk, carry, rows, chunk_size)
    if not training:
        return sums, None, None
    target_rows = (1.0 - label_smoothing) * ops.take(table, labels, axis=0) + label_smoothing * mean_row
    return sums, weights[:, None] * (expected_rows - target_rows), table_gradient


def _target_sums(weighted, labels, table, label_smoothing):
    """The part of the table's gradient (V, D) that the targets make: minus the sum of each token's hidden states."""
    sums = ops.segment_sum((label_smoothing - 1.0) * weighted, labels, num_segments=table.shape[0])
    return sums - label_smoothing / table.shape[0] * ops.sum(weighted, axis=0)


@keras.saving.register_keras_serializable(package="keras_transformer")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy with label smoothing over integer labels, padding left out.

    The target distribution is (1 - e) on the label plus e / V on all V entries (e = 0.1, V = 5: 0.92 and 0.02). The loss is the
    sum over real tokens divided by their number (their weights, with sample_weight); a batch of padding gives 0.

    Args:
        label_smoothing: e, in [0, 1).
        pad_id: the label that marks positions that do not count.
        chunk_size: how many tokens' logits exist at a time in ``fit`` and ``evaluate`` of a kt.Transformer; None for as many as
            make 2**23 logits (1,048 at V = 8,000), so that a small batch is one chunk. A number not below the tokens of a batch
            makes all at once.

    Call arguments:
        y_true: (B, T) integer labels.
        y_pred: (B, T, V) logits of any float type; computed in float32.
        sample_weight: (B, T) weights of tokens, (B,) or (B, 1) of rows, or None.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: label_smoothing outside [0, 1), a chunk_size that is no positive integer, or a reduction that is not Keras's
            default.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> round(float(kt.SmoothedCrossentropy(0.1)(np.array([[1]]), np.zeros((1, 1, 4), "float32"))), 4)
    1.3863

    Reference: Szegedy et al. 2016, section 7.
    """

    def __init__(
        self,
        label_smoothing: float = 0.1,
        pad_id: int = 0,
        chunk_size: int | None = None,
        name: str = "smoothed_crossentropy",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if self.reduction != "sum_over_batch_size":
            raise ValueError(
                f"The loss is a mean over real tokens. Received: reduction={self.reduction!r}. Expected: none given. For a sum "
                "multiply by the number of tokens; for single tokens use losses.token_statistics on one at a time."
            )
        if not isinstance(label_smoothing, numbers.Real) or not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be a number in [0, 1). Received: {label_smoothing!r}.")
        _check_chunk_size(chunk_size)
        self.label_smoothing = label_smoothing
        self.pad_id = pad_id
        self.chunk_size = chunk_size

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

    def get_config(self) -> dict:
        return super().get_config() | {
            "label_smoothing": self.label_smoothing,
            "pad_id": self.pad_id,
            "chunk_size": self.chunk_size,
        }
