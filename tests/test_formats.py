"""Files of every kind give the same pairs."""

import gzip
import io
import json

import keras
import pytest

from keras_transformer.text import PairStream, read_lines

pa = pytest.importorskip("pyarrow")
zstandard = pytest.importorskip("zstandard")
pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
EN, DE = ["A dog runs.", "Two cats sleep.", "It rains 🌧."], ["Ein Hund rennt.", "Zwei Katzen schlafen.", "Es regnet 🌧."]
PAIRS = [(number, *pair) for number, pair in enumerate(zip(EN, DE, strict=True), start=1)]


def text(lines):
    return "".join(f"{line}\n" for line in lines).encode()


def tsv(order=(0, 1)):
    return text("\t".join((pair[order[0]], pair[order[1]])) for pair in zip(EN, DE, strict=True))


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_plain_gzip_and_zstd(tmp_path, squeeze):
    """Told by the content: the names say nothing."""
    (tmp_path / "a.en").write_bytes(squeeze(text(EN)))
    (tmp_path / "a.de").write_bytes(text(DE))
    assert list(PairStream(tmp_path / "a.en", tmp_path / "a.de")) == PAIRS


def test_zstd_of_several_frames_and_a_cut_one(tmp_path):
    compress = zstandard.ZstdCompressor().compress
    file = tmp_path / "a"
    file.write_bytes(compress(b"one\ntw") + compress(b"o\n") + compress(b"") + compress(b"three"))
    assert list(read_lines(file)) == ["one", "two", "three"]
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"  # as pzstd writes before each frame
    file.write_bytes(skippable + compress(b"one\ntwo\n") + skippable + compress(b"three"))
    assert list(read_lines(file)) == ["one", "two", "three"]
    whole = compress(text(EN) * 500)
    for content in (whole[:-5], compress(text(EN)) + whole[:20], b"\x28\xb5\x2f\xfd" + b"\xff" * 40):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is a damaged zstd file: .* Fetch or compress it again"):
            list(read_lines(file))


@pytest.mark.parametrize(("columns", "order"), [(None, (0, 1)), ((0, 1), (0, 1)), ((1, 0), (1, 0))])
def test_tsv(tmp_path, columns, order):
    (tmp_path / "a.tsv").write_bytes(tsv(order))
    assert list(PairStream(tmp_path / "a.tsv", columns=columns)) == PAIRS
    (tmp_path / "b.tsv.gz").write_bytes(gzip.compress(tsv(order)))
    assert list(PairStream(str(tmp_path / "b.tsv.gz"), columns=columns)) == PAIRS


def test_tsv_with_names_in_its_first_line(tmp_path):
    """The line is no pair, in no shard; lines keep their numbers."""
    for number in (1, 2):
        (tmp_path / f"{number}.tsv").write_bytes(b"id\tde\ten\n" + text(f"{n}\t{t}\t{s}" for n, s, t in PAIRS))
    stream = PairStream(tmp_path / "?.tsv", columns=("en", "de"))
    assert [tuple(pair) for _, *pair in stream] == 2 * [(s, t) for _, s, t in PAIRS]
    assert stream.counts.lines == 2 * len(PAIRS)
    assert stream.place(next(iter(stream))[0]) == f"{tmp_path}/1.tsv:2"
    with pytest.raises(ValueError, match=r"1.tsv:1 names the columns 'id', 'de', 'en'\. Expected 'fr' once"):
        list(PairStream(tmp_path / "1.tsv", columns=("en", "fr")))
    (tmp_path / "0.tsv").write_bytes(b"")
    with pytest.raises(ValueError, match="0.tsv:1 names the columns "):
        list(PairStream(tmp_path / "0.tsv", columns=("en", "de")))


