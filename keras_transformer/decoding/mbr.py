"""Minimum Bayes risk: of many translations of a sentence, the one that the others agree with most.

After sampling.py, whose translations stand for the model's distribution. Kumar and Byrne 2004; Eikema and Aziz 2020 (over samples).
"""

import functools
import math
import numbers

from keras_transformer.decoding.hypotheses import Hypothesis


def minimum_bayes_risk(candidates, utility="chrf"):
    """The candidate whose mean utility against all candidates, itself left out, is highest; the first of equals.

    Args:
        candidates: list of translations of one sentence, str or Hypothesis, such as decoding.Sampling's.
        utility: "chrf" or "bleu", sacreBLEU's for sentences, or a function of a hypothesis and a reference, both str, that gives a
            number.

    Returns:
        The index of the candidate.

    Raises:
        ValueError: there is no candidate, one is no translation, no utility has that name, or the utility gave no finite number.

    Example:

    >>> from keras_transformer.decoding import minimum_bayes_risk
    >>> minimum_bayes_risk(["ein Hund rennt", "ein Hund rennt", "zwei Katzen"])
    0

    Reference: Eikema and Aziz 2020, section 5, https://aclanthology.org/2020.coling-main.398
    """
    if isinstance(candidates, str):
        raise ValueError(f"candidates must be a list of translations. Received: a single str, {candidates!r:.80}.")
    candidates = [one.text if isinstance(one, Hypothesis) else one for one in candidates]
    if not candidates:
        raise ValueError("minimum_bayes_risk needs at least one candidate. Received an empty list.")
    for one in candidates:
        if not isinstance(one, str):
            raise ValueError(f"A candidate must be a str or a Hypothesis. Received: {one!r}.")
    if not callable(utility):
        if utility not in ("chrf", "bleu"):
            raise ValueError(f'utility must be "chrf", "bleu" or a function. Received: {utility!r}.')
        utility = _sentence_utility(utility)

    @functools.cache  # samples repeat
    def gain(one, other):
        value = utility(one, other)
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ValueError(f"utility must give a finite number. Received: {value!r} for {one!r} against {other!r}.")
        return value

    totals = [
        sum(gain(one, other) for place, other in enumerate(candidates) if place != index)
        for index, one in enumerate(candidates)
    ]
    return totals.index(max(totals))


def _sentence_utility(name):
    import sacrebleu  # here, so that importing this package does not wait for it

    metric = sacrebleu.metrics.CHRF() if name == "chrf" else sacrebleu.metrics.BLEU(effective_order=True)
    return lambda hypothesis, reference: metric.sentence_score(hypothesis, [reference]).score
