"""Texts and ids drawn at random: refused or counted by a plain rule that is written here once more, and never misaligned."""

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies

from keras_transformer.inputs import IdCheck
from keras_transformer.text import PairStream

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="depends on no backend, and runs on one")
LIMITS = {"deadline": None, "database": None, "derandomize": True}
LIMITS["suppress_health_check"] = list(hypothesis.HealthCheck)


def decoded(line):
    try:
        return None if b"\0" in line else line.decode("utf-8")
    except UnicodeDecodeError:
        return None


LINE = strategies.one_of(
    strategies.binary(max_size=12).filter(lambda line: b"\n" not in line),
    strategies.text(strategies.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=12).map(
        str.encode
    ),
    strategies.sampled_from([b"\r", b"\xe2\x80\xa8", b"\x0b", b"\x85", b"\xef\xbb\xbf", b"\x00", b"\xff", b"\xc3"]),
)


@pytest.mark.parametrize("examples", [60, pytest.param(2000, marks=pytest.mark.deep)])
def test_pairs_of_lines_stay_together(tmp_path, figure, examples):
    """Any bytes but a line feed between a mark at the beginning and its number at the end of each line."""
    pairs, kept = 0, 0

    @hypothesis.settings(max_examples=-(-examples // 10), **LIMITS)
    @hypothesis.given(strategies.lists(strategies.tuples(LINE, LINE), min_size=10, max_size=10))
    def read(lines):
        nonlocal pairs, kept
        marked = [
            [b"<" + line + f"#{number}>".encode() for number, line in enumerate(side, start=1)]
            for side in zip(*lines, strict=True)
        ]
        for name, side in zip(("source", "target"), marked, strict=True):
            (tmp_path / name).write_bytes(b"\n".join(side) + b"\n")
        stream = PairStream(tmp_path / "source", tmp_path / "target", on_bad_line="skip")
        expected = [
            (number, *map(decoded, sides))
            for number, sides in enumerate(zip(*marked, strict=True), start=1)
            if None not in map(decoded, sides)
        ]
        assert list(stream) == expected
        bad = len(lines) - len(expected)
        assert stream.counts.dropped == ({"bad_line": bad} if bad else {})
        pairs, kept = pairs + len(lines), kept + len(expected)

    read()
    figure(
        f"lines of any bytes, {examples:,} pairs of them",
        pairs,
        "pairs that are UTF-8 without NUL whole, the others counted",
        backend=False,
    )
    assert pairs >= examples and 0 < kept < pairs


IDS = strategies.one_of(
    strategies.integers(0, 9),
    strategies.integers(-3, 12),
    strategies.sampled_from([-(2**31), 2**31, 2**33 + 1, 2**63 - 1]),
)
SHAPES = strategies.sampled_from([(2, 3)] * 6 + [(2, 4), (1, 3), (3,), (2, 3, 1), (0, 3), (2, 0), ()])
DTYPES = strategies.sampled_from(["int64"] * 4 + ["int32", "uint64", "float64", "bool"])


@strategies.composite
def drawn_ids(draw):
    shape, dtype = draw(SHAPES), draw(DTYPES)
    rarely = draw(strategies.sampled_from([strategies.integers(0, 9)] * 3 + [IDS]))
    ids = [draw(rarely) for _ in range(int(np.prod(shape)))]
    return np.array(ids, "int64").reshape(shape).astype(dtype)


@pytest.mark.parametrize("examples", [60, pytest.param(1000, marks=pytest.mark.deep)])
def test_batches_of_ids_are_refused_by_the_rule(figure, examples):
    taken = refused = 0

    @hypothesis.settings(max_examples=examples, **LIMITS)
    @hypothesis.given(drawn_ids(), drawn_ids(), drawn_ids())
    def check(source, target, labels):
        nonlocal taken, refused
        arrays = source, target, labels
        good = bool(
            all(ids.dtype.kind in "iu" and ids.ndim == 2 and ids.size and ids.min() >= 0 for ids in arrays)
            and all(ids.max() < 10 for ids in arrays)
            and len(source) == len(target)
            and target.shape == labels.shape
        )
        batch = {"source": source, "target": target}, labels
        if good:
            IdCheck(10, needs_labels=True).batch(*batch)
        else:
            with pytest.raises(ValueError, match="Expected|Received"):
                IdCheck(10, needs_labels=True).batch(*batch)
        taken, refused = taken + good, refused + (not good)

    check()
    figure(f"batches of ids, {examples:,} of them", taken + refused, "refused, or whole", backend=False)
    assert taken + refused >= examples and taken > examples // 50 and refused
