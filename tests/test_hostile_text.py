"""Forty hostile texts: each is refused with file and line, or what is left out is counted; and no pair is ever misaligned.

Every pair carries a sentinel, its number on both sides: a reader that splits a line too often, or too seldom, shifts one side
against the other, and the sentinels then differ. Each input is read in a stream, by Batches, and as prepared shards.
"""

import gzip
import re

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.text import Filters, PairStream, prepare

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")


TOKENIZER = kt.Tokenizer.train(["source target " + "".join(map(str, range(10)))] * 3, vocabulary_size=285)
NUMBER = re.compile(r"#(\d+)#")


def lines(side, count=12):
    return [f"{side} #{number}#".encode() for number in range(count)]


def within(mark):
    """A text with the mark in the middle of line 5."""
    return lambda side: b"\n".join(
        line.replace(b" ", b" " + mark + b" ") if number == 4 else line for number, line in enumerate(lines(side))
    )


def alone(content, place=5):
    """A text whose line 6 is that content alone."""
    return lambda side: b"\n".join([*lines(side)[:place], content, *lines(side)[place + 1 :]])


def whole(function):
    return lambda side: function(b"\n".join(lines(side)) + b"\n")


def plain(side):
    return b"\n".join(lines(side)) + b"\n"


# name: (content of a side, what becomes of it when it is the source, the target, or both)
# "kept": all twelve pairs; a reason: one pair is counted under it; "refused: ...": the error, a pattern.
TEXTS = {
    "lone CR within a line": (within(b"\r"), "kept"),
    "CR before the end of a line": (lambda side: b"\r\r\n".join(lines(side)), "kept"),
    "U+2028 line separator": (within("\u2028".encode()), "kept"),
    "U+2029 paragraph separator": (within("\u2029".encode()), "kept"),
    "U+0085 next line": (within("\x85".encode()), "kept"),
    "vertical tab, form feed, file separators": (within(b"\x0b\x0c\x1c\x1d\x1e"), "kept"),
    "byte order mark in front": (lambda side: b"\xef\xbb\xbf" + plain(side), "kept"),
    "byte order mark within": (within(b"\xef\xbb\xbf"), "kept"),
    "CRLF": (lambda side: b"\r\n".join(lines(side)) + b"\r\n", "kept"),
    "CRLF on some lines": (lambda side: plain(side).replace(b"\n", b"\r\n", 3), "kept"),
    "no line feed at the end": (lambda side: b"\n".join(lines(side)), "kept"),
    "NUL": (alone(b"a\x00b\x00"), "bad_line:6"),
    "control characters": (within(bytes(range(1, 9))), "kept"),
    "right-to-left override": (within("\u202e".encode()), "kept"),
    "zero-width joiners": (within("\u200d\u200b".encode()), "kept"),
    "an unassigned character": (within("\U000e0fff".encode()), "kept"),
    "decomposed letters": (within("e\u0301".encode()), "kept"),
    "emoji of several characters": (within("👩‍👩‍👧‍👦".encode()), "kept"),
    "special pieces as text": (within(b"</s> <pad> <s> <unk>"), "kept"),
    "SentencePiece's own space": (within("▁▁".encode()), "kept"),
    "tabs": (within(b"\t\t"), "kept"),
    "gzip": (whole(gzip.compress), "kept"),
    "gzip of several members": (lambda side: gzip.compress(plain(side)[:40]) + gzip.compress(plain(side)[40:]), "kept"),
    "a line of 1 MB": (alone(b"x" * 2**20), "max_characters"),
    "an empty line": (alone(b""), "empty"),
    "a line of spaces": (alone(b"   \t "), "empty"),
    "a line of wide spaces": (alone("\u3000\u00a0".encode()), "empty"),
    "a lone CR as a line": (alone(b"\r"), "empty"),
    "an empty last line": (lambda side: b"\n".join(lines(side)[:-1]) + b"\n\n", "empty"),
    "Latin-1": (alone("schön".encode("latin-1")), "bad_line:6"),
    "a cut character": (alone("ö".encode()[:1]), "bad_line:6"),
    "an overlong encoding": (alone(b"\xc0\xaf"), "bad_line:6"),
    "an encoded surrogate": (alone(b"\xed\xa0\x80"), "bad_line:6"),
    "UTF-16": (
        lambda side: "".join(f"{side} #{n}#\n" for n in range(12)).encode("utf-16"),
        "refused: not UTF-8|has \\d+ lines",
    ),
    "one line less": (lambda side: b"\n".join(lines(side)[:-1]), "unequal"),
    "one line more": (lambda side: plain(side) + b"more\n", "unequal"),
    "nothing": (lambda side: b"", "refused: is empty|are empty"),
    "one line feed": (lambda side: b"\n", "unequal: hold no pair"),
    "cut gzip": (lambda side: gzip.compress(plain(side) * 50)[:-12], "refused: is a damaged gzip file|has \\d+ lines"),
    "a gzip head before text": (lambda side: b"\x1f\x8b" + plain(side), "refused: is a damaged gzip file"),
}


