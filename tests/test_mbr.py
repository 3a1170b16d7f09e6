import pytest

from keras_transformer.decoding import Hypothesis, minimum_bayes_risk


def test_the_one_the_others_agree_with():
    def utility(one, other):
        return {"a": {"b": 3, "c": 1}, "b": {"a": 2, "c": 9}, "c": {"a": 0, "b": 0}}[one][other]

    assert minimum_bayes_risk(["a", "b", "c"], utility) == 1
    assert minimum_bayes_risk(["a", "c"], utility) == 0
    assert minimum_bayes_risk(["c"], utility) == 0


@pytest.mark.parametrize("utility", ["chrf", "bleu"])
def test_sacrebleu_s_utilities(utility):
    candidates = ["zwei Katzen schlafen", "ein Hund rennt schnell davon", "ein Hund rennt schnell weg"]
    assert minimum_bayes_risk(candidates, utility) == 1
    assert minimum_bayes_risk([*candidates, "ein Hund rennt schnell weg"], utility) == 2


def test_impossible_arguments():
    with pytest.raises(ValueError, match="at least one candidate"):
        minimum_bayes_risk([])
    with pytest.raises(ValueError, match="must be a list of translations. Received: a single str, 'ein Hund'"):
        minimum_bayes_risk("ein Hund")
    with pytest.raises(ValueError, match='utility must be "chrf"'):
        minimum_bayes_risk(["a"], "comet")
    with pytest.raises(ValueError, match="must be a str or a Hypothesis. Received: 3"):
        minimum_bayes_risk(["a", 3])
    for value in (float("nan"), None):
        with pytest.raises(ValueError, match=f"must give a finite number. Received: {value} for 'a' against 'b'"):
            minimum_bayes_risk(["a", "b"], lambda one, other: value)  # noqa: B023


def test_hypotheses_are_compared_by_their_texts():
    texts = ["zwei Katzen", "ein Hund rennt", "ein Hund"]
    assert minimum_bayes_risk([Hypothesis(text, -1.0, [5, 3], True) for text in texts]) == minimum_bayes_risk(texts) > 0
