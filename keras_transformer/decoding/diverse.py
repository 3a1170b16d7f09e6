"""Diverse beam search: groups of hypotheses that are kept from saying the same.

Beside search.py, whose beam each group is. Vijayakumar et al. 2018, algorithm 1 with Hamming diversity.
"""

from keras import ops

from keras_transformer.backend import top_k
from keras_transformer.decoding.errors import check_integer, check_number
from keras_transformer.decoding.rules import IMPOSSIBLE
from keras_transformer.decoding.search import BeamSearch, best_extensions, children


class DiverseBeamSearch(BeamSearch):
    """Beam search in G groups of W / G hypotheses each, one after the other at each step.

    To a group, a token costs ``diversity`` for each time that the groups before it have taken it at the same step, which counts
    when extensions are chosen and not in the scores. A group takes its W / G best extensions, those that end among them; one
    that is done takes none. Otherwise a group is a beam search of its own, which is done when W / G of its hypotheses have
    finished or its limit is reached. What all groups have finished is ranked together, equal translations once.

    Args:
        model: a Transformer.
        beam_size: W, of all groups together.
        groups: G, a divisor of W.
        diversity: what a repeated token costs, in log-probability; the paper's lambda; at 0 all groups find the same.
        length_penalty, max_length, normalization, rules: as BeamSearch.
        n_best: how many translations a sentence gets, N; None for W.

    Call arguments:
        source: (B, S) integer ids.
        prefix: (B, P) ids that the translations begin with, filled up with pad; None for none. Forced tokens cost nothing.

    Returns:
        ids (B, N, L) int32 and scores (B, N) float32 as BeamSearch. No two translations of a sentence are equal: what several
        groups found comes once, so that fewer than N may be found.

    Raises:
        ValueError: an argument is impossible.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> search = kt.decoding.DiverseBeamSearch(model, beam_size=4, groups=2, diversity=0.5, max_length=4)
    >>> ids, scores = search(np.array([[5, 6, 3]]))
    >>> ids.shape, scores.shape
    ((1, 4, 4), (1, 4))

    Reference: Vijayakumar et al. 2018, https://arxiv.org/abs/1610.02424
    """

    def __init__(
        self,
        model,
        beam_size=4,
        groups=2,
        diversity=0.5,
        length_penalty=0.6,
        max_length=None,
        n_best=None,
        normalization="gnmt",
        rules=None,
    ):
        check_integer("groups", groups, 1)
        check_number("diversity", diversity, 0)
        super().__init__(model, beam_size, length_penalty, max_length, n_best, normalization, rules)
        if beam_size % groups:
            raise ValueError(f"groups must be a divisor of beam_size={beam_size}. Received: groups={groups}.")
        self.groups = groups
        self.diversity = diversity

    # A group is a row of the state, as a sentence is elsewhere: (B G, ...) for (B, ...), and W / G for W.

    def _start(self, inputs, room):
        return super()._start({name: ops.repeat(x, self.groups, axis=0) for name, x in inputs.items()}, room)

    def _take(self, state, rows):
        groups = ops.arange(self.groups, dtype="int32")
        return super()._take(state, ops.reshape(rows[:, None] * self.groups + groups, (-1,)))

    def _done_sentences(self, state):
        return ops.all(ops.reshape(state["done"], (-1, self.groups)), axis=1)

    def _done(self, state):
        full = state["finished_scores"][:, -1] > IMPOSSIBLE / 2
        done = ops.logical_or(ops.logical_or(state["done"], state["broken"]), full)
        return ops.logical_or(done, state["step"] >= state["limits"])

    def _candidates(self, allowed, state):
        width = self._width
        allowed = ops.reshape(allowed, (-1, self.groups, width, self.model.vocabulary_size))
        scores = ops.reshape(state["scores"], (-1, self.groups, width))
        done = ops.reshape(state["done"], (-1, self.groups))
        entries = ops.arange(self.model.vocabulary_size, dtype="int32")
        taken, found = ops.zeros_like(allowed[:, 0, 0]), []  # taken (B, V): how often at this step
        for group in range(self.groups):
            possible = allowed[:, group] > IMPOSSIBLE / 2
            costing = ops.where(possible, allowed[:, group] - self.diversity * taken[:, None], IMPOSSIBLE)
            ranked, tokens, parents = best_extensions(costing, scores[:, group], 2 * width)  # (B, 2 W / G)
            flat = ops.reshape(allowed[:, group] + scores[:, group, :, None], (-1, width * entries.shape[0]))
            # The cost decides which are chosen; their scores are without it.
            free = ops.take_along_axis(flat, parents * entries.shape[0] + tokens, axis=1)
            found.append((free, tokens, parents))
            takes = ops.logical_and(ranked[:, :width] > IMPOSSIBLE / 2, ops.logical_not(done[:, group, None]))
            once = ops.logical_and(tokens[:, :width, None] == entries, takes[:, :, None])  # (B, W / G, V)
            taken = taken + ops.sum(ops.cast(once, "float32"), axis=1)
        scores, tokens, parents = (
            ops.reshape(ops.stack(x, axis=1), (-1, x[0].shape[-1])) for x in zip(*found, strict=True)
        )
        ends = self._ends(tokens, state)
        first = ops.arange(ops.shape(ends)[1], dtype="int32") < width
        others = ops.logical_not(ends)
        goes_on = ops.logical_and(others, ops.cumsum(ops.cast(others, "int32"), axis=1) <= width)
        return scores, tokens, parents, ops.logical_and(ends, first), goes_on

    def _result(self, state):
        broken = ops.any(ops.reshape(state["broken"], (-1, self.groups)), axis=1)
        scores = ops.reshape(state["finished_scores"], (-1, self.beam_size))
        ids = ops.reshape(state["finished_ids"], (-1, self.beam_size, ops.shape(state["finished_ids"])[2]))
        scores, order = top_k(scores, self.beam_size)
        ids = children(ids, order)
        places = ops.arange(self.beam_size, dtype="int32")
        alike = ops.all(ids[:, :, None] == ids[:, None], axis=3)  # (B, W, W)
        again = ops.any(ops.logical_and(alike, places < places[:, None]), axis=2)  # a better group has it
        ids = ops.where(again[:, :, None], self.model.pad_id, ids)
        scores, order = top_k(ops.where(again, IMPOSSIBLE, scores), self.n_best)
        ids = children(ids, order)
        return ids, ops.where(broken[:, None], float("nan"), scores)
