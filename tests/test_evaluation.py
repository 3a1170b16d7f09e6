"""BLEU against a count by hand, and its signature."""

import math

import pytest

from keras_transformer.evaluation import bleu


def test_against_a_count_by_hand():
    # 6 of 7 words, 4 of 6 pairs, 2 of 5 triples, 1 of 4 quadruples; both 7 words long, so no brevity penalty
    score = bleu(["a b c d x f g"], ["a b c d e f g"])
    assert score.value == pytest.approx(100 * math.exp(sum(map(math.log, (6 / 7, 4 / 6, 2 / 5, 1 / 4))) / 4), abs=1e-4)


def test_case_and_punctuation_count():
    assert bleu(["Der Hund rennt weit."], ["der Hund rennt weit."]).value < 100


def test_line_holds_figure_and_signature():
    line = str(bleu(["ein Hund rennt durch Schnee"], ["ein Hund rennt durch Schnee"]))
    assert line.startswith("BLEU = 100.00 | nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")


@pytest.mark.parametrize(("hypotheses", "references"), [(["a"], ["a", "b"]), ([], [])])
def test_different_numbers_are_refused(hypotheses, references):
    with pytest.raises(ValueError, match=f"Received: {len(hypotheses)} translations, {len(references)} references"):
        bleu(hypotheses, references)
