"""Beam search under lexical constraints: phrases that a translation must have, and phrases that it must not have.

Beside search.py, whose beam it shares out anew at each step. Post and Vilar 2018 (dynamic beam allocation), for whole batches at
once as Hu et al. 2019 do it.
"""

import copy
import numbers

import numpy as np
from keras import ops

from keras_transformer.backend import max_and_argmax, top_k
from keras_transformer.decoding.errors import RowError, checked_source
from keras_transformer.decoding.rules import IMPOSSIBLE, marked
from keras_transformer.decoding.search import BeamSearch, best_extensions, children


class ConstrainedBeamSearch(BeamSearch):
    """Beam search whose translations have all phrases of a list, and none of another.

    Hypotheses are told apart by how many tokens of phrases they have: of those that are complete, and of the one that they are in
    the middle of. The W places of the beam are shared out evenly among these counts, what is left over goes to the highest;
    places that a count cannot fill go to the others, the highest first. Candidates are the 2 W best extensions, each hypothesis's
    best, and each hypothesis with the next token of every phrase it lacks. Only a hypothesis with all phrases may end. Phrases
    may overlap: what counts is that each occurs; a phrase given twice is one. Without phrases the search is BeamSearch.

    Args:
        model: a Transformer.
        beam_size: W; about the number of tokens in a sentence's phrases and one more, or more.
        length_penalty, max_length, n_best, normalization, rules: as BeamSearch. ``rules.banned`` is for all sentences alike.

    Call arguments:
        source: (B, S) integer ids.
        prefix: (B, P) ids that the translations begin with, filled up with pad; None for none.
        include: for each row of the source a list of phrases, ids or tuples of ids, which its translation must have; None for none.
        avoid: the same, of phrases that it must not have; forced tokens obey it too.

    Returns:
        ids (B, N, L) int32 and scores (B, N) float32 as BeamSearch.

    Raises:
        ValueError: an argument is impossible, the phrases of a row do not fit into its limit, or no translation was found that has
            them (they contradict ``avoid``, the rules or the prefix).

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> search = kt.decoding.ConstrainedBeamSearch(model, beam_size=4, max_length=6)
    >>> ids, scores = search(np.array([[5, 6, 3]]), include=[[(7, 8), 9]], avoid=[[10]])
    >>> {7, 8, 9} <= set(ids[0, 0].tolist())
    True

    Reference: Post and Vilar 2018, https://aclanthology.org/N18-1119; Hu et al. 2019, https://aclanthology.org/N19-1090
    """

    def __init__(
        self, model, beam_size=8, length_penalty=0.6, max_length=None, n_best=None, normalization="gnmt", rules=None
    ):
        super().__init__(model, beam_size, length_penalty, max_length, n_best, normalization, rules)
        self._of_shapes = {}

    def __call__(self, source, prefix=None, keys=None, include=None, avoid=None):
        source = checked_source(self.model, source)
        phrases = {"include": include, "avoid": avoid}
        phrases = {name: self._checked_phrases(name, x, len(source)) for name, x in phrases.items()}
        for row, (ids, needed) in enumerate(zip(source, phrases["include"], strict=True)):
            limit, count = self._limit(int((ids != self.model.pad_id).sum())), sum(map(len, set(needed)))
            if count > limit:
                raise RowError(
                    f"The phrases for {{}} have {count} tokens, and a translation may have {limit} there. Raise max_length or "
                    "length_ratio.",
                    [row],
                )
        inputs = {name: _array(x, self.model.pad_id) for name, x in phrases.items()}
        ids, scores = self._of_shape(*(x.shape[1:] for x in inputs.values()))._found(source, prefix, inputs)
        lost = np.flatnonzero(scores[:, 0] <= IMPOSSIBLE / 2)
        if lost.size:
            raise RowError(
                "No translation with all phrases was found for {}. They contradict the rules, the prefix or what is to be avoided, "
                "or there is too little room: raise max_length or beam_size.",
                lost.tolist(),
            )
        return ids, scores

    def _of_shape(self, *shape):
        """This search for phrases of one number and length: how many tokens there are to compare is fixed in what is compiled, but
        TensorFlow leaves open what varies."""
        if shape not in self._of_shapes:
            self._of_shapes[shape] = copy.copy(self)
            self._of_shapes[shape]._compile()
        return self._of_shapes[shape]

    def _checked_phrases(self, name, rows, count):
        """For each sentence a list of tuples of ids."""
        rows = [[]] * count if rows is None else list(rows)
        if len(rows) != count:
            raise ValueError(
                f"{name} must have a list of phrases for each of {count} rows. Received: {len(rows)} lists."
            )
        special = (self.model.pad_id, self.model.bos_id, self.model.eos_id)
        found = []
        for row in rows:
            phrases = [(phrase,) if isinstance(phrase, numbers.Integral) else tuple(phrase) for phrase in row]
            for phrase in phrases:
                sound = all(isinstance(x, numbers.Integral) and 0 <= x < self.model.vocabulary_size for x in phrase)
                if not phrase or not sound or set(phrase) & set(special):
                    raise ValueError(
                        f"{name} must hold ids below {self.model.vocabulary_size} and tuples of them, none empty, without pad, bos "
                        f"and eos. Received: {phrase!r}."
                    )
            found.append(list(dict.fromkeys(phrases)))
        return found

    def _candidates(self, allowed, state):
        include, eos_id = state["include"], self.model.eos_id
        ids, step = state["ids"], state["step"]
        lengths = ops.sum(ops.cast(include != self.model.pad_id, "int32"), axis=2)  # (B, C)
        met = _occurring(ids, step, include, lengths, self.model.pad_id)  # (B, W, C)
        last = _last(ids, step, include.shape[2] - 1)  # (B, W, P - 1)
        allowed = self._avoided(allowed, state)
        is_eos = ops.arange(self.model.vocabulary_size, dtype="int32") == eos_id
        unmet = ops.logical_not(ops.all(met, axis=2))
        allowed = ops.where(ops.logical_and(unmet[:, :, None], is_eos), IMPOSSIBLE, allowed)

        scores, tokens, parents = self._extensions(allowed, state["scores"], met, last, include)  # (B, N)

        met = children(met, parents)  # from here on of the extensions: (B, N, C)
        last = children(last, parents)
        begun = _begun(ops.concatenate([last, tokens[:, :, None]], axis=2), include)
        met = ops.logical_or(met, begun == lengths[:, None])
        ends, possible = self._ends(tokens, state), scores > IMPOSSIBLE / 2
        count = ops.sum(ops.where(met, lengths[:, None], 0), axis=2) + ops.max(ops.where(met, 0, begun), axis=2)
        finishes = ops.logical_and(ops.logical_and(ends, possible), ops.all(met, axis=2))
        alike = count[:, :, None] == count[:, None, :]
        # Among the W best with all phrases, as in BeamSearch among the W best.
        finishes = ops.logical_and(finishes, _rank(alike, possible) < self._width)
        goes_on = ops.logical_and(possible, ops.logical_not(ends))
        places = _allocated(count, goes_on, ops.sum(lengths, axis=1), self._width, include.shape[1] * include.shape[2])
        return scores, tokens, parents, finishes, ops.logical_and(goes_on, _rank(alike, goes_on) < places)

    def _avoided(self, allowed, state):
        """``allowed`` without the last tokens of phrases to be avoided, where the tokens before it are there."""
        avoid, pad_id = state["avoid"], self.model.pad_id
        lengths = ops.sum(ops.cast(avoid != pad_id, "int32"), axis=2)  # (B, C)
        begun = _begun(_last(state["ids"], state["step"], avoid.shape[2] - 1), avoid, lengths - 1)
        due = ops.logical_and(begun == lengths[:, None] - 1, lengths[:, None] > 0)  # (B, W, C)
        ending = ops.take_along_axis(avoid, ops.maximum(lengths - 1, 0)[:, :, None], axis=2)[:, None, :, 0]
        return ops.where(marked(ops.broadcast_to(ending, ops.shape(due)), due, allowed), IMPOSSIBLE, allowed)

    def _extensions(self, allowed, scores, met, last, include):
        """Candidates, each once, the best first: scores, tokens, hypotheses, each (B, 2 W + W + W C)."""
        batch, width = ops.shape(scores)[0], self._width
        every = ops.broadcast_to(ops.arange(width, dtype="int32"), (batch, width))
        # 1. the best of all
        found = [best_extensions(allowed, scores, 2 * width)]
        # 2. the best of each hypothesis
        best, tokens = max_and_argmax(allowed)
        found.append((best + scores, ops.cast(tokens, "int32"), every))
        # 3. the next token of each phrase that a hypothesis lacks
        begun = ops.where(met, 0, _begun(last, include))  # (B, W, C)
        following = ops.take_along_axis(
            ops.broadcast_to(include[:, None], (batch, width, *ops.shape(include)[1:])), begun[..., None], axis=3
        )[..., 0]
        gained = ops.where(met, IMPOSSIBLE, ops.take_along_axis(allowed, following, axis=2))
        count = width * include.shape[1]
        hypotheses = ops.broadcast_to(every[:, :, None], ops.shape(begun))
        found.append([ops.reshape(x, (batch, count)) for x in (gained + scores[:, :, None], following, hypotheses)])
        scores, tokens, parents = (ops.concatenate(x, axis=1) for x in zip(*found, strict=True))
        # Equal ones stand side by side in the order that decides ties.
        order = ops.argsort(tokens * width + parents, axis=1)
        scores, tokens, parents = (ops.take_along_axis(x, order, axis=1) for x in (scores, tokens, parents))
        key = tokens * width + parents
        again = ops.concatenate([ops.zeros_like(key[:, :1], dtype="bool"), key[:, 1:] == key[:, :-1]], axis=1)
        scores, order = top_k(ops.where(again, IMPOSSIBLE, scores), scores.shape[1])
        return scores, ops.take_along_axis(tokens, order, axis=1), ops.take_along_axis(parents, order, axis=1)


