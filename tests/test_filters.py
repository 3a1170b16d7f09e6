import unicodedata

import numpy as np
import pytest

from keras_transformer.text import Filters, PairCounts, PairStream, read_pairs
from keras_transformer.text.filters import Sieve, _Digests

PAIRS = [
    ("a dog", "ein Hund", None),
    ("", "Hund", "empty"),
    ("x" * 11, "ein Hund", "max_characters"),
    ("a", "abcd", "max_ratio"),
    ("abcd", "a", "max_ratio"),
    ("Berlin", "Berlin", "identical"),
    ("a dog", "ein Hund", "duplicate"),
    ("a dog", "der Hund", None),  # only one side occurred before
    ("Berlin", "Berlin", "identical"),  # one reason a pair
    (None, "Hund", "bad_line"),
    ("abc", "a", None),  # exactly the ratio
    ("y" * 10, "abcd", None),  # exactly the length
]
ALL = Filters(max_characters=10, max_ratio=3, identical=True, duplicates=True)


def test_each_pair_is_counted_under_one_reason():
    sieve = Sieve(ALL)
    for source, target, reason in PAIRS:
        assert sieve.passes(source, target) == (reason is None), (source, target)
    expected = [reason for _, _, reason in PAIRS if reason]
    assert sieve.counts.dropped == {reason: expected.count(reason) for reason in dict.fromkeys(expected)}
    assert sieve.counts.lines == len(PAIRS) == sieve.counts.kept + sum(sieve.counts.dropped.values())


def test_without_filters_only_blank_sides_go():
    sieve = Sieve()
    assert [sieve.passes(s, t) for s, t, _ in PAIRS if s is not None].count(False) == 1


def test_the_stream_counts_again_each_time_it_is_read():
    source, target, _ = zip(*(pair for pair in PAIRS if pair[0] is not None), strict=True)
    stream = PairStream(list(source), list(target), filters=ALL)
    first, counts = list(stream), stream.counts
    assert list(stream) == first and stream.counts == counts
    assert read_pairs(list(source), list(target), filters=ALL).counts == counts


@pytest.mark.parametrize("form", ["NFC", "NFKC"])
def test_normalisation_comes_before_the_filters(form):
    texts = ["e\u0301 ﬁ", "\u00e9 ﬁ"]
    stream = PairStream(texts, ["x", "x"], normalization=form, filters=Filters(duplicates=True))
    assert [source for _, source, _ in stream] == [unicodedata.normalize(form, texts[0])]
    assert stream.counts.dropped == {"duplicate": 1}
    with pytest.raises(ValueError, match='normalization must be "NFC", "NFKC" or None'):
        PairStream(texts, texts, normalization="nfd")


def test_digests_are_a_set(monkeypatch):
    monkeypatch.setattr(_Digests, "_RECENT", 7)
    generator, digests, seen = np.random.default_rng(0), _Digests(), set()
    for number in generator.integers(0, 300, 1500).tolist():
        assert digests.add(f"text {number}") == (number in seen)
        seen.add(number)
    assert len(digests._sorted) + len(digests._recent) == len(seen) and len(digests._sorted) > 200


def test_counts_add_up_and_read_well():
    counts = PairCounts(5, 3, {"empty": 2}) + PairCounts(2, 1, {"identical": 1})
    assert counts == PairCounts(7, 4, {"empty": 2, "identical": 1})
    assert str(counts) == "4 of 7 pairs kept; left out: 2 for empty, 1 for identical"


@pytest.mark.parametrize(
    ("name", "wrong"), [("max_characters", 0), ("max_ratio", 0.5), ("max_ratio", "3"), ("max_ratio", True)]
)
def test_impossible_limits_are_refused(name, wrong):
    with pytest.raises(ValueError, match=f"{name} must be a number from 1, or None. Received: {wrong!r}"):
        Filters(**{name: wrong})


@pytest.mark.parametrize("wrong", [{"max_ratio": 9}, 3, Filters])
def test_other_things_than_filters_are_refused(wrong):
    with pytest.raises(ValueError, match="filters must be a Filters, or None. Received"):
        PairStream(["a"], ["b"], filters=wrong)


def test_no_pair_that_passes_says_why():
    with pytest.raises(ValueError, match="hold no pair that passes: 0 of 1 pairs kept; left out: 1 for identical"):
        read_pairs(["a"], ["a"], filters=Filters(identical=True))
