"""Metrics weighted by real tokens, so that ``evaluate`` gives the same at any batch size."""

import keras
from keras import ops

from keras_transformer.losses import TokenStatistics, token_statistics


class TokenMetric(keras.metrics.Metric):
    """A mean over tokens: the sum of one of the TokenStatistics divided by the number of tokens.

    Args:
        pad_id: the label that marks positions that do not count.
        name: the metric's name in logs.
    """

    _statistic: str | None = None

    def __init__(self, pad_id: int = 0, name: str | None = None, **kwargs):
        super().__init__(name=name, **kwargs)
        self.pad_id = pad_id
        self.total = self.add_variable((), initializer="zeros", name="total")
        self.tokens = self.add_variable((), initializer="zeros", name="tokens")

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Counts labels (B, T) against logits (B, T, V); sample_weight (B,), (B, 1), (B, T) or None."""
        self.update_from_statistics(
            token_statistics(
                ops.convert_to_tensor(y_pred),
                ops.convert_to_tensor(y_true),
                pad_id=self.pad_id,
                sample_weight=sample_weight,
            )
        )

    def update_from_statistics(self, statistics: TokenStatistics) -> None:
        """Counts a batch of which the TokenStatistics are known, as Transformer does in ``fit``."""
        self.total.assign_add(ops.stop_gradient(getattr(statistics, self._statistic)))
        self.tokens.assign_add(ops.stop_gradient(statistics.tokens))

    def result(self):
        tokens = ops.convert_to_tensor(self.tokens)
        return self.total / ops.where(tokens > 0, tokens, 1.0)

    def get_config(self) -> dict:
        return super().get_config() | {"pad_id": self.pad_id}


@keras.saving.register_keras_serializable(package="keras_transformer")
class TokenAccuracy(TokenMetric):
    """Share of real tokens whose label has the highest logit, from 0 to 1.

    Args:
        pad_id: the label that marks positions that do not count.
        name: the metric's name in logs.

    Call arguments:
        y_true: (B, T) integer labels.
        y_pred: (B, T, V) logits.
        sample_weight: (B, T) weights of tokens, (B,) or (B, 1) of rows, or None.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> metric = kt.TokenAccuracy()
    >>> metric.update_state(np.array([[1, 2, 0]]), np.eye(3, dtype="float32")[None, [1, 1, 1]])
    >>> float(metric.result())
    0.5
    """

    _statistic = "correct"

    def __init__(self, pad_id: int = 0, name: str = "token_accuracy", **kwargs):
        super().__init__(pad_id=pad_id, name=name, **kwargs)


@keras.saving.register_keras_serializable(package="keras_transformer")
class Perplexity(TokenMetric):
    """exp of the mean negative log-likelihood (in nats) of a real token, without label smoothing: from 1 to infinity.

    Args:
        pad_id: the label that marks positions that do not count.
        name: the metric's name in logs.

    Call arguments:
        y_true: (B, T) integer labels.
        y_pred: (B, T, V) logits.
        sample_weight: (B, T) weights of tokens, (B,) or (B, 1) of rows, or None.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> metric = kt.Perplexity()
    >>> metric.update_state(np.array([[1, 2, 0]]), np.zeros((1, 3, 4), "float32"))
    >>> round(float(metric.result()), 4)
    4.0
    """

    _statistic = "negative_log_likelihood"

    def __init__(self, pad_id: int = 0, name: str = "perplexity", **kwargs):
        super().__init__(pad_id=pad_id, name=name, **kwargs)

    def result(self):
        return ops.exp(super().result())


@keras.saving.register_keras_serializable(package="keras_transformer")
class TokenLoss(TokenMetric):
    """Mean smoothed loss of a real token, as Transformer reports it under the name "loss"."""

    _statistic = "loss"

    def update_state(self, values, sample_weight=None) -> None:
        """Counts losses that are known, as keras.metrics.Mean does: for a ``train_step`` of one's own."""
        values = ops.convert_to_tensor(values, dtype="float32")
        weights = ops.ones_like(values) if sample_weight is None else ops.cast(sample_weight, "float32")
        weights = ops.broadcast_to(weights, ops.shape(values))
        self.total.assign_add(ops.sum(values * weights))
        self.tokens.assign_add(ops.sum(weights))
