"""What a check says: ok, a finding in one sentence, or not checked; and all of them as a report."""

import dataclasses
import functools

from keras_transformer.testing.adapter import adapt

OK, FINDING, NOT_CHECKED = "ok", "finding", "not checked"

CHECKS = {}


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: its name.
        verdict: "ok", "finding" or "not checked", which is never counted as passed.
        text: what is wrong and where to look; or what was missing; empty where all is well.
    """

    check: str
    verdict: str
    text: str = ""

    def __str__(self):
        return f"{self.verdict:<11}  {self.check}  {self.text}".rstrip()


@dataclasses.dataclass(frozen=True)
class Report:
    """The results of all checks, in their order.

    Attributes:
        results: tuple of Finding.
    """

    results: tuple

    @property
    def findings(self):
        """Those that found something."""
        return [result for result in self.results if result.verdict == FINDING]

    @property
    def not_checked(self):
        """Those that lacked something."""
        return [result for result in self.results if result.verdict == NOT_CHECKED]

    @property
    def ok(self):
        """Whether nothing was found; see not_checked for what was not looked for."""
        return not self.findings

    def __str__(self):
        width = max(len(result.check) for result in self.results)
        lines = [str(dataclasses.replace(result, check=f"{result.check:<{width}}")) for result in self.results]
        passed = len(self.results) - len(self.findings) - len(self.not_checked)
        lines.append(f"{passed} ok, {len(self.findings)} found, {len(self.not_checked)} not checked")
        return "\n".join(lines)


class NotChecked(Exception):
    """Raised by a check that lacks what it needs; the message says what."""


def pitfall(name):
    """Registers a check under ``name``. It takes a Seq2Seq and returns a sentence, or None where all is well.

    What users call takes a model or a Seq2Seq, and returns a Finding.
    """

    def register(function):
        @functools.wraps(function)
        def check(model):
            try:
                sentence = function(adapt(model))
            except NotChecked as error:
                return Finding(name, NOT_CHECKED, str(error))
            return Finding(name, OK) if sentence is None else Finding(name, FINDING, sentence)

        CHECKS[name] = check
        return check

    return register


def needs(subject, *names):
    """Raises NotChecked unless the Seq2Seq has all of these."""
    for name in names:
        if getattr(subject, name) is None:
            raise NotChecked(f"needs {name}; see testing.Seq2Seq")


def check(model, batch=None):
    """Looks for every pitfall.

    Args:
        model: a kt.Transformer, or a testing.Seq2Seq of a model of another kind.
        batch: ({"source": (B, S), "target": (B, T)}, labels (B, T)) as training gets them; None leaves the shift unchecked.

    Returns:
        A Report.

    Raises:
        ValueError: the model is of another kind.

    Example:

    >>> import keras_transformer as kt
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1, seed=1)
    >>> kt.testing.looks_ahead(model).verdict  # one check; kt.testing.check(model) makes all
    'ok'
    """
    subject = adapt(model, batch)
    return Report(tuple(check(subject) for check in CHECKS.values()))
