"""Greedy and beam search over the cached decoder: the step after training, the step before text.

Sutskever et al. 2014 (beam search), Wu et al. 2016, section 7 (length and coverage penalty). The loop is loop.py's, what is
forbidden rules.py's.
"""

from keras import ops

from keras_transformer.backend import max_and_argmax, top_k
from keras_transformer.decoding.errors import check_integer, check_number
from keras_transformer.decoding.loop import Search
from keras_transformer.decoding.rules import IMPOSSIBLE


class _Ranked(Search):
    """A search whose results are ranked by log-probability, normalised for length and coverage."""

    def __init__(self, model, length_penalty, max_length, normalization, rules):
        super().__init__(model, max_length, rules)
        check_number("length_penalty", length_penalty, 0)
        if normalization not in ("gnmt", "average"):
            raise ValueError(f'normalization must be "gnmt" or "average". Received: {normalization!r}.')
        self.length_penalty = length_penalty
        self.normalization = normalization

    def length_divisor(self, lengths):
        """What a summed log-probability is divided by; grows with the length."""
        lengths = ops.cast(lengths, "float32")
        return ((5.0 + lengths) / 6.0 if self.normalization == "gnmt" else lengths) ** self.length_penalty

    def _ranked(self, scores, lengths, state):
        """The scores (B, W) by which hypotheses of ``lengths`` tokens are ranked."""
        scores = scores / self.length_divisor(lengths)
        return scores + self.rules.coverage(state["attended"], state["source_mask"]) if "attended" in state else scores


class GreedySearch(_Ranked):
    """The most probable token at each step.

    Args:
        model: a Transformer.
        length_penalty: exponent of the score's length normalisation; it does not change which ids are found.
        max_length: most tokens a translation may have, a further bound beside ``rules.length_ratio``; None for that alone.
        normalization: "gnmt" or "average"; see BeamSearch.
        rules: a Rules, what may be produced; None for Rules().

    Call arguments:
        source: (B, S) integer ids.
        prefix: (B, P) ids that the translations begin with, filled up with pad; None for none.

    Returns:
        ids (B, 1, L) int32, ended by eos where it came before the limit and filled up with pad; scores (B, 1) float32,
        log-probability divided by ((5 + length) / 6) ** length_penalty.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> ids, scores = kt.decoding.GreedySearch(model, max_length=4)(np.array([[5, 6, 3]]))
    >>> ids.shape, scores.shape
    ((1, 1, 4), (1, 1))
    """

    def __init__(self, model, length_penalty=0.0, max_length=None, normalization="gnmt", rules=None):
        super().__init__(model, length_penalty, max_length, normalization, rules)

    def _begin(self, state):
        return state | {"lengths": ops.zeros_like(state["limits"])}

    def _extend(self, state):
        step, done = state["step"], state["done"]
        allowed, moved = self._log_probabilities(state)
        best, tokens = max_and_argmax(allowed[:, 0])  # (B,)
        tokens = ops.where(done, self.model.pad_id, ops.cast(tokens, "int32"))
        columns = ops.arange(ops.shape(state["ids"])[2], dtype="int32")
        ends = ops.logical_or(tokens == self.model.eos_id, step + 1 >= state["limits"])
        moved |= {
            "step": step + 1,
            "ids": ops.where(columns == step, tokens[:, None, None], state["ids"]),
            "scores": state["scores"] + ops.where(done, 0.0, best)[:, None],
            "lengths": ops.where(done, state["lengths"], step + 1),
            "done": ops.logical_or(ops.logical_or(done, ends), moved["broken"]),
        }
        if "attended" in state:
            moved["attended"] = ops.where(done[:, None, None], state["attended"], moved["attended"])
        return moved

    def _result(self, state):
        scores = self._ranked(state["scores"], state["lengths"][:, None], state)
        return state["ids"], ops.where(state["broken"][:, None], float("nan"), scores)