def _array(rows, pad_id):
    """Phrases of sentences as (B, C, P), filled up with pad; C and P are powers of two, so that few shapes get compiled."""
    count = max(map(len, rows), default=0)
    length = max((len(phrase) for row in rows for phrase in row), default=0)
    array = np.full((len(rows), _power_of_two(count), _power_of_two(length)), pad_id, dtype="int32")
    for places, row in zip(array, rows, strict=True):
        for place, phrase in zip(places, row, strict=False):
            place[: len(phrase)] = phrase
    return array


def _power_of_two(count):
    return 1 << max(count - 1, 0).bit_length()


def _last(ids, step, count):
    """The last ``count`` of the ``step`` tokens in ids (B, W, L), -1 for those before the first: (B, W, count)."""
    places = ops.arange(count, dtype="int32") + step - count
    return ops.where(places >= 0, ops.take(ids, ops.maximum(places, 0), axis=2), -1)


def _begun(last, phrases, longest=None):
    """How many tokens of the phrases (B, C, P) the last tokens (B, W, N) are the beginning of, the most there are: (B, W, C).

    ``longest`` (B, C): no more than this many of each.
    """
    begun = ops.zeros((ops.shape(last)[0], last.shape[1], phrases.shape[1]), dtype="int32")
    for count in range(1, min(last.shape[2], phrases.shape[2]) + 1):
        alike = ops.all(last[:, :, None, last.shape[2] - count :] == phrases[:, None, :, :count], axis=3)
        if longest is not None:
            alike = ops.logical_and(alike, longest[:, None] >= count)
        begun = ops.where(alike, count, begun)
    return begun


