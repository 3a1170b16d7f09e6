"""How good translations are, by sacreBLEU: each figure with its signature, a confidence interval, and paired tests.

After the translator. Papineni et al. 2002 (BLEU); Popović 2015 (chrF); Snover et al. 2006 (TER); Post 2018, "A Call for Clarity in
Reporting BLEU Scores"; Koehn 2004 (the bootstrap).
"""

import dataclasses

_RESAMPLES = 1000
# Sentences from which resampling says something: of a few it draws the same few again and again, and its intervals are too narrow.
FEWEST = 30


@dataclasses.dataclass(frozen=True)
class Score:
    """A figure and what it takes to reproduce it.

    Attributes:
        name: of the measure.
        value: the figure, from 0 to 100; TER may exceed it, and is the better the lower.
        signature: sacreBLEU's, with tokenisation, case and version.
    """

    name: str
    value: float
    signature: str

    def __str__(self):
        return f"{self.name} = {self.value:.2f} | {self.signature}"


@dataclasses.dataclass(frozen=True)
class Interval:
    """Where a figure lies in 95 % of the test sets that resampling makes of this one.

    Attributes:
        name: of the measure.
        mean: over the resamples.
        margin: half the interval's width.
        signature: sacreBLEU's, with the number of resamples and their seed.
    """

    name: str
    mean: float
    margin: float
    signature: str

    def __str__(self):
        return f"{self.name} 95 % interval: {self.mean:.2f} +- {self.margin:.2f} | {self.signature}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two outputs for the same references, by one measure.

    Attributes:
        name: of the measure.
        value: of the output judged.
        against: of the other.
        p_value: how often resampling makes so large a difference, of either sign, out of none; below 0.05 it counts as real. 1
            for equal figures, and where all resamples are alike, which tell nothing.
        signature: sacreBLEU's, with the number of resamples and their seed.
    """

    name: str
    value: float
    against: float
    p_value: float
    signature: str

    def __str__(self):
        difference = self.value - self.against
        figures = f"{difference:+.2f} ({self.value:.2f} against {self.against:.2f})"
        return f"{self.name} {figures}, p = {self.p_value:.4f} | {self.signature}"


def bleu(hypotheses, references, tokenize="13a"):
    """Corpus BLEU of translations against one reference each: cased, detokenised text.

    Args:
        hypotheses: list of str.
        references: list of str, as many.
        tokenize: sacreBLEU's tokenizer; "none" for text that is tokenised already. "spm", "flores101" and "flores200" fetch their
            model from the network at first use.

    Returns:
        A Score.

    Raises:
        ValueError: the lists differ in length or are empty, there is no such tokenizer, or it lacks a package.

    Example:

    >>> from keras_transformer.evaluation import bleu
    >>> print(bleu(["ein Hund rennt durch den Schnee"], ["ein Hund rennt durch den Schnee"]).value)
    100.0

    Reference: Post 2018, https://aclanthology.org/W18-6319
    """
    return _score("BLEU", _bleu(tokenize), hypotheses, references)


def scores(hypotheses, references, tokenize="13a"):
    """BLEU, chrF2 and TER.

    Args:
        hypotheses: list of str.
        references: list of str, as many.
        tokenize: of BLEU, as in ``bleu``; chrF counts characters, TER words between blanks.

    Returns:
        list of three Scores.

    Raises:
        ValueError: as ``bleu``.

    Example:

    >>> from keras_transformer.evaluation import scores
    >>> [(score.name, score.value) for score in scores(["ein Hund rennt weit"], ["ein Hund rennt weit"])]
    [('BLEU', 100.0), ('chrF2', 100.0), ('TER', 0.0)]
    """
    return [_score(name, metric, hypotheses, references) for name, metric in _metrics(tokenize).items()]


def intervals(hypotheses, references, tokenize="13a", resamples=_RESAMPLES):
    """95 % confidence intervals of BLEU, chrF2 and TER, by resampling sentences.

    They tell how far a figure depends on which sentences the test set happens to hold; not how far on the seed of training.

    Args:
        hypotheses: list of str.
        references: list of str, as many.
        tokenize: as in ``scores``.
        resamples: how many test sets are drawn.

    Returns:
        list of three Intervals. The seed is sacreBLEU's, 12345, or what SACREBLEU_SEED says.

    Raises:
        ValueError: as ``bleu``; or there are fewer than 30 sentences.

    Example:

    >>> from keras_transformer.evaluation import intervals
    >>> print(intervals(["ein Hund rennt weit"] * 30, ["ein Hund rennt weit"] * 30, resamples=10)[0].margin)
    0.0

    Reference: Koehn 2004, https://aclanthology.org/W04-3250
    """
    signatures, results = _paired([("translations", hypotheses)], references, tokenize, resamples)
    return [
        Interval(name, float(results[name][0].mean), float(results[name][0].ci), signature.format())
        for name, signature in signatures.items()
    ]


def compare(hypotheses, others, references, tokenize="13a", resamples=_RESAMPLES):
    """Whether two outputs for the same sentences differ by more than chance: paired bootstrap resampling.

    Args:
        hypotheses: list of str, the output judged.
        others: list of str, the output it is held against.
        references: list of str, as many.
        tokenize: as in ``scores``.
        resamples: how many test sets are drawn.

    Returns:
        list of three Comparisons, BLEU, chrF2 and TER.

    Raises:
        ValueError: as ``bleu``; or there are fewer than 30 sentences.

    Example:

    >>> from keras_transformer.evaluation import compare
    >>> same = ["ein Hund rennt weit", "eine Katze schläft"] * 15
    >>> [comparison.value - comparison.against for comparison in compare(same, same, same, resamples=10)]
    [0.0, 0.0, 0.0]

    Reference: Koehn 2004, https://aclanthology.org/W04-3250
    """
    systems = [("others", others), ("translations", hypotheses)]
    signatures, results = _paired(systems, references, tokenize, resamples)
    comparisons = []
    for name, signature in signatures.items():
        theirs, ours = results[name]
        # sacreBLEU gives 1 / (resamples + 1) to an output held against itself, and where no resample differs from another.
        alike = ours.score == theirs.score or ours.ci == theirs.ci == 0
        p_value = 1.0 if alike else float(ours.p_value)
        comparisons.append(Comparison(name, _figure(ours), _figure(theirs), p_value, signature.format()))
    return comparisons


def _score(name, metric, hypotheses, references):
    _check(hypotheses, references)
    value = _figure(metric.corpus_score(list(hypotheses), [list(references)]))
    return Score(name, value, metric.get_signature().format())


def _figure(result):
    """sacreBLEU's score as a number; its 100.00000000000004 as 100."""
    return float(round(result.score, 10))


