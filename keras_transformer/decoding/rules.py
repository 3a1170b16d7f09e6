"""Rules: what a translation may look like, and how long; applied to the log-probabilities of each step of a search.

Under every search of this room. Keskar et al. 2019, section 4.1 (repetition penalty); Paulus et al. 2017 (no repeated n-gram);
Wu et al. 2016, section 7 (coverage penalty).
"""

import dataclasses
import math
import numbers

from keras import ops

from keras_transformer.decoding.errors import check_integer, check_number

IMPOSSIBLE = -1e9  # the score of what must not be chosen: finite, so that no difference of two of them is NaN


def is_found(score):
    """Whether a score is that of a hypothesis that was found.

    Where a search found fewer than W, the others have IMPOSSIBLE, perhaps divided by a divisor for their length.
    """
    return score > IMPOSSIBLE / 10


@dataclasses.dataclass(frozen=True)
class Rules:
    """What a search may produce, whatever the model finds probable.

    Where the rules leave no token at all, the translation ends.

    Args:
        min_length: tokens a translation has at least, eos not counted.
        length_ratio: (a, b): a source of S ids, eos included, may get a S + b tokens, eos included; ``max_length`` of the search
            is a further bound. The default holds nearly every translation.
        no_repeat_ngram: n of the n-grams that may occur but once in a translation; 0 for no such rule.
        repetition_penalty: the logit of a token that the translation already has is divided by it if positive, multiplied if
            negative, before the softmax; 1 changes nothing.
        banned: ids and phrases (tuples of ids) that must not occur. An id on its own and a phrase of one id are the same.
        coverage_penalty: beta, the weight of sum over source positions of log(min(attention received, 1)) in the score by which
            finished hypotheses are ranked. Attention is the mean over the heads of the last decoder layer.

    Raises:
        ValueError: a number is out of its range.

    Example:

    >>> from keras_transformer.decoding import Rules
    >>> Rules(no_repeat_ngram=3, banned=(7, (8, 9))).banned
    ((7,), (8, 9))

    Reference: Keskar et al. 2019, equation in section 4.1; Wu et al. 2016, equation 14.
    """

    min_length: int = 0
    length_ratio: tuple = (2, 10)
    no_repeat_ngram: int = 0
    repetition_penalty: float = 1.0
    banned: tuple = ()
    coverage_penalty: float = 0.0

    def __post_init__(self):
        check_integer("min_length", self.min_length, 0)
        check_integer("no_repeat_ngram", self.no_repeat_ngram, 0)
        check_number("coverage_penalty", self.coverage_penalty, 0)
        if not isinstance(self.repetition_penalty, numbers.Real) or not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty must be a positive number, 1 for none. Received: {self.repetition_penalty!r}."
            )
        try:
            ratio, constant = self.length_ratio
            sound = ratio >= 0 and constant >= 0 and 1 <= ratio + constant < math.inf
        except (TypeError, ValueError):
            sound = False
        if not sound:
            raise ValueError(
                "length_ratio must be a pair (a, b) of numbers from 0, at least 1 together: a source of S ids gets at most "
                f"a S + b tokens. Received: {self.length_ratio!r}."
            )
        object.__setattr__(self, "length_ratio", (ratio, constant))
        object.__setattr__(self, "banned", _phrases("banned", self.banned))

    def limit(self, length):
        """The most tokens for a source of ``length`` ids, an int or an integer tensor: at least 1."""
        ratio, constant = self.length_ratio
        if isinstance(length, int):
            return max(int(ratio * length + constant), 1)
        if isinstance(ratio, int) and isinstance(constant, int):
            return ops.maximum(ratio * length + constant, 1)
        return ops.maximum(ops.cast(ratio * ops.cast(length, "float32") + constant, "int32"), 1)

    def change_logits(self, logits, ids, step):
        """Logits (B, W, V) under the repetition penalty, after translations ids (B, W, L) of which ``step`` tokens are there."""
        if self.repetition_penalty == 1:
            return logits
        written = ops.arange(ops.shape(ids)[2], dtype="int32") < step
        said = marked(ids, ops.broadcast_to(written, ops.shape(ids)), logits)
        penalised = ops.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
        return ops.where(said, penalised, logits)

    def forbid(self, log_probabilities, ids, step, special):
        """Log-probabilities (B, W, V) in which tokens that must not come next are IMPOSSIBLE.

        ids (B, W, L): the translations so far, of which ``step`` tokens are there. special: (pad_id, bos_id, eos_id).
        """
        pad_id, bos_id, eos_id = special
        entries = ops.arange(log_probabilities.shape[-1], dtype="int32")
        single = [phrase[0] for phrase in self.banned if len(phrase) == 1]
        never = ops.where(_is_any(entries, [pad_id, bos_id, *single]), IMPOSSIBLE, 0.0)  # (V,)
        is_eos = entries == eos_id
        # On PyTorch a sum and a maximum take a quarter of the time of a selection.
        allowed = ops.maximum(log_probabilities + never, IMPOSSIBLE)
        if self.min_length:
            allowed = ops.where(ops.logical_and(is_eos, step < self.min_length), IMPOSSIBLE, allowed)
        if self.no_repeat_ngram:
            repeats = _repeating(ids, step, self.no_repeat_ngram, log_probabilities)
            allowed = ops.where(ops.logical_and(repeats, ops.logical_not(is_eos)), IMPOSSIBLE, allowed)
        for phrase in self.banned:
            if len(phrase) > 1:
                begun = _ends_with(ids, step, phrase[:-1])  # (B, W)
                ends = ops.logical_and(begun[:, :, None], entries == phrase[-1])
                allowed = ops.where(ends, IMPOSSIBLE, allowed)
        if self.min_length or self.no_repeat_ngram or self.banned:
            stuck = ops.max(allowed, axis=-1, keepdims=True) <= IMPOSSIBLE  # (B, W, 1)
            ending = ops.where(stuck, 0.0, IMPOSSIBLE) + ops.where(is_eos, 0.0, IMPOSSIBLE)
            allowed = ops.maximum(allowed, log_probabilities + ending)
        return allowed

    def coverage(self, attended, source_mask):
        """The coverage term of a score, (B, W), from attention received so far (B, W, S) and the mask (B, 1, 1, S)."""
        covered = ops.log(ops.clip(attended, 1e-9, 1.0))
        return self.coverage_penalty * ops.sum(ops.where(source_mask[:, 0], covered, 0.0), axis=-1)


