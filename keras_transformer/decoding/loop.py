"""The loop under every search: compiled, cached, and left by sentences that are done.

A search says how it begins and how it extends each hypothesis by a token; this file runs that inside the backend's compiler until
all sentences are done. Two things need the host: when few sentences are left they move into a smaller batch, and when the
cache is full it doubles. Shapes come from short ladders, so that few get compiled.
"""

import keras
import numpy as np
from keras import ops

from keras_transformer.backend import compiled
from keras_transformer.backend_decoding import repeat_while
from keras_transformer.decoding.errors import RowError, check_finite, check_integer, checked_source
from keras_transformer.decoding.rules import IMPOSSIBLE, Rules
from keras_transformer.layers.masking import padding_mask
from keras_transformer.text.ids import check_ids

# Positions a cache begins with. A step reads all of it: more would be read in vain, less would compile more shapes.
_ROOM = 64
# Sentences move when a quarter is left: a smaller batch gains little on less, and each size of batch is a compilation.
_SHRINK = 4
_SMALLEST = 16


class Search:
    """What all searches share. A search adds ``_begin``, ``_extend`` and ``_result``.

    The state of a search is a dict of tensors whose first axis is the sentence, but for the scalar "step":

        ids (B, W, L), scores (B, W)    the hypotheses that go on
        done, broken (B,)               sentences that are finished; sentences that met NaN or infinity
        limits (B,)                     how many tokens each may get
        source_mask (B, 1, 1, S), cache, and what the search adds
    """

    beam_size = 1
    groups = 1  # of the beam, each searched as a sentence of its own; W below is what one of them has
    _ids = ("ids",)  # entries of the state of shape (B, W, L)
    _whole = ("step",)  # entries that belong to no sentence

    def __init__(self, model, max_length=None, rules=None):
        if max_length is not None:
            check_integer("max_length", max_length, 1)
        self.model = model
        self.max_length = max_length
        self.rules = Rules() if rules is None else rules
        if not isinstance(self.rules, Rules):
            raise ValueError(f"rules must be a decoding.Rules. Received: {rules!r}.")
        if max_length is not None and self.rules.min_length > max_length:
            raise ValueError(
                f"max_length must not be less than the rules' min_length={self.rules.min_length}. Received: "
                f"max_length={max_length}."
            )
        if self.rules.coverage_penalty and not hasattr(model, "num_heads"):
            raise ValueError("coverage_penalty needs the attention of a single Transformer. Received an ensemble.")
        for phrase in self.rules.banned:
            if max(phrase) >= model.vocabulary_size:
                raise ValueError(f"banned holds id {max(phrase)}; the vocabulary ends at {model.vocabulary_size - 1}.")
        self._compile()

    def _compile(self):
        holder = self._holder()
        self._first = compiled(self._run, holder)
        self._next = compiled(self._go_on, holder)
        self._next_in_more_room = compiled(self._grow_and_go_on, holder)
        self._shrink = compiled(self._take, holder)

    def _holder(self):
        """What has the ``variables`` that the compiled loop reads."""
        return self.model

    @property
    def _width(self):
        return self.beam_size // self.groups

    def __call__(self, source, prefix=None, keys=None):
        """Searches and checks; see the class for the result.

        Args:
            source: (B, S) integer ids, each row ended by eos and filled up with pad.
            prefix: (B, P) ids that the translations begin with, rows filled up with pad; None for none.
            keys: (B,) integers that name the sentences for a search that draws; None for their places.

        Returns:
            NumPy ids (B, N, L) int32 and scores (B, N) float32, best first.

        Raises:
            ValueError: an id is outside the vocabulary, the model's logits are not finite, or a prefix leaves no room for a
                translation.
        """
        source = checked_source(self.model, source)
        return self._found(source, prefix, self._inputs(source, range(len(source)) if keys is None else keys))

    def _found(self, source, prefix, inputs):
        """What __call__ returns; ``inputs`` are the arrays that the search takes beside the source."""
        inputs = {"source": source} | inputs
        if prefix is not None and (prefix := self._checked_prefix(source, np.asarray(prefix))).size:
            inputs["prefix"] = prefix
        tensors = {name: ops.convert_to_tensor(x, dtype=self._dtype(x)) for name, x in inputs.items()}
        ids, scores = self._until_done(tensors, len(source))
        check_finite(scores)
        return ids, scores

    @staticmethod
    def _dtype(x):
        return "float32" if x.dtype.kind == "f" else "int32"

    def _inputs(self, source, keys):
        """What the search takes beside the source, {name: array with the sentences first}; keys as in __call__."""
        return {}

    def _checked_prefix(self, source, prefix):
        """The prefix, (B, P); a row may be all pad."""
        if prefix.ndim != 2 or len(prefix) != len(source):
            raise ValueError(f"prefix must be of shape ({len(source)}, P), a row a source. Received: {prefix.shape}.")
        check_ids(prefix, self.model.vocabulary_size, "prefix")
        there = prefix != self.model.pad_id
        if np.isin(prefix, [self.model.bos_id, self.model.eos_id]).any() or (there[:, 1:] > there[:, :-1]).any():
            raise ValueError(
                f"prefix must hold ids without bos and eos, and pad behind them alone. Received: {prefix.tolist()}."
            )
        lengths = there.sum(axis=1)
        limits = [self._limit(int((row != self.model.pad_id).sum())) for row in source]
        full = np.flatnonzero(lengths >= limits)
        if full.size:
            raise RowError(
                f"The prefix for {{}} has {lengths[full[0]]} ids, and a translation may have {limits[full[0]]} tokens there. Raise "
                "max_length or length_ratio.",
                full[:1].tolist(),
            )
        return prefix

    # On the host

    def _until_done(self, inputs, rows):
        found_ids = found_scores = None
        state, ids, scores, done, step = self._first(inputs, _few(rows))
        index = np.arange(rows)
        while True:
            done, at = ops.convert_to_numpy(done), int(step)
            ids, scores = ops.convert_to_numpy(ids), ops.convert_to_numpy(scores)
            if found_ids is None:
                longest = self._longest(inputs["source"].shape[1])
                found_ids = np.full((rows, ids.shape[1], longest), self.model.pad_id, dtype="int32")
                found_scores = np.zeros(scores.shape, dtype="float32")
            found_ids[index, :, : ids.shape[2]], found_scores[index] = ids, scores
            if done.all():
                self._leave(state)
                return found_ids, found_scores
            go_on = self._next_in_more_room
            if at < ids.shape[2]:  # left early: few are going on
                rows = np.argsort(done, kind="stable")[: len(done) // _SHRINK]  # those going on, then others to fill up
                index, go_on = index[rows], self._next
                state = self._shrink(state, ops.convert_to_tensor(rows, dtype="int32"))
            state, ids, scores, done, step = go_on(state, _few(len(index)))

    def _leave(self, state):
        """Called with the last state, for a search that takes something from it."""

    # Inside the compiler

    def search(self, source):
        """The whole search as a function of tensors, for export."""
        state = self._advance(self._start({"source": source}, self._longest(ops.shape(source)[1])), 0)
        return self._result(state)

    def _run(self, inputs, few):
        longest = self._longest(ops.shape(inputs["source"])[1])
        return self._go_on(self._start(inputs, _room(longest, _ROOM)), few)

    def _grow_and_go_on(self, state, few):
        longest, room = self._longest(ops.shape(state["source_mask"])[3]), ops.shape(state["ids"])[2]
        return self._go_on(self._grow(state, _room(longest, 2 * room)), few)

    def _go_on(self, state, few):
        state = self._advance(state, few)
        ids, scores = self._result(state)
        return state, ids, scores, self._done_sentences(state), state["step"]

    def _done_sentences(self, state):
        return state["done"]

    def _start(self, inputs, room):
        model, width, source = self.model, self._width, inputs["source"]
        batch = ops.shape(source)[0]
        source_mask = padding_mask(source, model.pad_id)
        lengths = ops.sum(ops.cast(ops.not_equal(source, model.pad_id), "int32"), axis=1)
        # The minimum, because a limit that is computed in float32 may be rounded up.
        limits = ops.minimum(self._limit(lengths), self._longest(ops.shape(source)[1]))
        state = {
            "step": ops.zeros((), dtype="int32"),
            "ids": ops.full((batch, width, room), model.pad_id, dtype="int32"),
            "scores": ops.zeros((batch, width), dtype="float32"),
            "done": ops.zeros((batch,), dtype="bool"),
            "broken": ops.zeros((batch,), dtype="bool"),
            "limits": limits,
            "source_mask": source_mask,
            "cache": model.init_cache(model.encode(source, source_mask), width, room),
        }
        state |= {name: x for name, x in inputs.items() if name != "source"}
        if self.rules.coverage_penalty:
            layer = state["cache"]["layers"][-1]
            layer["scores"] = ops.zeros((batch, model.num_heads, width, ops.shape(source)[1]), dtype="float32")
            state["attended"] = ops.zeros((batch, width, ops.shape(source)[1]), dtype="float32")
        return self._begin(state)

    def _limit(self, length):
        """The most tokens a source of ``length`` ids may get. A sentence's limit depends on itself alone, so that padding and
        neighbours do not change its translation."""
        limit = self.rules.limit(length)
        if self.max_length is None:
            return limit
        return min(limit, self.max_length) if isinstance(limit, int) else ops.minimum(limit, self.max_length)

    def _longest(self, length):
        """The most tokens that any source of ``length`` ids, padding included, may get."""
        return self.rules.limit(length) if self.max_length is None else self.max_length

    def _advance(self, state, few):
        """The state when at most ``few`` sentences go on, or the cache is full."""
        names = list(state)

        def unfinished(few, *values):
            state = dict(zip(names, values, strict=True))
            going_on = ops.sum(ops.cast(ops.logical_not(self._done_sentences(state)), "int32"))
            return ops.logical_and(going_on > few, state["step"] < ops.shape(state["ids"])[2])

        def extend(few, *values):
            state = self._extend(dict(zip(names, values, strict=True)))
            return (few, *(state[name] for name in names))

        values = (ops.convert_to_tensor(few, dtype="int32"), *state.values())
        _, *values = repeat_while(unfinished, extend, values, place=1 + names.index("step"))
        return dict(zip(names, values, strict=True))

    def _log_probabilities(self, state):
        """log p of the next token of each hypothesis under the rules, (B, W, V), and the state with its cache moved on."""
        model, step = self.model, state["step"]
        tokens = ops.where(step == 0, model.bos_id, ops.take(state["ids"], ops.maximum(step - 1, 0), axis=2))  # (B, W)
        logits, cache = model.decode_step(ops.reshape(tokens, (-1,)), state["cache"], step, state["source_mask"])
        logits = ops.reshape(logits, (ops.shape(tokens)[0], self._width, model.vocabulary_size))
        logits = self.rules.change_logits(logits, state["ids"], step)
        log_probabilities = ops.log_softmax(logits, axis=-1)
        # One logit that is NaN or infinite makes NaN of all log-probabilities of its row, and so do logits that are all -inf.
        not_finite = ops.any(ops.isnan(log_probabilities[:, :, 0]), axis=1)
        log_probabilities = ops.maximum(log_probabilities, IMPOSSIBLE)  # where a logit was -inf
        special = (model.pad_id, model.bos_id, model.eos_id)
        allowed = self.rules.forbid(log_probabilities, state["ids"], step, special)
        if "prefix" in state:
            allowed = self._forced(allowed, log_probabilities, state)
        broken = ops.logical_or(state["broken"], ops.logical_and(not_finite, ops.logical_not(state["done"])))
        state = state | {"cache": cache, "broken": broken}
        if "attended" in state:
            attended = ops.mean(cache["layers"][-1]["scores"], axis=1)  # (B, W, S)
            state["attended"] = state["attended"] + attended
        return allowed, state

    def _forced(self, allowed, log_probabilities, state):
        """Leaves nothing but the next token of the prefix, where there is one."""
        prefix, step = state["prefix"], state["step"]
        last = ops.shape(prefix)[1] - 1
        forced = ops.where(step <= last, ops.take(prefix, ops.minimum(step, last), axis=1), self.model.pad_id)
        forced = forced[:, None, None]  # (B, 1, 1)
        entries = ops.arange(self.model.vocabulary_size, dtype="int32")
        only = ops.where(entries == forced, log_probabilities, IMPOSSIBLE)
        return ops.where(forced == self.model.pad_id, allowed, only)

    def _grow(self, state, room):
        """The state with room for as many tokens."""
        more = room - ops.shape(state["ids"])[2]
        grown = {"cache": self.model.grow_cache(state["cache"], room)}
        for name in self._ids:
            batch, width, _ = ops.shape(state[name])
            grown[name] = ops.concatenate(
                [state[name], ops.full((batch, width, more), self.model.pad_id, "int32")], axis=2
            )
        return state | grown

    def _take(self, state, rows):
        """The state of some of the sentences."""
        return {
            name: x if name in self._whole else keras.tree.map_structure(lambda leaf: ops.take(leaf, rows, axis=0), x)
            for name, x in state.items()
        }


def _room(longest, room):
    """``longest``, or ``room`` if that is much less; an int or an integer tensor as they are."""
    if isinstance(longest, int) and isinstance(room, int):
        return longest if 2 * longest <= 3 * room else room
    return ops.where(2 * longest <= 3 * room, longest, room)


def _few(rows):
    """How many sentences may be left before the others leave the batch: a tensor, so that it compiles nothing."""
    return ops.convert_to_tensor(rows // _SHRINK if rows >= _SMALLEST else 0, dtype="int32")