@pytest.mark.parametrize("name", ["a.tsv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("columns", [("en",), "ab", ("a", 1), (0, -1), ("", "de"), (0.0, 1.0), 5])
def test_columns_that_can_be_none_are_refused(name, columns):
    with pytest.raises(ValueError, match=f"The columns of source and target in a {name[1:]} file are two "):
        PairStream(name, columns=columns)


@pytest.mark.parametrize(("name", "columns"), [("a.tsv", ("en", 1)), ("a.jsonl", (0, 1)), ("a.parquet", (0, 1))])
def test_columns_of_another_kind_of_file_are_refused(name, columns):
    with pytest.raises(ValueError, match="The columns of source and target .* are two (names|numbers from 0)"):
        PairStream(name, columns=columns)
    with pytest.raises(ValueError, match="Columns are of a .tsv, .jsonl or .parquet file"):
        PairStream("a.en", "a.de", columns=columns)


def test_jsonl_with_names_and_nested(tmp_path):
    rows = [{"id": n, "source": s, "target": t, "translation": {"en": s, "de": t}} for n, s, t in PAIRS]
    (tmp_path / "a.jsonl").write_bytes(text(json.dumps(row, ensure_ascii=n == 1) for n, row in enumerate(rows)))
    assert list(PairStream(tmp_path / "a.jsonl")) == PAIRS
    assert list(PairStream(tmp_path / "a.jsonl", columns=("translation.en", "translation.de"))) == PAIRS
    flat = [{"translation.en": s, "translation.de": t, "translation": 5} for _, s, t in PAIRS]
    (tmp_path / "b.jsonl").write_bytes(text(map(json.dumps, flat)))
    assert list(PairStream(tmp_path / "b.jsonl", columns=("translation.en", "translation.de"))) == PAIRS


def test_parquet_with_names_and_nested(tmp_path):
    import pyarrow.parquet as parquet

    nested = [{"en": s, "de": t} for _, s, t in PAIRS]
    parquet.write_table(
        pa.table({"source": EN, "target": DE, "translation": nested}), tmp_path / "a.parquet", row_group_size=2
    )
    assert list(PairStream(tmp_path / "a.parquet")) == PAIRS
    assert list(PairStream(tmp_path / "a.parquet", columns=("translation.en", "translation.de"))) == PAIRS
    flat = {"translation.en": EN, "translation.de": DE, "translation": nested}  # as Hugging Face's flatten names them
    parquet.write_table(pa.table(flat), tmp_path / "c.parquet")
    assert list(PairStream(tmp_path / "c.parquet", columns=("translation.en", "translation.de"))) == PAIRS
    with pytest.raises(ValueError, match="has no column 'en'. Found: 'source', 'target', 'translation'"):
        list(PairStream(tmp_path / "a.parquet", columns=("en", "de")))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match="is no readable Parquet file"):
        list(PairStream(tmp_path / "b.parquet"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.tsv", b"a\tb\nonly one\n", "a.tsv:2 has 1 columns, 2 are needed"),
        ("a.jsonl", b'{"source": "a", "target": "b"}\n{"source": \n', "a.jsonl:2 is not JSON"),
        ("a.jsonl", b'{"source": "a", "target": "b"}\n["a", "b"]\n', "a.jsonl:2 has no 'source'"),
        ("a.jsonl", b'{"source": "a", "target": "b"}\n5\n', "a.jsonl:2 has no 'source'. Found: 5"),
        ("a.jsonl", b'{"source": "a", "target": "b"}\n' + b"[" * 10**5 + b"\n", "a.jsonl:2 is not JSON: .*recursion"),
        ("a.jsonl", b'{"source": "a", "target": "b"}\n{"source": "a"}\n', "a.jsonl:2 has no 'target'. Found: 'source'"),
        ("a.jsonl", b'{"source": "a", "target": "b"}\n{"source": 5, "target": "b"}\n', "a.jsonl:2 holds 5 as 'source'"),
        ("a.jsonl", b'{"source": "a", "target": "b"}\n{"source": "\\ud800", "target": "b"}\n', "has a lone surrogate"),
        ("a.jsonl", b'{"source": "a", "target": "b"}\n{"source": "\\u0000", "target": "b"}\n', "a.jsonl:2 holds a NUL"),
    ],
)
def test_rows_that_are_none_are_refused_or_counted(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content + content.partition(b"\n")[0] + b"\n")
    with pytest.raises(ValueError, match=told):
        list(PairStream(tmp_path / name))
    stream = PairStream(tmp_path / name, on_bad_line="skip")
    assert [pair for _, *pair in stream] == [["a", "b"], ["a", "b"]]
    assert stream.counts.dropped == {"bad_line": 1} and stream.counts.lines == 3


def test_shards_are_read_in_the_order_of_their_names(tmp_path):
    for number, (s, t) in enumerate(zip(EN, DE, strict=True)):
        (tmp_path / f"train-{number}.en").write_bytes(text([s] * (number + 1)))
        (tmp_path / f"train-{number}.de").write_bytes(text([t] * (number + 1)))
    stream = PairStream(tmp_path / "train-*.en", tmp_path / "train-*.de")
    expected = [pair for number, pair in enumerate(zip(EN, DE, strict=True)) for _ in range(number + 1)]
    assert [pair for _, *pair in stream] == [list(pair) for pair in expected]
    assert [stream.place(line) for line in (1, 2, 6)] == [
        f"{tmp_path}/train-{n}.en:{m}" for n, m in ((0, 1), (1, 1), (2, 3))
    ]
    assert stream.place(4, "target") == f"{tmp_path}/train-2.de:1"
    assert list(read_lines(tmp_path / "train-*.en")) == [s for s, _ in expected]
    # shards of unequal length are told by name, although both sides have as many lines in all
    (tmp_path / "train-0.de").write_bytes(text([DE[0]] * 2))
    (tmp_path / "train-1.de").write_bytes(text([DE[1]]))
    with pytest.raises(ValueError, match=r"train-0.en has 1 lines, .*train-0.de has 2"):
        list(PairStream(tmp_path / "train-*.en", tmp_path / "train-*.de"))
    (tmp_path / "train-2.de").unlink()
    with pytest.raises(ValueError, match=r"names 3 files, .* names 2\."):
        PairStream(tmp_path / "train-*.en", tmp_path / "train-*.de")
    with pytest.raises(ValueError, match="No file matches"):
        PairStream(tmp_path / "other-*.en", tmp_path / "train-*.de")


def test_standard_input_for_one_side(tmp_path, monkeypatch):
    (tmp_path / "a.de").write_bytes(text(DE))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(gzip.compress(text(EN))))))
    assert list(PairStream("-", tmp_path / "a.de")) == PAIRS
    with pytest.raises(ValueError, match="Standard input cannot be both sides"):
        PairStream("-", "-")


