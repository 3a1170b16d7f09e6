import pytest
from test_translator import TEXTS, TOKENIZER, TRANSLATOR

import keras_transformer as kt
from keras_transformer.file_translation import Counts, _Fits, _parts, complete_lines, shard, skip_lines, translate_lines

SEARCH = kt.decoding.GreedySearch(TRANSLATOR.model, max_length=5)


def translate(lines, **options):
    written, counts = [], Counts()
    for counts in translate_lines(TRANSLATOR, lines, written.extend, SEARCH, **options):  # noqa: B007
        pass
    return written, counts


def best(texts):
    return [found[0].text.replace("\n", " ") for found in TRANSLATOR.hypotheses(texts, SEARCH)]


@pytest.mark.parametrize("chunk_lines", [1, 3, 100])
def test_as_many_lines_out_as_in(chunk_lines):
    lines = [TEXTS[3], "", TEXTS[0], "  ", TEXTS[5]]
    written, counts = translate(lines, chunk_lines=chunk_lines)
    assert written == best(lines) and written[1] == written[3] == ""
    assert (counts.lines, counts.blank, counts.split) == (5, 2, 0)
    assert counts.cut_off == sum(not found[0].ended for found in TRANSLATOR.hypotheses(lines, SEARCH))


def test_a_stream_is_read_no_further_than_needed():
    read, written = [], []

    def lines():
        for line in TEXTS[:4]:
            read.append(line)
            yield line

    translation = translate_lines(TRANSLATOR, lines(), written.extend, SEARCH, chunk_lines=1)
    next(translation)
    assert len(read) == len(written) == 1


def test_over_long_lines_are_split_at_sentence_ends():
    sentences = ["a dog runs.", "a dog sees two cats!", "a dog"]
    longest = max(len(TOKENIZER.encode(sentence)) for sentence in sentences) + 1
    line = " ".join(sentences)
    written, counts = translate([line, sentences[2]], longest=longest)
    assert written[0] == " ".join(best(sentences)) and counts.split == 1 and counts.lines == 2
    whole, counts = translate([line], longest=1000)
    assert whole == best([line]) and counts.split == 0
    with pytest.raises(ValueError, match=rf"Line 7 has \d+ ids, and {longest} are allowed"):
        translate([sentences[2], line], longest=longest, over_long="refuse", first=6)
    with pytest.raises(ValueError, match=r"Line 14 has \d+ ids"):  # the third of every fourth line from the sixth on
        translate([sentences[2], "", line], longest=longest, over_long="refuse", first=6, stride=4)


def test_sentences_are_taken_together_as_they_stand():
    """No white space where there was none; what separates sentences stays within a part."""
    text = "a dog。two cats！a tree. a field"
    length = len(TOKENIZER.encode("a dog。two cats！")) + 1
    parts, broken = _parts(text, _Fits(TOKENIZER, length), "split", 1)
    assert not broken
    assert parts[0] == "a dog。two cats！" and " ".join(parts) == "a dog。two cats！ a tree. a field"
    assert _parts("a dog.  a cat. ", _Fits(TOKENIZER, 1000), "split", 1) == (["a dog.  a cat. "], False)


def test_what_has_no_sentence_end_is_split_between_words_and_holds_nobody_up():
    """The other lines are translated, every word once, and it is counted; by default, too."""
    words = "a dog runs and two cats see " * 200
    written, counts = translate([TEXTS[3], words, "z" * 3000, "a dog."])
    assert [written[0], written[3]] == best([TEXTS[3], "a dog."])
    assert (counts.lines, counts.split, counts.broken) == (4, 2, 2)
    assert "2 over-long and split, 2 of them within a sentence" in str(counts)
    for longest in (6, 9, 40):
        fits = _Fits(TOKENIZER, longest)
        parts, broken = _parts("a dog. " + words, fits, "split", 1)
        assert broken and all(map(fits, parts)) and " ".join(parts) == "a dog. " + words.strip()
        assert len(parts) < 2 * fits.length(words) / longest + 2
        parts, broken = _parts("two " + "z" * 300 + " cats", fits, "split", 1)
        assert broken and all(map(fits, parts)) and "".join(parts).replace(" ", "") == "two" + "z" * 300 + "cats"
    with pytest.raises(ValueError, match=r"Line 3 has the letter '語' of \d ids, and 2 are allowed"):
        _parts("語", _Fits(TOKENIZER, 2), "split", 3)


