"""Minimum Bayes risk: of many translations of a sentence, the one that the others agree with most.

After sampling.py, whose translations stand for the model's distribution. Kumar and Byrne 2004; Eikema and Aziz 2020 (over samples).
"""

import functools


def minimum_bayes_risk(candidates, utility="chrf"):
    """The candidate whose mean utility against all candidates, itself left out, is highest; the first of equals.

    Args:
        candidates: list of str, translations of one sentence, such as the samples of decoding.Sampling.
        utility: "chrf" or "bleu", sacreBLEU's for sentences, or a function of a hypothesis and a reference that gives a number.

    Returns:
        The index of the candidate.

    Raises:
        ValueError: there is no candidate, or no utility of that name.

    Example:

    >>> from keras_transformer.decoding import minimum_bayes_risk
    >>> minimum_bayes_risk(["ein Hund rennt", "ein Hund rennt", "zwei Katzen"])
    0

    Reference: Eikema and Aziz 2020, section 5, https://aclanthology.org/2020.coling-main.398
    """
    candidates = list(candidates)
    if not candidates:
        raise ValueError("minimum_bayes_risk needs at least one candidate. Received an empty list.")
    if not callable(utility):
        if utility not in ("chrf", "bleu"):
            raise ValueError(f'utility must be "chrf", "bleu" or a function. Received: {utility!r}.')
        utility = _sentence_utility(utility)
    gain = functools.cache(utility)  # samples repeat
    totals = [
        sum(gain(one, other) for place, other in enumerate(candidates) if place != index)
        for index, one in enumerate(candidates)
    ]
    return totals.index(max(totals))


def _sentence_utility(name):
    import sacrebleu  # here, so that importing this package does not wait for it

    metric = sacrebleu.metrics.CHRF() if name == "chrf" else sacrebleu.metrics.BLEU(effective_order=True)
    return lambda hypothesis, reference: metric.sentence_score(hypothesis, [reference]).score