def _phrases(name, phrases):
    """Ids and tuples of ids as a tuple of tuples of ids."""
    try:
        phrases = tuple((phrase,) if isinstance(phrase, numbers.Integral) else tuple(phrase) for phrase in phrases)
        sound = all(phrase and all(isinstance(x, numbers.Integral) and x >= 0 for x in phrase) for phrase in phrases)
    except TypeError:
        sound = False
    if not sound:
        raise ValueError(f"{name} must hold ids and tuples of ids, none of them empty. Received: {phrases!r}.")
    return tuple(tuple(int(x) for x in phrase) for phrase in phrases)


def _is_any(entries, ids):
    found = entries == ids[0]
    for other in ids[1:]:
        found = ops.logical_or(found, entries == other)
    return found


def marked(tokens, valid, like):
    """Which entries of the vocabulary are among the valid of tokens (B, W, N): (B, W, V) boolean."""
    batch, width, count = ops.shape(tokens)[0], tokens.shape[1], ops.shape(tokens)[2]
    vocabulary_size = like.shape[-1]
    rows = ops.arange(batch * width, dtype="int32")[:, None] * vocabulary_size
    places = ops.reshape(rows + ops.reshape(tokens, (batch * width, count)), (-1, 1))
    marks = ops.reshape(ops.cast(valid, "float32"), (-1,))
    flat = ops.scatter(places, marks, (batch * width * vocabulary_size,))
    return ops.reshape(flat, (batch, width, vocabulary_size)) > 0


def _repeating(ids, step, n, like):
    """Tokens that would end an n-gram which ids (B, W, L) already have: (B, W, V) boolean."""
    length = ops.shape(ids)[2]
    starts = ops.arange(length, dtype="int32")
    matches = ops.broadcast_to(starts + n - 1 < step, ops.shape(ids))  # the n-gram from there is written
    for offset in range(n - 1):
        last = _at(ids, step - (n - 1) + offset)[:, :, None]  # (B, W, 1)
        matches = ops.logical_and(matches, _shifted(ids, offset) == last)
    return marked(_shifted(ids, n - 1), ops.logical_and(matches, step >= n), like)


def _shifted(ids, offset):
    """ids (B, W, L) with column l + offset at l; what comes in at the end is never looked at."""
    return ops.roll(ids, -offset, axis=2) if offset else ids


def _at(ids, index):
    """Column ``index`` of ids (B, W, L): (B, W). A negative index reads column 0, which the caller discards."""
    return ops.take(ids, ops.maximum(index, 0), axis=2)


def _ends_with(ids, step, phrase):
    """Which of ids (B, W, L), of which ``step`` tokens are there, end with ``phrase``: (B, W) boolean."""
    ends = ops.broadcast_to(step >= len(phrase), ops.shape(ids)[:2])
    for offset, token in enumerate(phrase):
        ends = ops.logical_and(ends, _at(ids, step - len(phrase) + offset) == token)
    return ends
