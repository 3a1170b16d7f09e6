"""Samplers of keras-nlp (keras-hub) in place of our searches. This module imports no keras-nlp: a sampler brings it along.

Beside search.py and sampling.py, on the same loop.
"""

import json

import keras
from keras import ops

from keras_transformer.decoding.loop import Search
from keras_transformer.decoding.search import BeamSearch
from keras_transformer.decoding.weights import Weights


class SamplerSearch(Search):
    """Translations whose tokens a sampler of keras-nlp chooses, one at a time from the probabilities of the next.

    Greedy, random, top-k and top-p samplers, and those of your own that override ``get_next_token``. Their seeds move on from
    call to call. They draw for the whole batch at once from Keras's generators, which differ between backends: for draws that
    depend on seed and sentence alone take decoding.Sampling.

    Args:
        model: a Transformer.
        sampler: a keras_nlp.samplers.Sampler.
        max_length: most tokens a translation may have, a further bound beside ``rules.length_ratio``; None for that alone.
        rules: a Rules, what may be produced; None for Rules().

    Call arguments:
        source: (B, S) integer ids.
        prefix: (B, P) ids that the translations begin with, filled up with pad; None for none.

    Returns:
        ids (B, 1, L) int32, ended by eos where it came before the limit and filled up with pad; scores (B, 1) float32, the model's
        log-probability, without the sampler's temperature.

    Raises:
        ValueError: the sampler works with more than probabilities; see sampler_search.

    Example:

    >>> import keras_nlp  # doctest: +SKIP
    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> sampler = keras_nlp.samplers.TopPSampler(p=0.9, seed=1)  # doctest: +SKIP
    >>> ids, scores = kt.decoding.SamplerSearch(model, sampler)(np.array([[5, 6, 3]]))  # doctest: +SKIP
    """

    _whole = ("step", "draws")

    def __init__(self, model, sampler, max_length=None, rules=None):
        _check_sampler(sampler)
        self.sampler = sampler
        super().__init__(model, max_length, rules)

    def _holder(self):
        return Weights(self.model, self.sampler)

    def _begin(self, state):
        draws = tuple(ops.convert_to_tensor(variable) for variable in self.sampler.variables)
        return state | ({"draws": draws} if draws else {})

    def _leave(self, state):
        for variable, value in zip(self.sampler.variables, state.get("draws", ()), strict=True):
            variable.assign(value)

    def _extend(self, state):
        step, done = state["step"], state["done"]
        allowed, moved = self._log_probabilities(state)
        # From a row of NaN no sampler can draw.
        sound = ops.where(moved["broken"][:, None], 0.0, allowed[:, 0])
        # The sampler's variables have the values of this step while it draws, and give back those of the next.
        mapping = list(zip(self.sampler.variables, state.get("draws", ()), strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            tokens = self.sampler.get_next_token(self.sampler.compute_probabilities(sound))
            draws = tuple(scope.get_current_value(variable) for variable, _ in mapping)
        tokens = ops.reshape(ops.cast(tokens, "int32"), ops.shape(done))  # (B,)
        gained = ops.take_along_axis(allowed[:, 0], tokens[:, None], axis=1)[:, 0]
        tokens = ops.where(done, self.model.pad_id, tokens)
        columns = ops.arange(ops.shape(state["ids"])[2], dtype="int32")
        ends = ops.logical_or(tokens == self.model.eos_id, step + 1 >= state["limits"])
        return (
            moved
            | ({"draws": draws} if draws else {})
            | {
                "step": step + 1,
                "ids": ops.where(columns == step, tokens[:, None, None], state["ids"]),
                "scores": state["scores"] + ops.where(done, 0.0, gained)[:, None],
                "done": ops.logical_or(ops.logical_or(done, ends), moved["broken"]),
            }
        )

    def _result(self, state):
        return state["ids"], ops.where(state["broken"][:, None], float("nan"), state["scores"])


def sampler_search(sampler, model, max_length=None, rules=None):
    """The search over ``model`` that does what a sampler of keras-nlp does.

    A BeamSampler becomes a BeamSearch with length_penalty=0: the same hypotheses, but what has finished is frozen, where keras-nlp
    lets it grow. Others become a SamplerSearch.

    Args:
        sampler: a keras_nlp.samplers.Sampler.
        model: a Transformer.
        max_length: most tokens a translation may have, a further bound beside ``rules.length_ratio``; None for that alone.
        rules: a Rules; None for Rules().

    Returns:
        BeamSearch or SamplerSearch.

    Raises:
        ValueError: it is no such sampler; it has a loop of its own (ContrastiveSampler reads hidden states, SpeculativeSampler
            drafts: see decoding.SpeculativeSearch); or it is a BeamSampler with a temperature.
    """
    if hasattr(sampler, "num_beams") and hasattr(sampler, "return_all_beams"):
        if sampler.temperature != 1:
            raise ValueError(
                f"A BeamSampler with a temperature has no counterpart here. Received: temperature={sampler.temperature}. "
                "Leave it at 1."
            )
        n_best = None if sampler.return_all_beams else 1
        return BeamSearch(model, sampler.num_beams, 0.0, max_length, n_best, rules=rules)
    return SamplerSearch(model, sampler, max_length, rules)


def is_sampler(candidate):
    """Whether it looks like a sampler of keras-nlp."""
    return hasattr(candidate, "get_next_token") and hasattr(candidate, "compute_probabilities")


def find_sampler(identifier):
    """The sampler that keras-nlp knows by an identifier: a name, as "top_p", or JSON of {"class_name": name, "config": {...}}.

    Raises:
        ValueError: keras-nlp is not installed, or knows none of that name.
    """
    try:
        import keras_nlp
    except ImportError:
        raise ValueError(
            "Samplers are keras-nlp's, which is not installed. Install it: pip install 'keras-transformer[nlp]'."
        ) from None
    try:
        found = keras_nlp.samplers.get(json.loads(identifier) if identifier.lstrip().startswith("{") else identifier)
        if not isinstance(found, keras_nlp.samplers.Sampler):
            raise ValueError(f"it gives a {type(found).__name__}")
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"keras-nlp has no such sampler. Received: {identifier!r} ({reason}). It has greedy, random, top_k, top_p and beam; "
            'arguments go as in {"class_name": "top_p", "config": {"p": 0.9, "seed": 1}}.'
        ) from None
    return found


def _check_sampler(sampler):
    if not is_sampler(sampler):
        raise ValueError(f"sampler must be one of keras-nlp. Received: {type(sampler).__name__}.")
    name = type(sampler).__name__
    if _home(sampler, "__call__") != "Sampler":
        raise ValueError(
            f"{name} has a loop of its own, and here the loop is ours. Received: a sampler that overrides __call__. Take one that "
            "overrides get_next_token alone; for drafts by a small model decoding.SpeculativeSearch(model, draft)."
        )
    if _home(sampler, "get_next_token") == "Sampler":
        raise ValueError(f"{name} does not say how a token is chosen: it must override get_next_token(probabilities).")


def _home(sampler, method):
    """The name of the class that defines a method."""
    return next(kind.__name__ for kind in type(sampler).__mro__ if method in vars(kind))