class BeamSearch(_Ranked):
    """The best of the translations found by extending W hypotheses at a time.

    At each step the 2 W best extensions of a sentence's hypotheses are ranked by log-probability (ties by token, then
    by hypothesis). Those among the first W that end are finished and frozen; the best W that do not end go on. A
    sentence is done when W hypotheses have finished, when its limit is reached, or when nothing that goes on can come among the
    ``n_best``: not even if all its further tokens cost nothing and it took the whole limit. Beam size 1 is greedy search.

    Args:
        model: a Transformer.
        beam_size: W.
        length_penalty: finished hypotheses are ranked by log-probability / ((5 + length) / 6) ** length_penalty, Wu et
            al.'s alpha; 0 ranks by log-probability.
        max_length: most tokens a translation may have, a further bound beside ``rules.length_ratio``; None for that alone.
        n_best: how many translations a sentence gets, N; None for W. Fewer end sooner.
        normalization: "gnmt" as above; "average" for log-probability / length ** length_penalty, at 1 the mean of the tokens'.
        rules: a Rules, what may be produced; None for Rules().

    Call arguments:
        source: (B, S) integer ids.
        prefix: (B, P) ids that the translations begin with, filled up with pad; None for none.

    Returns:
        ids (B, N, L) int32, best first, ended by eos where it came before the limit and filled up with pad; scores
        (B, N) float32 as ranked. Where fewer than N translations were found, the others are all pad with a score of -1e9.

    Raises:
        ValueError: an argument is impossible, or W is larger than the vocabulary.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> ids, scores = kt.decoding.BeamSearch(model, beam_size=3, max_length=4)(np.array([[5, 6, 3]]))
    >>> ids.shape, scores.shape
    ((1, 3, 4), (1, 3))

    Reference: Wu et al. 2016, section 7, equation 14.
    """

    _ids = ("ids", "finished_ids")

    def __init__(
        self, model, beam_size=4, length_penalty=0.6, max_length=None, n_best=None, normalization="gnmt", rules=None
    ):
        super().__init__(model, length_penalty, max_length, normalization, rules)
        check_integer("beam_size", beam_size, 1)
        if beam_size > model.vocabulary_size:
            raise ValueError(
                f"beam_size must not be larger than the vocabulary of {model.vocabulary_size}. Received: beam_size={beam_size}."
            )
        n_best = beam_size if n_best is None else n_best
        check_integer("n_best", n_best, 1)
        if n_best > beam_size:
            raise ValueError(f"n_best must not be larger than beam_size={beam_size}. Received: n_best={n_best}.")
        self.beam_size = beam_size
        self.n_best = n_best

    def _begin(self, state):
        # All W hypotheses are still equal, and would be extended alike: only the first may be.
        only_one = ops.where(ops.arange(self._width) == 0, 0.0, IMPOSSIBLE)
        return state | {
            "scores": state["scores"] + only_one,
            "finished_ids": state["ids"],
            "finished_scores": ops.full_like(state["scores"], IMPOSSIBLE),
        }

    def _extend(self, state):
        width, step, done = self._width, state["step"], state["done"]
        allowed, moved = self._log_probabilities(state)
        scores, tokens, parents, finishes, goes_on = self._candidates(allowed, state)  # each (B, N)

        # 1. those that end are ranked among the finished
        finishes = ops.logical_and(finishes, ops.logical_not(done)[:, None])
        finishes = ops.logical_and(finishes, scores > IMPOSSIBLE / 2)
        of_parents = {"attended": children(moved["attended"], parents)} if "attended" in moved else {}
        ranked = self._ranked(scores, step + 1, state | of_parents)
        ranked = ops.concatenate([state["finished_scores"], ops.where(finishes, ranked, IMPOSSIBLE)], axis=1)
        finished_scores, chosen = top_k(ranked, width)  # (B, W) of (B, W + N)
        written = _written(state["ids"], parents, tokens, step)  # (B, N, L)
        finished_ids = children(ops.concatenate([state["finished_ids"], written], axis=1), chosen)

        # 2. the best of the others go on
        scores, chosen = top_k(ops.where(goes_on, scores, IMPOSSIBLE), width)
        parents = ops.take_along_axis(parents, chosen, axis=1)  # (B, W)
        moved |= {
            "step": step + 1,
            "ids": children(written, chosen),
            "scores": scores,
            "finished_ids": finished_ids,
            "finished_scores": finished_scores,
            "cache": self.model.reorder_cache(moved["cache"], parents),
        }
        if "attended" in moved:
            moved["attended"] = children(moved["attended"], parents)
        return moved | {"done": self._done(moved)}

    def _candidates(self, allowed, state):
        """Extensions of the hypotheses, the best first, each (B, N): scores, tokens, hypotheses, and which of them finish if they
        are possible, and from which the W best go on."""
        scores, tokens, parents = best_extensions(allowed, state["scores"], 2 * self._width)
        ends = self._ends(tokens, state)
        first = ops.arange(ops.shape(ends)[1], dtype="int32") < self._width
        return scores, tokens, parents, ops.logical_and(ends, first), ops.logical_not(ends)

    def _ends(self, tokens, state):
        """Which extensions by tokens (B, N) end: by eos or at the limit."""
        return ops.logical_or(tokens == self.model.eos_id, state["step"] + 1 >= state["limits"][:, None])

    def _done(self, state):
        full = state["finished_scores"][:, -1] > IMPOSSIBLE / 2
        # A score only falls and its divisor only grows: nothing that goes on can come to more than this.
        bound = ops.max(state["scores"], axis=1) / self.length_divisor(state["limits"])
        beaten = bound <= state["finished_scores"][:, self.n_best - 1]
        done = ops.logical_or(ops.logical_or(state["done"], state["broken"]), ops.logical_or(full, beaten))
        return ops.logical_or(done, state["step"] >= state["limits"])

    def _result(self, state):
        scores = ops.where(state["broken"][:, None], float("nan"), state["finished_scores"])
        return state["finished_ids"][:, : self.n_best], scores[:, : self.n_best]


