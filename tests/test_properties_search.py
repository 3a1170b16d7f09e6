"""Beam search against exhaustive search, over tables of logits with and without ties, and length penalties."""

import functools
import itertools

import keras
import numpy as np
from hypothesis import strategies as st
from keras import ops
from properties import forall, where_nothing_is_compiled

from keras_transformer.decoding import BeamSearch

PAD, BOS, EOS, USED = 0, 2, 3, 6  # ids from 6 on are never worth their score
ROWS = 11
SOURCE = np.array([[5, 4, 3, 0], [4, 3, 0, 0], [5, 5, 5, 3]], "int32")
# How many translations there are of up to so many tokens, ended by eos or cut off: of 3, 1 + 3 + 9 + 27. A beam is at most as wide
# as the vocabulary.
ALL = {1: 4, 2: 13, 3: 40}
# (length, V)
SIZES = where_nothing_is_compiled(st.tuples(st.sampled_from([1, 2, 3]), st.integers(40, 60)), fixed=(3, 40))


class TableModel:
    """Stands in for a Transformer: logits are a row of a table, chosen by source and tokens so far.

    The table is a variable, so that what was compiled for one serves for all.
    """

    pad_id, bos_id, eos_id = PAD, BOS, EOS

    def __init__(self, vocabulary_size):
        self.vocabulary_size = self.num_source_pieces = vocabulary_size
        self.table = keras.Variable(np.zeros((ROWS, vocabulary_size), "float32"))
        self.variables = (self.table,)

    def encode(self, source, source_mask):
        return ops.sum(source, axis=1, keepdims=True)

    def init_cache(self, encoder_output, beam_size, max_length):
        return {"history": ops.repeat(encoder_output, beam_size, axis=1)}  # (B, W)

    def decode_step(self, tokens, cache, step, source_mask):
        history = next_history(cache["history"], ops.reshape(tokens, ops.shape(cache["history"])))
        rows = ops.reshape(history, (-1,)) % ROWS
        return ops.take(ops.convert_to_tensor(self.table), rows, axis=0), {"history": history}

    def reorder_cache(self, cache, parents):
        return {"history": ops.take_along_axis(cache["history"], parents, axis=1)}

    def grow_cache(self, cache, max_length):
        return cache


def next_history(history, token):
    return (history * 31 + token * 7 + 1) % 9973


@functools.cache
def search_of(width, length_penalty, sizes):
    length, vocabulary_size = sizes
    return BeamSearch(TableModel(vocabulary_size), width, length_penalty, max_length=length)


def every_translation(table, source, length_penalty, max_length):
    """{tokens: score} of all translations of up to max_length tokens, in float64."""
    table = table.astype("float64")
    shifted = table - table.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    words = [token for token in range(USED) if token not in (PAD, BOS, EOS)]
    scores = {}
    for length in range(1, max_length + 1):
        for prefix in itertools.product(words, repeat=length - 1):
            for last in [EOS] if length < max_length else [EOS, *words]:
                tokens, history, score = (*prefix, last), int(source.sum()), 0.0
                for before, token in zip((BOS, *tokens), tokens, strict=False):
                    history = next_history(history, before)
                    score += logs[history % ROWS, token]
                scores[tokens] = score / ((5 + length) / 6) ** length_penalty
    return scores


def drawn_table(seed, tied, sizes):
    """Random logits; or integers that are their own log-probabilities, so that sums are exact and many are equal."""
    generator = np.random.default_rng(seed)
    table = np.full((ROWS, sizes[1]), -1e5, "float32")
    if tied:
        table[:, :USED] = generator.permuted(np.tile([0.0, -20, -20, -21, -21, -22], (ROWS, 1)), axis=1)
    else:
        table[:, :USED] = generator.normal(size=(ROWS, USED)) * 3
    return table


@forall(
    few=15,
    many=300,
    sizes=SIZES,
    seed=st.integers(0, 2**32 - 1),
    tied=st.booleans(),
    length_penalty=st.sampled_from([0.0, 1.0]),
)
def test_a_wide_beam_is_exhaustive(sizes, seed, tied, length_penalty):
    count = ALL[sizes[0]]
    search, table = search_of(count, length_penalty, sizes), drawn_table(seed, tied, sizes)
    search.model.table.assign(table)
    for source, ids, scores in zip(SOURCE, *search(SOURCE), strict=True):
        expected = every_translation(table, source, length_penalty, sizes[0])
        assert len(expected) == count
        found = [tuple(row[row != PAD].tolist()) for row in ids]
        assert set(found) == set(expected)
        np.testing.assert_allclose(scores, [expected[tokens] for tokens in found], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(scores, sorted(expected.values(), reverse=True), rtol=1e-5, atol=1e-5)


@forall(
    few=15,
    many=300,
    sizes=SIZES,
    width=where_nothing_is_compiled(st.integers(1, 4), fixed=2),
    seed=st.integers(0, 2**32 - 1),
    tied=st.booleans(),
)
def test_a_narrow_beam_finds_translations_with_their_true_scores(sizes, width, seed, tied):
    """Different ones, the best first; and none that search was to forbid."""
    search, table = search_of(width, 1.0, sizes), drawn_table(seed, tied, sizes)
    search.model.table.assign(table)
    for source, ids, scores in zip(SOURCE, *search(SOURCE), strict=True):
        expected = every_translation(table, source, 1.0, sizes[0])
        found = [tuple(row[row != PAD].tolist()) for row in ids]
        assert len(set(found)) == width
        assert (np.diff(scores) <= 0).all()
        np.testing.assert_allclose(scores, [expected[tokens] for tokens in found], rtol=1e-5, atol=1e-5)