# What only surrounds the text leaves no trace in it.
SAME_TEXT = {"byte order mark in front", "CRLF", "CRLF on some lines", "no line feed at the end", "gzip"}
SAME_TEXT |= {"gzip of several members"}


def test_forty_faults_are_tried():
    assert TEXTS.keys() >= SAME_TEXT
    assert len(TEXTS) == 40


def numbers(texts):
    return [NUMBER.search(text).group(1) for text in texts]


@pytest.fixture
def files(tmp_path, request):
    content, _ = TEXTS[request.param[0]]
    for side in ("source", "target"):
        text = content(side) if request.param[1] in (side, "both") else plain(side)
        (tmp_path / side).write_bytes(text)
    return tmp_path / "source", tmp_path / "target"


CASES = [(name, side) for name in TEXTS for side in ("source", "target", "both")]


def read(files, **kwargs):
    stream = PairStream(*files, filters=Filters(max_characters=2**16), **kwargs)
    return stream, list(stream)


@pytest.mark.counts("40 bad texts as source, as target, as both", 1, "refused with file and line, or counted")
@pytest.mark.parametrize(
    ("files", "case"), [(case, case) for case in CASES], indirect=["files"], ids=map(" / ".join, CASES)
)
def test_refused_with_its_place_or_counted_and_never_misaligned(files, case):
    name, side = case
    fate = TEXTS[name][1]
    blamed = files[1] if side == "target" else files[0]
    if fate.startswith("bad_line"):
        with pytest.raises(
            ValueError, match=re.escape(f"{blamed}:{fate.partition(':')[2]} ") + "(is not UTF-8|holds a NUL)"
        ):
            read(files)
        stream, pairs = read(files, on_bad_line="skip")
        fate = "bad_line"
    elif fate.startswith("refused"):
        with pytest.raises(ValueError, match=fate.partition(": ")[2]):
            read(files)
        return
    elif fate.startswith("unequal") and side != "both":
        with pytest.raises(ValueError, match=r"has \d+ lines, .* has \d+\. Line n of one must translate"):
            read(files)
        return
    elif fate == "unequal: hold no pair":
        with pytest.raises(ValueError, match="hold no pair: on each of 1 lines a side is blank"):
            kt.Batches(*files, TOKENIZER)
        return
    else:
        stream, pairs = read(files)
    if fate == "unequal":  # on both sides alike: the texts are of equal length
        aligned = [pair for pair in pairs if NUMBER.search(pair[1])]
        assert numbers(s for _, s, _ in aligned) == numbers(t for _, _, t in aligned) and len(aligned) >= 11
        return
    expected = set(range(12)) if fate == "kept" else set(range(12)) - {11 if name == "an empty last line" else 5}
    assert [int(n) for n in numbers(s for _, s, _ in pairs)] == sorted(expected)
    assert numbers(s for _, s, _ in pairs) == numbers(t for _, _, t in pairs)
    assert stream.counts.dropped == ({} if fate == "kept" else {fate: 1})
    assert stream.counts.lines == 12 == stream.counts.kept + sum(stream.counts.dropped.values())
    assert [line for line, *_ in pairs] == [number + 1 for number in sorted(expected)]
    if name in SAME_TEXT:
        assert [pair[1:] for pair in pairs] == [(f"source #{n}#", f"target #{n}#") for n in range(12)]


