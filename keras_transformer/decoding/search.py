"""Greedy and beam search over the cached decoder: the step after training, the step before text.

Both run one loop inside the backend's compiler (no Python per token on TensorFlow and JAX) and give the same kind of
result. Sutskever et al. 2014 (beam search), Wu et al. 2016, section 7 (length penalty).
"""

import numbers

import numpy as np
from keras import ops

from keras_transformer.backend import compiled, top_k
from keras_transformer.layers.masking import padding_mask

IMPOSSIBLE = -1e9  # the score of what must not be chosen: finite, so that no difference of two of them is NaN


class _Search:
    """The arguments, the compiled function, and the checks around it."""

    def __init__(self, model, length_penalty=0.0, max_length=None):
        if max_length is not None and not (isinstance(max_length, numbers.Integral) and max_length >= 1):
            raise ValueError(f"max_length must be a whole number of tokens from 1, or None. Received: {max_length!r}.")
        if length_penalty < 0:
            raise ValueError(f"length_penalty must not be negative. Received: length_penalty={length_penalty}.")
        self.model = model
        self.length_penalty = length_penalty
        self.max_length = max_length
        self._compiled = compiled(self.search, model)

    def __call__(self, source):
        """Searches and checks; see the class for the result.

        Args:
            source: (B, S) integer ids, each row ended by eos and filled up with pad.

        Returns:
            NumPy ids (B, W, L) int32 and scores (B, W) float32, best first.

        Raises:
            ValueError: the model's logits are not finite.
        """
        ids, scores = self._compiled(ops.convert_to_tensor(np.asarray(source), dtype="int32"))
        scores = ops.convert_to_numpy(scores)
        if np.isnan(scores).any():
            rows = np.flatnonzero(np.isnan(scores).any(axis=1)).tolist()
            raise ValueError(
                f"The model's logits are not finite for source rows {rows[:10]}: its weights hold NaN or overflow. "
                "Load the last good checkpoint, or decode under a float32 policy."
            )
        return ops.convert_to_numpy(ids), scores

    def _limits(self, source):
        """How many tokens each sentence may get, (B,), and the most of all, L.

        Twice the source and ten more holds nearly every translation; a sentence's limit depends on itself alone, so
        that padding and neighbours do not change its translation.
        """
        lengths = ops.sum(ops.cast(ops.not_equal(source, self.model.pad_id), "int32"), axis=1)
        limits = 2 * lengths + 10
        longest = 2 * ops.shape(source)[1] + 10
        if self.max_length is not None:
            limits = ops.minimum(limits, self.max_length)
            longest = self.max_length
        return limits, longest

    def _log_probabilities(self, tokens, cache, step, source_mask):
        """log p of the next token, (N, V), never pad or bos; and the new cache."""
        logits, cache = self.model.decode_step(tokens, cache, step, source_mask)
        log_probabilities = ops.log_softmax(logits, axis=-1)
        entries = ops.arange(self.model.vocabulary_size, dtype="int32")
        banned = ops.logical_or(entries == self.model.pad_id, entries == self.model.bos_id)  # (V,)
        return ops.where(banned, IMPOSSIBLE, log_probabilities), cache

    def _penalty(self, lengths):
        """((5 + length) / 6) ** length_penalty, by which a summed log-probability is divided."""
        return ((5.0 + ops.cast(lengths, "float32")) / 6.0) ** self.length_penalty


