import gzip
import io

import pytest

from keras_transformer.text import PairCounts, PairStream, read_lines, read_pairs

EN = ["A dog runs.", "Two cats sleep.", "It rains 🌧."]
DE = ["Ein Hund rennt.", "Zwei Katzen schlafen.", "Es regnet 🌧."]


def written(path, lines, end="\n"):
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def zipped(path, lines):
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


# Lines


def test_plain_and_gzip_give_the_same_lines(tmp_path):
    assert list(read_lines(written(tmp_path / "a.en", EN))) == EN
    assert list(read_lines(zipped(tmp_path / "a.en.gz", EN))) == EN
    assert list(read_lines(str(tmp_path / "a.en"))) == EN


def test_gzip_is_told_by_the_content_and_not_by_the_name(tmp_path):
    assert list(read_lines(zipped(tmp_path / "named_plain.txt", EN))) == EN
    assert list(read_lines(written(tmp_path / "named_zipped.gz", EN))) == EN


def test_gzip_of_several_members_is_read_to_its_end(tmp_path):
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    assert list(read_lines(file)) == ["one", "two"]


# str.splitlines and universal newlines would end a line at each of these, and shift one side against the other.
@pytest.mark.parametrize("mark", ["\r", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x85"])
def test_only_the_line_feed_ends_a_line(tmp_path, mark):
    assert len(f"a{mark}b".splitlines()) == 2
    assert list(read_lines(written(tmp_path / "a", [f"a{mark}b", "c"]))) == [f"a{mark}b", "c"]


def test_windows_line_ends_and_byte_order_mark_are_taken_off(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\xef\xbb\xbftwo\r\nthree\r\r\n")
    assert list(read_lines(file)) == ["one", "\ufefftwo", "three\r"]  # once, at the start and the end only


def test_last_line_counts_with_or_without_its_line_feed(tmp_path):
    for content, lines in ((b"a\nb", ["a", "b"]), (b"a\nb\n", ["a", "b"]), (b"a\n\n", ["a", ""]), (b"", [])):
        (tmp_path / "a").write_bytes(content)
        assert list(read_lines(tmp_path / "a")) == lines


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_invalid_utf8_names_file_line_and_column(tmp_path, compress):
    file = tmp_path / "latin1.de"
    file.write_bytes(compress("gut\nschön\n".encode("latin-1")))
    with pytest.raises(ValueError) as error:
        list(read_lines(file))
    message = str(error.value)
    assert message.startswith(f"{file}:2 is not UTF-8: byte 0xf6 at column 4. ")
    assert "Convert the file to UTF-8" in message


def test_missing_file_names_path_and_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        list(read_lines("train.en"))
    assert str(error.value) == f"There is no file train.en (looked in {tmp_path}). Check the path."


def test_folder_is_no_text(tmp_path):
    with pytest.raises(ValueError) as error:
        list(read_lines(tmp_path))
    assert str(error.value) == f"{tmp_path} cannot be read: Is a directory. Give a readable text file."


def test_damaged_gzip_is_told(tmp_path):
    whole = gzip.compress("\n".join(EN * 50).encode())
    file = tmp_path / "a.gz"
    wrong_sum = whole[:-8] + bytes([whole[-8] ^ 255]) + whole[-7:]
    wrong_data = whole[:10] + b"\xff" * 20 + whole[30:]
    for content in (whole[:-12], whole[:20], wrong_sum, wrong_data):
        file.write_bytes(content)
        with pytest.raises(ValueError) as error:
            list(read_lines(file))
        assert str(error.value).startswith(f"{file} is a damaged gzip file: ")
        assert str(error.value).endswith("Fetch or compress it again.")


# Pairs


@pytest.mark.parametrize("write_source", [written, zipped])
@pytest.mark.parametrize("write_target", [written, zipped])
def test_pairs_of_files(tmp_path, write_source, write_target):
    source, target = write_source(tmp_path / "a.en", EN), write_target(tmp_path / "a.de", DE)
    corpus = read_pairs(source, str(target))
    assert (corpus.source, corpus.target, corpus.lines, len(corpus)) == (EN, DE, [1, 2, 3], 3)
    assert (corpus.source_name, corpus.target_name) == (str(source), str(target))
    assert corpus.counts == PairCounts(lines=3, kept=3)


def test_pairs_of_lists_and_of_other_iterables():
    corpus = read_pairs(EN, DE)
    assert (corpus.source, corpus.target) == (EN, DE)
    assert (corpus.source_name, corpus.target_name) == ("source", "target")
    assert read_pairs(tuple(EN), (line for line in DE)) == corpus


def test_blank_sides_are_left_out_and_counted_and_lines_keep_their_numbers(tmp_path):
    source = ["a", "", "c", "d", "  \t", "f", "\u3000"]
    target = ["A", "B", "", " ", "", "F", "G"]
    expected = [(n, s, t) for n, (s, t) in enumerate(zip(source, target, strict=True), 1) if s.strip() and t.strip()]
    assert [n for n, _, _ in expected] == [1, 6]
    corpus = read_pairs(written(tmp_path / "s", source), written(tmp_path / "t", target))
    assert list(zip(corpus.lines, corpus.source, corpus.target, strict=True)) == expected
    assert corpus.counts == PairCounts(7, 2, {"empty": 5})


def test_different_line_counts_are_refused(tmp_path):
    source, target = written(tmp_path / "a.en", EN), zipped(tmp_path / "a.de.gz", DE[:2])
    with pytest.raises(ValueError) as error:
        read_pairs(source, target)
    message = str(error.value)
    assert message.startswith(f"{source} has 3 lines, {target} has 2. ")
    assert "Line n of one must translate line n of the other: give files of equal length." in message
    with pytest.raises(ValueError, match="source has 1 lines, target has 3"):
        read_pairs(EN[:1], DE)


def test_empty_text_is_refused_by_name(tmp_path):
    empty = written(tmp_path / "empty.de", [])
    with pytest.raises(ValueError) as error:
        read_pairs(EN, empty)
    assert str(error.value) == f"{empty} is empty. Give a text with one sentence a line."
    with pytest.raises(ValueError, match="^source is empty"):
        read_pairs([], DE)


def test_no_pair_left_is_refused():
    with pytest.raises(ValueError) as error:
        read_pairs(["a", " "], ["", "B"])
    assert "source and target hold no pair: on each of 2 lines a side is blank." in str(error.value)
    assert "Give files with text on both sides." in str(error.value)


@pytest.mark.parametrize(
    ("source", "received"),
    [
        (["a", 5], "Line 2 of source is of type int: 5."),
        ([b"a", "b"], "Line 1 of source is of type bytes: b'a'."),
        (b"ab", "source is of type bytes: b'ab'."),
        (None, "source is of type NoneType: None."),
        (7, "source is of type int: 7."),
    ],
)
def test_what_is_no_text_is_refused(source, received):
    with pytest.raises(ValueError) as error:
        read_pairs(source, ["A", "B"])
    assert str(error.value) == f"{received} Expected a file's path or a list of str."


@pytest.mark.parametrize(("text", "told"), [("b\ud83d", "has a lone surrogate"), ("b\0", "holds a NUL")])
def test_what_is_no_text_in_a_list_is_a_bad_line(text, told):
    source = ["a"] * 9000 + [text, "c"]
    with pytest.raises(ValueError, match=f"source:9001 {told}"):
        read_pairs(source, ["A"] * 9002)
    corpus = read_pairs(source, ["A"] * 9002, on_bad_line="skip")
    assert corpus.counts.dropped == {"bad_line": 1} and corpus.lines[-1] == 9002


def test_a_stream_has_the_same_rules_as_a_file():
    content = b"\xef\xbb\xbfone\rtwo\r\nthree"
    for data in (content, gzip.compress(content)):
        assert list(read_lines(io.BufferedReader(io.BytesIO(data)))) == ["one\rtwo", "three"]
    with pytest.raises(ValueError, match="the text:2 is not UTF-8"):
        list(read_lines(io.BufferedReader(io.BytesIO(b"a\n\xff"))))


def test_utf16_without_its_mark_is_no_text(tmp_path):
    """Of ASCII letters it is UTF-8 with a NUL beside each letter: none of it is kept in silence."""
    (tmp_path / "a").write_bytes("a dog\na cat\n".encode("utf-16-le") + b"\n")
    with pytest.raises(ValueError, match="a:1 holds a NUL, which is no text. Is the file UTF-16"):
        read_pairs(tmp_path / "a", ["A"] * 4)
    stream = PairStream(tmp_path / "a", ["A"] * 3, on_bad_line="skip")
    assert list(stream) == [] and stream.counts.dropped == {"bad_line": 3}