def test_nothing_is_read_ahead_of_what_is_asked_for(tmp_path):
    """A corpus far larger than memory is met line by line."""

    class Endless(io.RawIOBase):
        read_so_far = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:] = b"a dog\n" * (len(buffer) // 6) + b" " * (len(buffer) % 6)
            Endless.read_so_far += len(buffer)
            return len(buffer)

    lines = read_lines(io.BufferedReader(Endless(), 6000))
    assert [next(lines) for _ in range(1500)] == ["a dog"] * 1500
    assert Endless.read_so_far <= 18_000


def test_both_sides_and_a_target_are_refused(tmp_path):
    (tmp_path / "a.tsv").write_bytes(tsv())
    with pytest.raises(ValueError, match="holds both sides, by its name"):
        PairStream(tmp_path / "a.tsv", tmp_path / "a.de")
    with pytest.raises(ValueError, match="There is no target for the source"):
        PairStream(tmp_path / "a.en")
    with pytest.raises(ValueError, match="is a folder. Text is read from files"):
        PairStream(tmp_path)


def test_a_missing_library_names_the_extra(tmp_path, monkeypatch):
    import importlib

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    (tmp_path / "a").write_bytes(zstandard.ZstdCompressor().compress(b"a"))
    with pytest.raises(ValueError, match=r"A zstd file needs zstandard.* Install keras-transformer\[data\]"):
        list(read_lines(tmp_path / "a"))
