"""Checks of what a logit depends on: the tokens it may see, all of them, and nothing else."""

import numpy as np
from keras import ops

from keras_transformer.testing.probes import (
    ROWS,
    moved_weights,
    other_words,
    repeated,
    source_and_target,
    uneven,
    with_an_empty_source,
)
from keras_transformer.testing.report import FINDING, OK, NotChecked, needs, pitfall

# The tolerance under which one token's part in the logits can be told.
_FINE = 1e-3


@pitfall("logits are finite", example=OK, steady=False)
def logits_are_finite(subject):
    """Whether logits are numbers, also where a row of the source is padding alone. -inf may forbid a token."""
    source, target = source_and_target(subject)
    for where, rows in (
        ("", (source, target)),
        (" where rows are padded", uneven(subject, source, target)[:2]),
        (" where a source is padding alone", with_an_empty_source(subject)),
    ):
        if not (subject.numbers(*rows) < np.inf).all():
            return f"logits are NaN or inf{where}: look for a softmax over nothing, a weight that is none, an overflow."
    return None


@pitfall("mixes sentences", example=OK)
def mixes_sentences(subject):
    """Whether a sentence's logits depend on the others in its batch, or on the row it stands in."""
    source, target = source_and_target(subject)
    logits = subject.run(source, target)
    # Any two rows differ in a bit of their numbers: with each bit and value in turn, each row is changed beside each other.
    for changed in ((np.arange(ROWS) >> bit & 1) == value for bit in range(3) for value in (0, 1)):
        others = [source.copy(), target.copy()]
        others[0][changed, :-1] = other_words(subject, source[changed, :-1])
        others[1][changed, 1:] = other_words(subject, target[changed, 1:])
        if subject.differ(subject.run(*others)[~changed], logits[~changed]):
            return "a sentence changes the logits of another in its batch: axes are mixed up, or something is taken over the batch."
    equal = subject.run(*(repeated(ids[0]) for ids in (source, target)))
    if subject.differ(equal, repeated(equal[0])):
        return "equal sentences of a batch get other logits: positions or a mask go by the row, as of (T, B) on input (B, T)."
    return None


@pitfall("looks ahead", example=OK)
def looks_ahead(subject):
    """Whether a target token changes logits before it, which shall predict it."""
    # Equal rows: no other can be what changes one.
    source, target = (repeated(ids[0]) for ids in source_and_target(subject))
    logits = subject.run(source, target)
    for j in range(1, target.shape[1]):
        changed = target.copy()
        changed[:, j] = other_words(subject, target[:, j])
        if subject.differ(subject.run(source, changed)[:, :j], logits[:, :j]):
            return (
                f"changing target token {j} changes logits before it, which shall predict it: the decoder's self-attention lacks "
                "its causal mask, or the mask is inverted."
            )
    return None


@pitfall("ignores source order", example=FINDING)
def ignores_source_order(subject):
    """Whether the order of the source's words is lost."""
    source, target = (repeated(ids[0]) for ids in source_and_target(subject))
    moved = source.copy()
    for row in range(1, len(source)):
        moved[row, :-1] = np.roll(source[row, :-1], row)

    def lost():  # each row against itself: what goes by the row must not stand for the order
        return not subject.differ(subject.run(moved, target), subject.run(source, target))

    if _holds(subject, lost):
        return "the order of the source's words changes nothing: the encoder's input lacks positions, or the source is not read."
    return None


@pitfall("ignores target order", example="not checked")
def ignores_target_order(subject):
    """Whether a target position can tell how many stand before it.

    A target of equal words gives equal logits at each position of a decoder without positions, but of one with relative positions
    too: there only a decoder of one layer can be told, in which the order of the words before a position then changes nothing.
    """
    source, target = source_and_target(subject)
    same, swapped = target.copy(), target.copy()
    same[:] = subject.words[0]
    swapped[:, [0, 1]] = target[:, [1, 0]]

    def absolute_lost():
        logits = subject.run(source, same)
        return not subject.differ(logits, np.repeat(logits[:, :1], same.shape[1], axis=1))

    def order_lost():
        return not subject.differ(subject.run(source, swapped)[:, -1], subject.run(source, target)[:, -1])

    if not _holds(subject, absolute_lost):
        return None
    if subject.relative_positions is False or (_holds(subject, order_lost) and not _reads_nothing(subject)):
        return "a target of equal words gives equal logits at each position: the decoder's input lacks positions."
    raise NotChecked(
        "a target of equal words gives equal logits at each position: positions are relative, or there are none; say "
        "relative_positions=False where they shall be absolute"
    )


def _reads_nothing(subject):
    """Whether the target changes nothing at all, or nothing but what it says last."""
    source, target = source_and_target(subject)
    changed = target.copy()
    changed[:, :-1] = other_words(subject, target[:, :-1])
    return not subject.differ(subject.run(source, changed)[:, -1], subject.run(source, target)[:, -1])


@pitfall("ignores the source", example=FINDING)
def ignores_source(subject):
    """Whether the source changes anything."""
    source, target = source_and_target(subject)

    def ignored():
        logits = subject.run(source, repeated(target[0]))
        return not subject.differ(logits, repeated(logits[0]))

    if _holds(subject, ignored):
        return "the source changes nothing: the decoder does not attend to the encoder's output."
    return None