def _occurring(ids, step, phrases, lengths, pad_id):
    """Which phrases (B, C, P) of ``lengths`` (B, C) stand in ids (B, W, L), of which ``step`` are there: (B, W, C).

    An empty phrase does.
    """
    starts = ops.arange(ops.shape(ids)[2], dtype="int32")
    found = starts + lengths[:, None, :, None] <= step  # (B, 1, C, L)
    for offset in range(phrases.shape[2]):
        token = phrases[:, None, :, offset, None]  # (B, 1, C, 1)
        alike = ops.roll(ids, -offset, axis=2)[:, :, None] == token  # (B, W, C, L)
        found = ops.logical_and(found, ops.logical_or(alike, token == pad_id))
    return ops.logical_or(ops.any(found, axis=3), lengths[:, None] == 0)


def _rank(alike, counted):
    """For each candidate, how many better ones of its kind count: alike (B, N, N), counted (B, N), the best first -> (B, N)."""
    places = ops.arange(alike.shape[1], dtype="int32")
    better = ops.logical_and(alike, places[None, :] < places[:, None])
    return ops.sum(ops.cast(ops.logical_and(better, counted[:, None]), "int32"), axis=2)


def _allocated(count, goes_on, total, width, highest):
    """How many places of the beam the candidates of each one's count have together: (B, N).

    Args: count (B, N), from 0 to ``highest``; goes_on (B, N) boolean; total (B,), the count of those with all phrases.
    """
    counts = ops.arange(highest + 1, dtype="int32")
    there = ops.logical_and(count[:, :, None] == counts, goes_on[:, :, None])
    there = ops.sum(ops.cast(there, "int32"), axis=1)  # (B, counts)
    total = total[:, None]
    share = width // (total + 1)
    places = ops.where(counts < total, share, ops.where(counts == total, width - share * total, 0))
    places = ops.minimum(places, there)
    spare = there - places
    above = ops.flip(ops.cumsum(ops.flip(spare, axis=1), axis=1), axis=1) - spare
    left = width - ops.sum(places, axis=1, keepdims=True)
    places = places + ops.minimum(ops.maximum(left - above, 0), spare)
    return ops.take_along_axis(places, count, axis=1)
