"""Learning-rate schedules, named as keras.optimizers.schedules names them."""

from typing import Self

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_transformer")
class WarmupInverseSqrt(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warmup, then decay with the inverse square root of the step.

    scale * d_model^-0.5 * min(n^-0.5, n * warmup_steps^-1.5) with n = step + 1, so that the first update (step 0 for Keras) already
    moves. The peak, at n = warmup_steps, is scale * (d_model * warmup_steps)^-0.5.

    Args:
        d_model: D of the model.
        warmup_steps: updates until the peak.
        scale: factor on the paper's formula.

    Call arguments:
        step: updates done so far, from 0.

    Returns:
        The rate, a float32 scalar.

    Raises:
        ValueError: an argument is not positive.

    Example:

    >>> import keras_transformer as kt
    >>> float(kt.WarmupInverseSqrt(d_model=4, warmup_steps=4)(3))
    0.25

    Reference: Vaswani et al. 2017, equation 3.
    """

    def __init__(self, d_model: int, warmup_steps: int = 4000, scale: float = 1.0):
        for name, value in (("d_model", d_model), ("warmup_steps", warmup_steps), ("scale", scale)):
            if not value > 0:
                raise ValueError(f"{name} must be positive. Received: {name}={value!r}.")
        self.d_model = d_model
        self.warmup_steps = warmup_steps
        self.scale = scale

    @classmethod
    def from_peak(cls, peak: float, d_model: int, warmup_steps: int = 4000) -> Self:
        """The schedule whose highest rate is ``peak``.

        Example:

        >>> import keras_transformer as kt
        >>> round(kt.WarmupInverseSqrt.from_peak(5e-3, d_model=128, warmup_steps=2000).peak, 6)
        0.005
        """
        return cls(d_model, warmup_steps, peak * (d_model * warmup_steps) ** 0.5)

    @property
    def peak(self) -> float:
        """The highest rate, reached at update ``warmup_steps``."""
        return self.scale * (self.d_model * self.warmup_steps) ** -0.5

    def __call__(self, step):
        n = ops.cast(step, "float32") + 1.0
        return self.scale * self.d_model**-0.5 * ops.minimum(ops.rsqrt(n), n * self.warmup_steps**-1.5)

    def get_config(self) -> dict:
        return {"d_model": self.d_model, "warmup_steps": self.warmup_steps, "scale": self.scale}
