"""Checks of what a logit depends on: the tokens it may see, all of them, and nothing else."""

import numpy as np
from keras import ops

from keras_transformer.testing.probes import LENGTH, other_words, repeated, source_and_target
from keras_transformer.testing.report import NotChecked, needs, pitfall


@pitfall("looks ahead")
def looks_ahead(subject):
    """Whether a target token changes logits before it, which shall predict it."""
    source, target = (repeated(ids[0]) for ids in source_and_target(subject))
    changed = np.arange(LENGTH)[1:]  # row j has another token j, row 0 is as it was
    target[changed, changed] = other_words(subject, target[changed, changed])
    logits = subject.run(source, target)
    for j in changed:
        if subject.differ(logits[j, :j], logits[0, :j]):
            return (
                f"changing target token {j} changes logits before it, which shall predict it: the decoder's self-attention lacks "
                "its causal mask, or the mask is inverted."
            )
    return None


@pitfall("ignores source order")
def ignores_source_order(subject):
    """Whether the order of the source's words is lost."""
    source, target = (repeated(ids[0]) for ids in source_and_target(subject))
    for row in range(1, len(source)):
        source[row, :-1] = np.roll(source[row, :-1], row)
    logits = subject.run(source, target)
    if not subject.differ(logits, repeated(logits[0])):
        return "the order of the source's words changes nothing: the encoder's input lacks positions, or the source is not read."
    return None


@pitfall("ignores target order")
def ignores_target_order(subject):
    """Whether a target position can tell how many stand before it."""
    source, target = source_and_target(subject)
    target[:] = subject.words[0]
    logits = subject.run(source, target)
    if not subject.differ(logits, np.repeat(logits[:, :1], LENGTH, axis=1)):
        return "a target of equal words gives equal logits at each position: the decoder's input lacks positions."
    return None


@pitfall("ignores the source")
def ignores_source(subject):
    """Whether the source changes anything."""
    source, target = source_and_target(subject)
    logits = subject.run(source, repeated(target[0]))
    if not subject.differ(logits, repeated(logits[0])):
        return "the source changes nothing: the decoder does not attend to the encoder's output."
    return None


@pitfall("same output")
def same_output(subject):
    """Whether anything changes anything."""
    logits = subject.run(*source_and_target(subject))
    if not subject.differ(logits, np.broadcast_to(logits[0, -1], logits.shape)):
        return "logits do not depend on the input at all: something cuts the model off from it."
    return None


@pitfall("depends on padding")
def depends_on_padding(subject):
    """Whether more padding, of source or target, changes logits of real tokens."""
    source, target = source_and_target(subject, length=LENGTH - 3)
    logits = subject.run(source, target)
    more = ((0, 0), (0, 3))
    for name, sides in (("source", (more, None)), ("target", (None, more))):
        padded = [
            ids if width is None else np.pad(ids, width, constant_values=subject.pad_id)
            for ids, width in zip((source, target), sides, strict=True)
        ]
        if subject.differ(subject.run(*padded)[:, : target.shape[1]], logits):
            return (
                f"padding appended to the {name} changes logits of real tokens: its padding mask is missing, inverted or lost on "
                "the way, or positions are counted from the wrong end."
            )
    return None


@pitfall("attends to source padding")
def attends_to_source_padding(subject):
    """Whether the vector of the padding id reaches logits of real tokens, padding being in the source alone."""
    needs(subject, "model")
    source, target = source_and_target(subject)
    source[:, -3:] = subject.pad_id
    source[:, -4] = subject.eos_id
    logits = subject.run(source, target)  # and builds the model, if that is still to be done
    sizes = subject.vocabulary_size, subject.source_vocabulary_size
    tables = [
        weight
        for weight in subject.model.weights
        if "embed" in weight.path and len(weight.shape) == 2 and weight.shape[0] in sizes
    ]
    if not tables:
        raise NotChecked("needs an embedding table (V, D) whose name contains 'embed'")
    before = [ops.convert_to_numpy(table) for table in tables]
    try:
        for table, values in zip(tables, before, strict=True):
            changed = values.copy()
            changed[subject.pad_id] += np.random.default_rng(1).normal(size=values.shape[1])
            table.assign(changed)
        moved = subject.run(source, target)
    finally:
        for table, values in zip(tables, before, strict=True):
            table.assign(values)
    # The score of the padding id itself may move: a tied table is the output projection too.
    if subject.differ(np.delete(moved, subject.pad_id, -1), np.delete(logits, subject.pad_id, -1)):
        return "the vector of the padding id reaches the logits: the source's padding is attended to."
    return None


@pitfall("mixes sentences")
def mixes_sentences(subject):
    """Whether a sentence changes the logits of another in its batch."""
    source, target = source_and_target(subject)
    logits = subject.run(source, target)
    source[1:, :-1] = other_words(subject, source[1:, :-1])
    target[1:, 1:] = other_words(subject, target[1:, 1:])
    if subject.differ(subject.run(source, target)[0], logits[0]):
        return "a sentence changes the logits of another in its batch: axes are mixed up, or something normalises over the batch."
    return None


@pitfall("random at inference")
def random_at_inference(subject):
    """Whether two calls with the same input differ."""
    source, target = source_and_target(subject)
    if subject.differ(subject.run(source, target), subject.run(source, target)):
        return "two calls with the same input give other logits: dropout is active outside of training."
    return None
