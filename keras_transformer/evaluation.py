"""BLEU of translations, by sacreBLEU and with its signature, so that a figure can be compared with others'.

After the translator. Papineni et al. 2002 (BLEU); Post 2018, "A Call for Clarity in Reporting BLEU Scores".
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Score:
    """A figure and what it takes to reproduce it.

    Attributes:
        name: of the measure.
        value: the figure, from 0 to 100.
        signature: sacreBLEU's, with tokenisation, case and version.
    """

    name: str
    value: float
    signature: str

    def __str__(self):
        return f"{self.name} = {self.value:.2f} | {self.signature}"


def bleu(hypotheses, references):
    """Corpus BLEU of translations against one reference each: cased, detokenised text.

    Args:
        hypotheses: list of str.
        references: list of str, as many.

    Returns:
        A Score.

    Raises:
        ValueError: the lists differ in length or are empty.

    Example:

    >>> from keras_transformer.evaluation import bleu
    >>> print(bleu(["ein Hund rennt durch den Schnee"], ["ein Hund rennt durch den Schnee"]).value)
    100.0

    Reference: Post 2018, https://aclanthology.org/W18-6319
    """
    if len(hypotheses) != len(references) or not references:
        raise ValueError(
            "BLEU needs one reference for each translation, and at least one. "
            f"Received: {len(hypotheses)} translations, {len(references)} references."
        )
    import sacrebleu  # here, so that importing this package does not wait for it

    metric = sacrebleu.metrics.BLEU()
    value = min(
        metric.corpus_score(list(hypotheses), [list(references)]).score, 100.0
    )  # rounding gives 100.00000000000004
    return Score("BLEU", value, metric.get_signature().format())
