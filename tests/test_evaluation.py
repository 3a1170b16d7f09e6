"""Scores against counts by hand, their signatures, intervals against a bootstrap by hand, paired tests on known cases."""

import dataclasses
import math

import numpy as np
import pytest
from click.testing import CliRunner

import keras_transformer as kt
from keras_transformer.cli import main
from keras_transformer.evaluation import bleu, compare, intervals, scores

REFERENCES = [f"der Hund Nummer {number} rennt durch den tiefen Schnee" for number in range(40)]
# Every third has a wrong word, of five that follow each other.
WORSE = [line.replace("rennt", "geht") if number % 3 == 0 else line for number, line in enumerate(REFERENCES)]


def test_against_a_count_by_hand():
    # 6 of 7 words, 4 of 6 pairs, 2 of 5 triples, 1 of 4 quadruples; both 7 words long, so no brevity penalty
    score = bleu(["a b c d x f g"], ["a b c d e f g"])
    assert score.value == pytest.approx(100 * math.exp(sum(map(math.log, (6 / 7, 4 / 6, 2 / 5, 1 / 4))) / 4), abs=1e-4)


def test_case_and_punctuation_count():
    assert bleu(["Der Hund rennt weit."], ["der Hund rennt weit."]).value < 100


def test_line_holds_figure_and_signature():
    line = str(bleu(["ein Hund rennt durch Schnee"], ["ein Hund rennt durch Schnee"]))
    assert line.startswith("BLEU = 100.00 | nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_three_measures_with_signatures():
    found = scores(["a b c d x f g"], ["a b c d e f g"])
    assert [score.name for score in found] == ["BLEU", "chrF2", "TER"]
    assert found[0] == bleu(["a b c d x f g"], ["a b c d e f g"])
    assert found[2].value == pytest.approx(100 / 7)  # one of seven words to exchange
    assert "nc:6|nw:0" in found[1].signature and "tok:tercom" in found[2].signature


def test_text_that_is_tokenised_already():
    hypotheses, references = ["ein hund , der rennt .-"], ["ein hund , der rennt .-"]
    score = bleu(hypotheses, references, tokenize="none")
    assert score.value == 100 and "|tok:none|" in score.signature
    with pytest.raises(ValueError, match="no tokenizer '14a'. Choose one of none"):
        bleu(hypotheses, references, tokenize="14a")


@pytest.mark.parametrize(("hypotheses", "references"), [(["a"], ["a", "b"]), ([], [])])
def test_different_numbers_are_refused(hypotheses, references):
    for function in (bleu, scores, intervals):
        with pytest.raises(ValueError, match=f"Received: {len(hypotheses)} translations, {len(references)} references"):
            function(hypotheses, references)


@pytest.mark.parametrize(("hypotheses", "references"), [("ab cd", ["ab cd"]), (["ab cd"], "ab cd"), ("ab cd", "ab cd")])
def test_a_text_in_place_of_a_list_is_refused(hypotheses, references):
    """Letters of equal texts would score 0."""
    for function in (bleu, scores, intervals):
        with pytest.raises(ValueError, match=r"must be a list of str. Received: a single str, 'ab cd'; give \[text\]"):
            function(hypotheses, references)


def test_interval_is_that_of_resampled_sentences():
    """TER by hand: edits over words, both summed over the sentences drawn; a third of the lines has one edit of 9 words."""
    _, _, ter = intervals(WORSE, REFERENCES, resamples=300)
    edits = np.array([one != other for one, other in zip(WORSE, REFERENCES, strict=True)], float)
    drawn = np.random.default_rng(0).integers(0, 40, (4000, 40))
    resampled = np.sort(100 * edits[drawn].mean(axis=1) / 9)
    assert ter.mean == pytest.approx(resampled.mean(), abs=0.15)
    assert ter.margin == pytest.approx((resampled[-100] - resampled[100]) / 2, rel=0.15)
    assert "bs:300|seed:12345" in ter.signature
    assert str(ter).startswith(f"TER 95 % interval: {ter.mean:.2f} +- {ter.margin:.2f} | nrefs:1|bs:300")


def test_a_real_difference_is_told_from_none():
    better = compare(REFERENCES, WORSE, REFERENCES, resamples=200)
    assert [comparison.name for comparison in better] == ["BLEU", "chrF2", "TER"]
    assert all(comparison.p_value < 0.05 for comparison in better)
    assert better[0].value == 100 and better[0].against < 100 and better[2].value < better[2].against
    # The same errors in other sentences: no difference but chance.
    rolled = [line.replace("rennt", "geht") if number % 3 == 1 else line for number, line in enumerate(REFERENCES)]
    assert all(comparison.p_value > 0.2 for comparison in compare(WORSE, rolled, REFERENCES, resamples=200))
    same = compare(WORSE, WORSE, REFERENCES, resamples=20)
    assert all(comparison.p_value == 1 for comparison in same)
    assert str(dataclasses.replace(same[0], signature="s")).endswith(", p = 1.0000 | s")


def test_a_few_sentences_have_no_interval_and_no_test():
    """Of one, sacreBLEU would say +- 0.00 and p = 0.001: all resamples are it."""
    for number in (1, 29):
        lines = REFERENCES[:number]
        for function in (lambda lines=lines: intervals(lines, lines), lambda lines=lines: compare(lines, lines, lines)):
            with pytest.raises(ValueError, match=f"needs 30 sentences or more to tell anything. Received: {number}"):
                function()
    assert bleu(REFERENCES[:1], REFERENCES[:1]).value == 100


def test_resamples_that_are_all_alike_tell_nothing():
    one, other = ["der Hund rennt weit fort"] * 30, ["der Hund geht weit fort"] * 30
    assert [comparison.p_value for comparison in compare(one, other, one, resamples=20)] == [1, 1, 1]


@pytest.mark.parametrize("tokenize", ["ja-mecab", "ko-mecab"])
def test_a_tokenizer_whose_package_is_missing_is_one_error(tokenize, monkeypatch):
    import sacrebleu.metrics.bleu as metric

    def missing(name):
        def tokenizer():
            raise RuntimeError("Please install the latter:\n\n  pip install it")

        return tokenizer

    monkeypatch.setattr(metric, "_get_tokenizer", missing)
    with pytest.raises(
        ValueError, match=f"tokenizer '{tokenize}' is not ready: Please install the latter: pip install it"
    ):
        bleu(["a"], ["a"], tokenize=tokenize)


@pytest.fixture
def translations(monkeypatch):
    """Stands in for a model: the command line then does the rest."""

    class Fixed:
        def translate(self, source, **_):
            return [WORSE[int(line.split()[1])] for line in source]

    monkeypatch.setattr(kt.Translator, "load", lambda *_: Fixed())


@pytest.mark.usefixtures("translations")
def test_command_line_against_another_output(tmp_path):
    """Line 4 of the source is blank: it counts on no side."""
    source = [f"sentence {number}" if number != 3 else "" for number in range(40)]
    for name, lines in (("source", source), ("target", REFERENCES), ("other", REFERENCES), ("short", REFERENCES[1:])):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    files = ["--source", str(tmp_path / "source"), "--target", str(tmp_path / "target")]
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path), *files, "--against", str(tmp_path / "other")])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    kept = [number for number in range(40) if number != 3]
    expected = scores([WORSE[number] for number in kept], [REFERENCES[number] for number in kept])
    assert lines[:3] == [str(score) for score in expected]
    assert [line.split()[0] for line in lines[3:6]] == ["BLEU", "chrF2", "TER"]
    assert lines[7].startswith("BLEU -") and "against 100.00), p = 0.0" in lines[7]
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path), *files, "--against", str(tmp_path / "short")])
    assert result.exit_code == 1 and "must have a line for each of 40 lines" in result.output
    for name, lines in (("source", source), ("target", REFERENCES), ("other", REFERENCES)):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines[:3]), encoding="utf-8")
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path), *files])
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 3
    assert "No intervals: 3 sentences are too few" in result.stderr
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path), *files, "--against", str(tmp_path / "other")])
    assert result.exit_code == 1 and "needs 30 sentences or more" in result.output
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path), *files, "--tokenize", "14a"])
    assert result.exit_code == 1 and "no tokenizer '14a'" in result.output