def _paired(systems, references, tokenize, resamples):
    """sacreBLEU's paired bootstrap over outputs of which the first is the baseline: ({name: signature}, {name: results})."""
    for _, hypotheses in systems:
        _check(hypotheses, references)
    check_enough(len(references))
    from sacrebleu.significance import PairedTest

    named = [(name, list(hypotheses)) for name, hypotheses in systems]
    test = PairedTest(named, _metrics(tokenize), [list(references)], test_type="bs", n_samples=resamples)
    return test()


def _metrics(tokenize):
    from sacrebleu.metrics import CHRF, TER  # here, so that importing this package does not wait for it

    return {"BLEU": _bleu(tokenize), "chrF2": CHRF(), "TER": TER()}


def _bleu(tokenize):
    from sacrebleu.metrics import BLEU

    if tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"sacreBLEU has no tokenizer {tokenize!r}. Choose one of {', '.join(BLEU.TOKENIZERS)}.")
    try:
        # What was tokenised on purpose needs no warning that it looks tokenised.
        return BLEU(tokenize=tokenize, force=tokenize == "none")
    except (RuntimeError, ImportError) as error:  # Japanese and Korean need packages of their own
        reason = " ".join(str(error).split())
        raise ValueError(f"sacreBLEU's tokenizer {tokenize!r} is not ready: {reason}") from None


def check_enough(sentences):
    """Raises ValueError where there are too few sentences for ``intervals`` and ``compare``."""
    if sentences < FEWEST:
        raise ValueError(
            f"Resampling needs {FEWEST} sentences or more to tell anything. Received: {sentences}. Take a larger test set."
        )


def _check(hypotheses, references):
    for name, texts in (("hypotheses", hypotheses), ("references", references)):
        if isinstance(texts, str):  # else its letters would be scored, one by one
            raise ValueError(f"{name} must be a list of str. Received: a single str, {texts!r:.80}; give [text].")
    if len(hypotheses) != len(references) or not references:
        raise ValueError(
            "A score needs one reference for each translation, and at least one. "
            f"Received: {len(hypotheses)} translations, {len(references)} references."
        )