def best_extensions(log_probabilities, scores, count):
    """The ``count`` best extensions of W hypotheses by score, token, hypothesis.

    First the best of each hypothesis (ties by token), then the best of those, laid out so that the position in memory
    breaks ties by token before hypothesis.

    Args:
        log_probabilities: (B, W, V).
        scores: (B, W), what each hypothesis brings.
        count: how many, W V at most.

    Returns:
        Scores, tokens, hypotheses, each (B, count).
    """
    batch, width, vocabulary_size = ops.shape(scores)[0], scores.shape[1], log_probabilities.shape[2]
    each = min(count, vocabulary_size)
    best, tokens = top_k(log_probabilities, each)  # (B, W, each)
    totals = ops.reshape(best + scores[:, :, None], (batch, width * each))
    tokens = ops.reshape(ops.cast(tokens, "int32"), (batch, width * each))
    hypotheses = ops.repeat(ops.arange(width, dtype="int32"), each)[None]  # (1, W each)
    order = ops.argsort(tokens * width + hypotheses, axis=1)
    totals, tokens = ops.take_along_axis(totals, order, axis=1), ops.take_along_axis(tokens, order, axis=1)
    best, chosen = top_k(totals, min(count, width * each))
    return best, ops.take_along_axis(tokens, chosen, axis=1), ops.take_along_axis(order, chosen, axis=1) // each


def children(x, parents):
    """Entries ``parents`` (B, N) of the second axis of x (B, W, ...): (B, N, ...)."""
    return ops.take_along_axis(x, parents[:, :, None], axis=1)


def _written(ids, parents, tokens, step):
    """The hypotheses' ids (B, W, L) with ``tokens`` (B, N) put at ``step`` behind those of ``parents`` (B, N): (B, N, L)."""
    columns = ops.arange(ops.shape(ids)[2], dtype="int32")
    return ops.where(columns == step, tokens[:, :, None], children(ids, parents))