def served_numbers(batches):
    """The sentinels of both sides of every row that is served."""
    found = []
    for place in range(len(batches)):
        inputs, labels = batches[place]
        sides = TOKENIZER.decode(inputs["source"]), TOKENIZER.decode(labels)
        found += [(numbers([s])[0], numbers([t])[0]) for s, t in zip(*sides, strict=True) if s]
    return sorted(found, key=lambda pair: int(pair[0]))


def test_batches_and_shards_keep_every_pair_together(tmp_path):
    """All that is kept of the forty, one after the other in one corpus, with bad lines skipped."""
    sides, kept, bad = {"source": b"", "target": b""}, 0, 0
    for name, (content, fate) in TEXTS.items():
        if (
            fate.startswith(("refused", "unequal"))
            or "gzip" in name
            or "byte order mark in front" in name
            or "last" in name
        ):
            continue
        for side in sides:
            text = content(side).removesuffix(b"\n")
            sides[side] += re.sub(rb"#(\d+)#", lambda found, n=kept: b"#%d#" % (int(found[1]) + 100 * n), text) + b"\n"
        kept, bad = kept + 1, bad + (fate != "kept")
    for side, text in sides.items():
        (tmp_path / side).write_bytes(text)
    stream = PairStream(
        tmp_path / "source", tmp_path / "target", filters=Filters(max_characters=2**16), on_bad_line="skip"
    )
    expected = 12 * kept - bad
    batches = kt.Batches(stream, None, TOKENIZER, batch_tokens=2048)
    found = served_numbers(batches)
    assert len(found) == expected == batches.num_pairs and all(s == t for s, t in found)
    assert sum(batches.skipped.values()) == bad
    pytest.importorskip("pyarrow")
    counts = prepare(stream, TOKENIZER, tmp_path / "prepared", shard_pairs=50, num_workers=0)
    assert (counts.kept, counts.lines) == (expected, 12 * kept)
    assert served_numbers(kt.Batches(tmp_path / "prepared", batch_tokens=2048)) == found


def test_text_of_which_no_piece_is_left_is_counted():
    """A byte order mark alone is no blank to Python, but nothing to the tokenizer's normalisation."""
    invisible = "\u200b\ufeff"
    tokenizer = kt.Tokenizer.train(["a dog"] * 3, vocabulary_size=270, normalization="nmt_nfkc")
    assert tokenizer.encode(invisible) == [] and invisible.strip()
    batches = kt.Batches([invisible, "a dog"], ["a", "a"], tokenizer)
    assert batches.num_pairs == 1 and batches.skipped["empty"] == 1


def test_a_line_without_end_is_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("keras_transformer.text.formats.MOST_BYTES", 1000)
    text = b"\n".join([b"one", b"x" * 5000, b"y" * 999, b"four"])
    (tmp_path / "source").write_bytes(text)
    (tmp_path / "target").write_bytes(b"1\n2\n3\n4")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path}/source:2 is longer than 1,000 bytes")):
        list(PairStream(tmp_path / "source", tmp_path / "target"))
    stream = PairStream(tmp_path / "source", tmp_path / "target", on_bad_line="skip")
    assert [(n, s[:4], t) for n, s, t in stream] == [(1, "one", "1"), (3, "yyyy", "3"), (4, "four", "4")]
    assert stream.counts.dropped == {"bad_line": 1}


def test_ids_are_the_same_from_text_and_from_shards(tmp_path):
    pytest.importorskip("pyarrow")
    texts = ["source #1#", "source #22#", "source #333# and more"] * 5
    stream = PairStream(texts, texts)
    prepare(stream, TOKENIZER, tmp_path / "prepared", shard_pairs=4, num_workers=0)
    one, other = (
        kt.Batches(texts, texts, TOKENIZER, batch_tokens=128),
        kt.Batches(tmp_path / "prepared", batch_tokens=128),
    )
    assert len(one) == len(other)
    for place in range(len(one)):
        (a, b), (c, d) = one[place], other[place]
        assert np.array_equal(a["source"], c["source"]) and np.array_equal(b, d)
