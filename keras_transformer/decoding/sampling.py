"""Sampling: translations drawn from the model's distribution, or from its likely part.

Beside search.py, on the same loop. The random numbers come from the host, one for each token, so that a seed draws the same
translations on every backend, in batches of any size and order. Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p), Nguyen et
al. 2024 (min-p).
"""

import numbers

import numpy as np
from keras import ops

from keras_transformer.backend import top_k
from keras_transformer.decoding.errors import check_integer
from keras_transformer.decoding.loop import Search


class Sampling(Search):
    """Draws translations token by token.

    Log-probabilities are divided by the temperature; then come top_k, top_p and min_p, in this order, and the draw among what
    they leave. A draw takes the first token at which the summed probabilities exceed a uniform random number.

    Args:
        model: a Transformer.
        samples: how many translations of each source, W.
        temperature: below 1 sharpens the distribution, above 1 flattens it.
        top_k: the most probable tokens that are drawn from; 0 for all.
        top_p: of these, the fewest whose probabilities sum to this; 1 for all.
        min_p: of these, those with at least this share of the most probable one's probability; 0 for all.
        seed: of the random numbers; equal seeds give equal draws.
        max_length: most tokens a translation may have, a further bound beside ``rules.length_ratio``; None for that alone.
        rules: a Rules, what may be produced; None for Rules().

    Call arguments:
        source: (B, S) integer ids.
        prefix: (B, P) ids that the translations begin with, filled up with pad; None for none.
        keys: (B,) integers from 0; a sentence of the same key gets the same random numbers. None for the places in the batch.

    Returns:
        ids (B, W, L) int32 in the order drawn, ended by eos where it came before the limit and filled up with pad; scores (B, W)
        float32, the model's log-probability.

    Raises:
        ValueError: a number is out of its range.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> ids, scores = kt.decoding.Sampling(model, samples=5, top_p=0.9, max_length=4)(np.array([[5, 6, 3]]))
    >>> ids.shape, scores.shape
    ((1, 5, 4), (1, 5))

    Reference: Holtzman et al. 2020, section 3.
    """

    def __init__(
        self, model, samples=1, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=0, max_length=None, rules=None
    ):
        super().__init__(model, max_length, rules)
        check_integer("samples", samples, 1)
        check_integer("top_k", top_k, 0)
        check_integer("seed", seed, 0)
        for name, value, low, high in (
            ("temperature", temperature, 1e-3, 1e3),
            ("top_p", top_p, 1e-6, 1.0),
            ("min_p", min_p, 0.0, 1.0),
        ):
            if not isinstance(value, numbers.Real) or not low <= value <= high:
                raise ValueError(f"{name} must be a number from {low:g} to {high:g}. Received: {name}={value!r}.")
        self.beam_size = self.samples = samples
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p
        self.min_p = min_p
        self.seed = seed

    def _inputs(self, source, keys):
        """Uniform numbers for each token, (B, W, L): Philox counts from the sentence's key.

        They are drawn token by token, all samples of one before the next: L depends on the batch's padding.
        """
        keys = np.asarray(keys)
        if keys.shape != (len(source),) or (keys.size and (keys.dtype.kind not in "iu" or keys.min() < 0)):
            raise ValueError(f"keys must be {len(source)} integers from 0, one a row. Received: {keys.tolist()}.")
        shape = (self._longest(source.shape[1]), self.samples)
        draws = [
            np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, int(key)])).random(shape, "float32").T
            for key in keys
        ]
        return {"uniforms": np.array(draws, dtype="float32").reshape(-1, *shape[::-1])}

    def _begin(self, state):
        return state | {"ended": ops.zeros_like(state["ids"][:, :, 0], dtype="bool")}

    def _extend(self, state):
        step, ended = state["step"], state["ended"]
        allowed, moved = self._log_probabilities(state)
        tokens = self._drawn(allowed, ops.take(state["uniforms"], step, axis=2))  # (B, W)
        gained = ops.take_along_axis(allowed, tokens[:, :, None], axis=2)[:, :, 0]
        tokens = ops.where(ended, self.model.pad_id, tokens)
        columns = ops.arange(ops.shape(state["ids"])[2], dtype="int32")
        ends = ops.logical_or(tokens == self.model.eos_id, step + 1 >= state["limits"][:, None])
        ended_now = ops.logical_or(ended, ends)
        return moved | {
            "step": step + 1,
            "ids": ops.where(columns == step, tokens[:, :, None], state["ids"]),
            "scores": state["scores"] + ops.where(ended, 0.0, gained),
            "ended": ended_now,
            "done": ops.logical_or(ops.all(ended_now, axis=1), moved["broken"]),
        }

    def _drawn(self, allowed, uniforms):
        """The token that each of uniforms (B, W) draws from log-probabilities (B, W, V)."""
        values, tokens = allowed / self.temperature, None
        vocabulary_size = allowed.shape[-1]
        if self.top_k or self.top_p < 1:
            values, tokens = top_k(values, min(self.top_k or vocabulary_size, vocabulary_size))  # sorted, (B, W, k)
        probabilities = ops.softmax(values, axis=-1) if values.shape[-1] > 1 else ops.ones_like(values)
        if self.top_p < 1:
            before = ops.cumsum(probabilities, axis=-1) - probabilities
            probabilities = ops.where(before < self.top_p, probabilities, 0.0)
        if self.min_p:
            least = self.min_p * ops.max(probabilities, axis=-1, keepdims=True)
            probabilities = ops.where(probabilities >= least, probabilities, 0.0)
        summed = ops.cumsum(probabilities, axis=-1)
        # Just below 1: by rounding, a number near 1 could otherwise draw nothing.
        threshold = ops.minimum(uniforms, 1 - 1e-6)[:, :, None] * summed[:, :, -1:]
        place = ops.sum(ops.cast(summed <= threshold, "int32"), axis=-1)  # (B, W)
        place = ops.minimum(place, values.shape[-1] - 1)  # with NaN among the logits, which the loop tells later
        if tokens is None:
            return place
        return ops.cast(ops.take_along_axis(tokens, place[:, :, None], axis=2)[:, :, 0], "int32")

    def _result(self, state):
        return state["ids"], ops.where(state["broken"][:, None], float("nan"), state["scores"])
