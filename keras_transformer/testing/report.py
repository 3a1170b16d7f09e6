"""What a check says: ok, a finding in one sentence, or not checked; and all of them as a report."""

import dataclasses
import functools
import inspect
import re

from keras_transformer.testing.adapter import NotFinite, adapt

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

    @property
    def line(self):
        """As str, with the texts of all checks below each other."""
        width = max(map(len, CHECKS), default=0)
        return f"{self.verdict:<11}  {self.check:<{width}}  {self.text}".rstrip()


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
        """Whether something was looked for and nothing found; see not_checked for what was not looked for."""
        return not self.findings and len(self.not_checked) < len(self.results)

    def __str__(self):
        return "\n".join([*(result.line for result in self.results), self.summary])

    @property
    def summary(self):
        """How many of each, in a line."""
        passed = len(self.results) - len(self.findings) - len(self.not_checked)
        return f"{passed} ok, {len(self.findings)} found, {len(self.not_checked)} not checked"


class NotChecked(Exception):
    """Raised by a check that lacks what it needs; the message says what."""


# What every check says of itself below its first paragraphs. The example's model gives equal logits whatever it reads.
_COMMON = """

    Args:
        model: a kt.Transformer, or a testing.Seq2Seq of a model of another kind.

    Returns:
        A Finding: "ok", "finding" with a sentence, or "not checked" with what was missing or what the model raised.

    Raises:
        ValueError: the model is of another kind.

    Example:

    >>> from keras import ops
    >>> from keras_transformer import testing
    >>> constant = testing.Seq2Seq(lambda source, target: ops.zeros((*target.shape, 20)), vocabulary_size=20)
    >>> testing.{function}(constant).verdict
    {example!r}
"""


def pitfall(name, example=NOT_CHECKED, steady=True):
    """Registers a check under ``name``. It takes a Seq2Seq and returns a sentence, or None where all is well.

    What users call takes a model or a Seq2Seq, and returns a Finding. ``example`` is what it says of the constant model of the
    docstrings; ``steady``, whether it compares calls, which of a model that is random differ whatever is asked.
    """

    def register(function):
        @functools.wraps(function)
        def look(model):
            subject = adapt(model)
            try:
                if steady and subject.is_random:
                    raise NotChecked(
                        "the same input gives other logits at each call; see the check 'random at inference'"
                    )
                sentence = function(subject)
            except (NotChecked, NotFinite) as error:
                return Finding(name, NOT_CHECKED, str(error))
            except Exception as error:  # somebody's model, given what it was not made for
                return Finding(name, NOT_CHECKED, f"raised {type(error).__name__}: {_reason(error)}".rstrip(": "))
            return Finding(name, OK) if sentence is None else Finding(name, FINDING, sentence)

        look.__doc__ = function.__doc__.rstrip() + _COMMON.format(function=function.__name__, example=example)
        look.__signature__ = inspect.Signature([inspect.Parameter("model", inspect.Parameter.POSITIONAL_OR_KEYWORD)])
        CHECKS[name] = look
        return look

    return register


def _reason(error):
    """The first line of what it says; where Keras names the layer there, and the second too."""
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    return " ".join(lines[: 2 if lines and lines[0].startswith("Exception encountered when calling") else 1])


def needs(subject, *names):
    """Raises NotChecked unless the Seq2Seq has all of these."""
    for name in names:
        if getattr(subject, name) is None:
            raise NotChecked(f"needs {name}; see testing.Seq2Seq")


def check(model, batch=None, echo=None):
    """Looks for every pitfall.

    Args:
        model: a kt.Transformer, or a testing.Seq2Seq of a model of another kind.
        batch: ({"source": (B, S), "target": (B, T)}, labels (B, T)) as training gets them; None leaves the shift unchecked.
        echo: called with the line of each result as it comes; None for nothing.

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
    subject, results = adapt(model, batch), []
    for look in CHECKS.values():
        results.append(look(subject))
        if echo is not None:
            echo(results[-1].line)
    return Report(tuple(results))