@pitfall("misses part of the source", example=FINDING)
def misses_part_of_the_source(subject):
    """Whether a token of the source changes nothing at some position of the target, in no sentence of a batch.

    A decoder that is made to see a part of it alone, as under wait-k, is found too.
    """
    if subject.tolerance > _FINE:
        raise NotChecked("what one token moves is lost in the rounding of 16-bit numbers")
    source, target = source_and_target(subject)
    logits = subject.run(source, target)

    def missed(place, logits):
        """Positions of the target that the source's token at ``place`` does not reach."""
        changed = source.copy()
        changed[:, place] = other_words(subject, source[:, place])
        found = subject.run(changed, target)
        return [at for at in range(target.shape[1]) if not subject.differ(found[:, at], logits[:, at])]

    for place in range(source.shape[1]):  # eos too: a mask that is too short by one leaves out that
        if not (positions := missed(place, logits)):
            continue
        if _holds(subject, lambda place=place: bool(missed(place, subject.run(source, target)))):
            return (
                f"source token {place} of {source.shape[1]} changes nothing at target position {positions[0]}: the source's mask "
                "is too short, or the decoder sees a part of it alone."
            )
    return None


@pitfall("same output", example=FINDING)
def same_output(subject):
    """Whether anything changes anything."""

    def same():
        logits = subject.run(*source_and_target(subject))
        return not subject.differ(logits, np.broadcast_to(logits[0, -1], logits.shape))

    if _holds(subject, same):
        return "logits do not depend on the input at all: something cuts the model off from it."
    return None


@pitfall("depends on padding", example=OK)
def depends_on_padding(subject):
    """Whether padding, of source or target, changes logits of real tokens: each row padded otherwise, against rows without."""
    whole = source_and_target(subject)
    for side, name in enumerate(("source", "target")):
        padded = list(whole)
        _, _, *lengths = sides = uneven(subject, *whole)
        padded[side], lengths = sides[side], lengths[side]
        logits = subject.run(*padded)
        for length in np.unique(lengths):
            chosen = lengths == length
            alone = list(whole)  # all rows cut to that length, for which there is no padding
            alone[side] = whole[side][:, :length].copy()
            if name == "source":
                alone[side][:, -1] = subject.eos_id
            expected = subject.run(*alone)[chosen]
            if subject.differ(logits[chosen][:, : expected.shape[1]], expected):
                return (
                    f"padding appended to the {name} changes logits of real tokens: its padding mask is missing, inverted, lost on "
                    "the way or of another row, or positions are counted from the wrong end."
                )
    return None


@pitfall("attends to source padding")
def attends_to_source_padding(subject):
    """Whether the vector of the padding id reaches logits of real tokens, padding being in the source alone."""
    needs(subject, "model")
    whole, target = source_and_target(subject)
    source = uneven(subject, whole, target, fewest=1)[0]
    subject.run(source, target)  # builds the model, if that is still to be done
    sizes = subject.vocabulary_size, subject.source_vocabulary_size
    tables = [
        weight
        for weight in subject.model.weights
        if "embed" in weight.path and len(weight.shape) == 2 and weight.shape[0] in sizes
    ]
    if not tables:
        raise NotChecked("needs an embedding table (V, D) whose name contains 'embed'")
    # A table whose row moves logits where nothing is padded tells nothing: one of positions, or the output's under a normaliser.
    telling = [table for table in tables if not _row_moves(subject, table, whole, target)]
    if not telling:
        raise NotChecked("the row of the padding id moves logits where nothing is padded")
    # Nor does one that the source does not go through, as where the source's own has another name.
    first, *_ = subject.words
    elsewhere = np.where(target == first, subject.words[1], target)
    of_one_word = np.where(whole == subject.eos_id, whole, first)
    telling = [table for table in telling if _row_moves(subject, table, of_one_word, elsewhere, row=first)]
    if not telling:
        raise NotChecked("needs the embedding table (V, D) of the source, whose name contains 'embed'")
    if any(_row_moves(subject, table, source, target) for table in telling):
        return "the vector of the padding id reaches the logits: the source's padding is attended to."
    return None


def _row_moves(subject, table, source, target, row=None):
    """Whether another row of an id in ``table``, the padding id's by itself, changes the logits of other ids."""
    row = subject.pad_id if row is None else row
    logits, before = subject.run(source, target), np.asarray(ops.convert_to_numpy(table))
    changed = before.copy()
    changed[row] += np.random.default_rng(1).normal(size=before.shape[1])
    try:
        table.assign(changed)
        moved = subject.run(source, target)
    finally:
        table.assign(before)
    # The score of the id itself may move: a tied table is the output projection too.
    return subject.differ(np.delete(moved, row, -1), np.delete(logits, row, -1))


@pitfall("random at inference", example=OK, steady=False)
def random_at_inference(subject):
    """Whether two calls with the same input differ."""
    if subject.is_random:
        return "two calls with the same input give other logits: dropout is active outside of training."
    return None


def _holds(subject, nothing_changes):
    """Whether ``nothing_changes`` at these weights and at others near them.

    Raises:
        NotChecked: at these weights alone, as where a branch begins at zero.
    """
    if not nothing_changes():
        return False
    if subject.model is not None:
        with moved_weights(subject.model):
            if not nothing_changes():
                raise NotChecked(
                    "nothing changes at these weights, but a little beside them: a branch that begins at zero and is not trained "
                    "yet, or weights that have died"
                )
    return True