class GreedySearch(_Search):
    """The most probable token at each step.

    Args:
        model: a Transformer.
        length_penalty: exponent of the score's length normalisation; it does not change which ids are found.
        max_length: most tokens a translation may have; None for twice the source's and ten more.

    Call arguments:
        source: (B, S) integer ids.

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

    beam_size = 1

    def search(self, source):
        """The search as a function of tensors, for compilation and export."""
        model = self.model
        limits, longest = self._limits(source)
        source_mask = padding_mask(source, model.pad_id)
        cache = model.init_cache(model.encode(source, source_mask), 1, longest)
        batch = ops.shape(source)[0]
        columns = ops.arange(longest, dtype="int32")

        def unfinished(step, ids, tokens, scores, lengths, finished, cache):
            return ops.logical_and(step < longest, ops.logical_not(ops.all(finished)))

        def extend(step, ids, tokens, scores, lengths, finished, cache):
            log_probabilities, cache = self._log_probabilities(tokens, cache, step, source_mask)
            best = ops.max(log_probabilities, axis=-1)  # (B,)
            tokens = ops.cast(ops.argmax(log_probabilities, axis=-1), "int32")
            tokens = ops.where(finished, model.pad_id, tokens)
            ids = ops.where(columns[None] == step, tokens[:, None], ids)  # (B, L)
            scores = scores + ops.where(finished, 0.0, best)
            lengths = ops.where(finished, lengths, step + 1)
            finished = ops.logical_or(finished, tokens == model.eos_id)
            finished = ops.logical_or(finished, step + 1 >= limits)
            return step + 1, ids, tokens, scores, lengths, finished, cache

        start = (
            ops.zeros((), dtype="int32"),
            ops.full((batch, longest), model.pad_id, dtype="int32"),
            ops.full((batch,), model.bos_id, dtype="int32"),
            ops.zeros((batch,), dtype="float32"),
            ops.zeros((batch,), dtype="int32"),
            ops.zeros((batch,), dtype="bool"),
            cache,
        )
        _, ids, _, scores, lengths, _, _ = ops.while_loop(unfinished, extend, start)
        return ids[:, None], (scores / self._penalty(lengths))[:, None]


class BeamSearch(_Search):
    """The best of the translations found by extending W hypotheses at a time.

    At each step the 2 W best extensions of a sentence's hypotheses are ranked by log-probability (ties by token, then
    by hypothesis). Those among the first W that end are finished and frozen; the best W that do not end go on. A
    sentence is done when W hypotheses have finished or its limit is reached. Beam size 1 is greedy search.

    Args:
        model: a Transformer.
        beam_size: W.
        length_penalty: finished hypotheses are ranked by log-probability / ((5 + length) / 6) ** length_penalty, Wu et
            al.'s alpha; 0 ranks by log-probability.
        max_length: most tokens a translation may have; None for twice the source's and ten more.

    Call arguments:
        source: (B, S) integer ids.

    Returns:
        ids (B, W, L) int32, best first, ended by eos where it came before the limit and filled up with pad; scores
        (B, W) float32 as ranked.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> ids, scores = kt.decoding.BeamSearch(model, beam_size=3, max_length=4)(np.array([[5, 6, 3]]))
    >>> ids.shape, scores.shape
    ((1, 3, 4), (1, 3))

    Reference: Wu et al. 2016, section 7, equation 14.
    """

    def __init__(self, model, beam_size=4, length_penalty=0.6, max_length=None):
        super().__init__(model, length_penalty, max_length)
        if not isinstance(beam_size, numbers.Integral) or beam_size < 1:
            raise ValueError(f"beam_size must be an integer from 1. Received: beam_size={beam_size!r}.")
        self.beam_size = beam_size

    def search(self, source):
        """The search as a function of tensors, for compilation and export."""
        model, width = self.model, self.beam_size
        limits, longest = self._limits(source)
        source_mask = padding_mask(source, model.pad_id)
        cache = model.init_cache(model.encode(source, source_mask), width, longest)
        batch = ops.shape(source)[0]
        columns = ops.arange(longest, dtype="int32")

        def unfinished(step, alive, finished, done, broken, cache):
            return ops.logical_and(step < longest, ops.logical_not(ops.all(done)))

        def extend(step, alive, finished, done, broken, cache):
            tokens = ops.where(step == 0, model.bos_id, _column(alive["ids"], step - 1))  # (B, W)
            log_probabilities, cache = self._log_probabilities(ops.reshape(tokens, (-1,)), cache, step, source_mask)
            totals = ops.reshape(log_probabilities, (batch, width, model.vocabulary_size))
            totals = totals + alive["scores"][:, :, None]  # (B, W, V)
            # One logit that is NaN or infinite makes all log-probabilities of its row NaN: one entry tells. Kept apart,
            # because backends sort NaN differently.
            not_finite = ops.any(ops.isnan(totals[:, :, model.eos_id]), axis=1)
            broken = ops.logical_or(broken, ops.logical_and(not_finite, ops.logical_not(done)))
            scores, tokens, parents = _best_extensions(totals, 2 * width)  # each (B, 2 W)
            ids = ops.take_along_axis(alive["ids"], parents[:, :, None], axis=1)  # (B, 2 W, L)
            ids = ops.where(columns == step, tokens[:, :, None], ids)

            ends = ops.logical_or(tokens == model.eos_id, step + 1 >= limits[:, None])
            ranks = ops.arange(ops.shape(ends)[1], dtype="int32")
            finishes = ops.logical_and(ends, ranks < width)
            finishes = ops.logical_and(finishes, ops.logical_not(done)[:, None])
            finishes = ops.logical_and(finishes, scores > IMPOSSIBLE / 2)
            ended = {"ids": ids, "scores": ops.where(finishes, scores / self._penalty(step + 1), IMPOSSIBLE)}
            both = {name: ops.concatenate([finished[name], ended[name]], axis=1) for name in finished}
            finished, _ = _best(both, width)

            going_on = {"ids": ids, "scores": ops.where(ends, IMPOSSIBLE, scores)}
            alive, chosen = _best(going_on, width)
            parents = ops.take_along_axis(parents, chosen, axis=1)  # (B, W)
            rows = parents + width * ops.arange(batch, dtype="int32")[:, None]
            cache = _reorder(cache, ops.reshape(rows, (-1,)))

            full = ops.all(finished["scores"] > IMPOSSIBLE / 2, axis=1)
            done = ops.logical_or(ops.logical_or(done, broken), ops.logical_or(full, step + 1 >= limits))
            return step + 1, alive, finished, done, broken, cache

        nothing = ops.full((batch, width, longest), model.pad_id, dtype="int32")
        one_alive = ops.where(ops.arange(width) == 0, 0.0, IMPOSSIBLE)  # equal hypotheses would only repeat each other
        start = (
            ops.zeros((), dtype="int32"),
            {"ids": nothing, "scores": ops.zeros((batch, width), dtype="float32") + one_alive},
            {"ids": nothing, "scores": ops.full((batch, width), IMPOSSIBLE, dtype="float32")},
            ops.zeros((batch,), dtype="bool"),
            ops.zeros((batch,), dtype="bool"),
            cache,
        )
        _, _, finished, _, broken, _ = ops.while_loop(unfinished, extend, start)
        return finished["ids"], ops.where(broken[:, None], float("nan"), finished["scores"])


def _column(ids, index):
    """Column ``index`` of ids (B, W, L): (B, W). A negative index reads column 0, which the caller discards."""
    return ops.take(ids, ops.maximum(index, 0), axis=2)


def _best_extensions(totals, count):
    """The ``count`` best of totals (B, W, V) by score, token, hypothesis: scores, tokens, hypotheses, each (B, count).

    First the best of each hypothesis (ties by token), then the best of those, laid out so that the position in memory
    breaks ties by token before hypothesis.
    """
    batch, width, vocabulary_size = ops.shape(totals)[0], totals.shape[1], totals.shape[2]
    each = min(count, vocabulary_size)
    scores, tokens = top_k(totals, each)  # (B, W, each)
    hypotheses = ops.broadcast_to(ops.arange(width, dtype="int32")[None, :, None], (batch, width, each))
    scores, tokens, hypotheses = (
        ops.reshape(x, (batch, width * each)) for x in (scores, ops.cast(tokens, "int32"), hypotheses)
    )
    order = ops.argsort(tokens * width + hypotheses, axis=1)
    scores, tokens, hypotheses = (ops.take_along_axis(x, order, axis=1) for x in (scores, tokens, hypotheses))
    scores, order = top_k(scores, min(count, width * each))
    return scores, ops.take_along_axis(tokens, order, axis=1), ops.take_along_axis(hypotheses, order, axis=1)


def _best(hypotheses, width):
    """The ``width`` best of {"ids": (B, N, L), "scores": (B, N)}, and which they were, (B, W)."""
    scores, chosen = top_k(hypotheses["scores"], width)
    ids = ops.take_along_axis(hypotheses["ids"], chosen[:, :, None], axis=1)
    return {"ids": ids, "scores": scores}, chosen


def _reorder(cache, rows):
    """Lets each hypothesis take its parent's keys and values; the encoder's do not move."""
    return [
        {**layer, "self": {name: ops.take(x, rows, axis=0) for name, x in layer["self"].items()}} for layer in cache
    ]