def test_phrases_belong_to_lines():
    search = kt.decoding.ConstrainedBeamSearch(TRANSLATOR.model, 3, max_length=12)
    include, avoid, written = [["dog"], [], [], ["two cats", "a"]], [[], ["a"], [], []], []
    lines, more = [TEXTS[1], TEXTS[1], "", TEXTS[2]], {"include": include, "avoid": avoid, "chunk_lines": 2}
    for _ in translate_lines(TRANSLATOR, lines, written.extend, search, **more):
        pass
    assert "dog" in written[0].split() and "a" not in written[1].split() and written[2] == ""
    assert "two cats" in written[3]
    with pytest.raises(ValueError, match=r"include needs phrases for each line.*none for line 5"):
        list(translate_lines(TRANSLATOR, [*lines, TEXTS[0]], written.extend, search, include=include))
    with pytest.raises(ValueError, match=r"No translation with all phrases was found for lines \[5\]"):  # behind 3
        for _ in translate_lines(
            TRANSLATOR, lines[:3], written.extend, search, include=include, avoid=include, first=5
        ):
            pass
    sentences = "a dog runs. a dog sees two cats!"
    with pytest.raises(ValueError, match="Line 1 has phrases and is over-long"):
        list(translate_lines(TRANSLATOR, [sentences], written.extend, search, include=[["a"]], longest=9))
    with pytest.raises(ValueError, match="need a decoding.ConstrainedBeamSearch. Received: a search of type Greedy"):
        TRANSLATOR.hypotheses(TEXTS[:1], SEARCH, include=[["a"]])
    with pytest.raises(ValueError, match="avoid must hold lists of phrases, each a str with some text. Received: ' '"):
        TRANSLATOR.hypotheses(TEXTS[:1], search, avoid=[[" "]])


def test_several_translations_of_a_line():
    search, written = kt.decoding.DiverseBeamSearch(TRANSLATOR.model, 4, groups=4, max_length=5), []
    for _ in translate_lines(TRANSLATOR, [TEXTS[2], ""], written.extend, search, n_best=3):
        pass
    found = TRANSLATOR.hypotheses([TEXTS[2]], search)[0]
    texts = [one.text for one in found[:3]]
    assert written == ["\t".join(texts) + "\t" * (3 - len(texts)), "\t\t"]


def test_shards_are_the_whole():
    lines = [str(n) for n in range(8)]
    shards = [list(shard(iter(lines), number, 3)) for number in (1, 2, 3)]
    assert shards == [["0", "3", "6"], ["1", "4", "7"], ["2", "5"]]
    with pytest.raises(ValueError, match="shards 1 to 3. Received: shard 4"):
        shard(lines, 4, 3)


def test_lines_that_are_done_are_skipped():
    assert list(skip_lines(iter("abc"), 2, "out")) == ["c"] and list(skip_lines("ab", 2, "out")) == []
    with pytest.raises(ValueError, match="out has 3 lines, and the text to translate only 2"):
        skip_lines("ab", 3, "out")


def test_a_broken_last_line_is_written_anew(tmp_path):
    path = tmp_path / "out"
    assert complete_lines(path) == 0
    path.write_bytes(b"ein Hund\n\nzwei Ka")
    assert complete_lines(path) == 2
    assert path.read_bytes() == b"ein Hund\n\n"


def test_impossible_arguments():
    for options, message in (
        ({"chunk_lines": 0}, "chunk_lines must be an integer from 1"),
        ({"longest": 1}, "longest must be an integer from 2"),
        ({"over_long": "cut"}, 'over_long must be "split" or "refuse"'),
    ):
        with pytest.raises(ValueError, match=message):
            translate(["a"], **options)


def test_counts():
    assert str(Counts(1200, 2, 1, 3, 60)) == (
        "1,200 lines, 20.0 a second; 2 blank; 1 over-long and split; 3 translations cut off at the limit of tokens"
    )
