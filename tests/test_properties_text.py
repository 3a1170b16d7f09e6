"""Tokenizer and batches over anything that may come: Unicode of all kinds, lengths, budgets, seeds. No backend takes part."""

import functools

import numpy as np
import pytest
from hypothesis import strategies as st
from properties import forall

import keras_transformer as kt

# All characters but halves of surrogate pairs, which UTF-8 cannot write.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@functools.cache
def tokenizer_of(normalization):
    lines = ["the quick brown fox jumps over the lazy dog", "Straße, Œuvre, 東京, Ελλάδα, ﬁnal"]
    return kt.Tokenizer.train(lines, vocabulary_size=330, normalization=normalization)


@forall(few=60, many=5000, text=TEXT)
def test_a_text_comes_back_but_for_its_spaces(text):
    """Runs of spaces become one, those at the ends none; "▁" is a space."""
    tokenizer = tokenizer_of("identity")
    ids = tokenizer.encode(text, add_bos=True, add_eos=True)
    assert tokenizer.decode(ids) == " ".join(part for part in text.replace("▁", " ").split(" ") if part)
    assert tokenizer.unk_id not in ids


@forall(few=60, many=5000, text=TEXT)
def test_what_was_normalised_once_comes_back_as_it_is(text):
    tokenizer = tokenizer_of("nfkc")
    normalised = tokenizer.decode(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(normalised)) == normalised


class Numbers:
    """Stands in for a Tokenizer: text is ids with blanks between."""

    vocabulary_size, pad_id, bos_id, eos_id = 10**6, 0, 2, 3

    def encode(self, texts, add_bos=False, add_eos=False):
        return [[2] * add_bos + [int(word) for word in text.split()] + [3] * add_eos for text in texts]


LENGTHS = st.lists(st.tuples(st.integers(1, 14), st.integers(1, 14)), min_size=1, max_size=40)


def pairs_of(lengths):
    """For each pair a number of its own, repeated: {number: (source length, target length)} and both sides as texts."""
    numbers = range(100, 100 + len(lengths))
    sides = zip(*[(f"{n} " * a, f"{n} " * b) for n, (a, b) in zip(numbers, lengths, strict=True)], strict=True)
    return dict(zip(numbers, lengths, strict=True)), *map(list, sides)


@forall(
    few=25,
    many=1000,
    lengths=LENGTHS,
    batch_tokens=st.integers(8, 100),
    num_buckets=st.integers(1, 5),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 10**6),
    shuffle=st.booleans(),
)
def test_batches(lengths, batch_tokens, num_buckets, seed, epoch, shuffle):
    """Every pair that fits once; the budget kept; target and labels a position apart; the order a function of seed and epoch."""
    numbers, source, target = pairs_of(lengths)
    fits = {n: pair for n, pair in numbers.items() if max(pair) + 1 <= batch_tokens}
    options = {"batch_tokens": batch_tokens, "num_buckets": num_buckets, "seed": seed, "shuffle": shuffle}
    if not fits:
        with pytest.raises(ValueError, match="No pair of"):
            kt.Batches(source, target, Numbers(), **options)
        return
    batches, again = (kt.Batches(source, target, Numbers(), **options) for _ in range(2))
    assert batches.skipped == {"empty": 0, "max_length": 0, "batch_tokens": len(numbers) - len(fits)}
    served = []
    batches.set_epoch(epoch)
    again.set_epoch(epoch + 1)
    _ = again[0]
    again.set_epoch(epoch)
    for index in range(len(batches)):
        inputs, labels = batches[index]
        rows = inputs["source"], inputs["target"], labels
        for one, other in zip(rows, (*again[index][0].values(), again[index][1]), strict=True):
            np.testing.assert_array_equal(one, other)
        assert len(labels) * max(rows[0].shape[1], rows[1].shape[1]) <= batch_tokens
        served += [tuple(x[x != 0].tolist() for x in row) for row in zip(*rows, strict=True)]
    served = [row for row in served if row[0]]  # the others fill up a batch
    expected = [([n] * a + [3], [2] + [n] * b, [n] * b + [3]) for n, (a, b) in fits.items()]
    assert sorted(served) == sorted(expected)
    assert len(set(batches.shapes)) == len(batches.shapes) <= num_buckets


def test_another_seed_and_another_epoch_give_another_order():
    """Of forty pairs in some ten batches: that two orders are one by chance happens once in millions."""
    _, source, target = pairs_of([(3, 3)] * 40)

    def order(seed, epoch):
        batches = kt.Batches(source, target, Numbers(), batch_tokens=16, num_buckets=1, seed=seed)
        batches.set_epoch(epoch)
        return np.concatenate([batches[index][0]["source"][:, 0] for index in range(len(batches))]).tolist()

    orders = [order(seed, epoch) for seed in (1, 2, 3) for epoch in (0, 1, 2)]
    assert len({tuple(one) for one in orders}) == len(orders)
    assert all(sorted(one) == sorted(orders[0]) for one in orders)
