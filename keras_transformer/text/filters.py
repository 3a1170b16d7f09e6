"""Which pairs of a corpus are kept; every pair left out is counted under one reason.

Between reading and batches. A filter looks at text alone: what is too long in pieces is left out, and counted, where the
tokenizer is known. Needs no Keras.
"""

import dataclasses
import hashlib

import numpy as np

# Reasons, in the order in which they are looked for: a pair is counted under the first that holds.
REASONS = ("bad_line", "empty", "max_characters", "max_ratio", "identical", "duplicate")


@dataclasses.dataclass(frozen=True)
class PairCounts:
    """What became of the lines of a corpus: ``lines = kept + sum(dropped.values())``.

    Args:
        lines: line pairs read.
        kept: pairs in the corpus.
        dropped: {reason: pairs left out for it}.
    """

    lines: int
    kept: int
    dropped: dict = dataclasses.field(default_factory=dict)

    @property
    def empty(self):
        """Pairs left out because a side is blank."""
        return self.dropped.get("empty", 0)

    def __add__(self, other):
        reasons = [*self.dropped, *(reason for reason in other.dropped if reason not in self.dropped)]
        dropped = {reason: self.dropped.get(reason, 0) + other.dropped.get(reason, 0) for reason in reasons}
        return PairCounts(self.lines + other.lines, self.kept + other.kept, dropped)

    def __str__(self):
        left_out = ", ".join(f"{count:,} for {reason}" for reason, count in self.dropped.items() if count)
        return f"{self.kept:,} of {self.lines:,} pairs kept; left out: {left_out or 'none'}"


@dataclasses.dataclass(frozen=True)
class Filters:
    """Rules for pairs of text. A pair of which a side is blank is always left out.

    Args:
        max_characters: of either side; None for no limit.
        max_ratio: of the longer side to the shorter, in characters; None for no limit.
        identical: True leaves out pairs whose sides are equal, as in text that was not translated.
        duplicates: True leaves out a pair that occurred before, wherever; some 10 bytes of memory a pair.

    Raises:
        ValueError: an impossible limit.

    Example:

    >>> from keras_transformer.text import Filters, read_pairs
    >>> corpus = read_pairs(["a dog", "a dog", "Berlin"], ["ein Hund", "ein Hund", "Berlin"],
    ...                     filters=Filters(identical=True, duplicates=True))
    >>> corpus.source, corpus.counts.dropped
    (['a dog'], {'identical': 1, 'duplicate': 1})
    """

    max_characters: int | None = None
    max_ratio: float | None = None
    identical: bool = False
    duplicates: bool = False

    def __post_init__(self):
        for name, least in (("max_characters", 1), ("max_ratio", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < least):
                raise ValueError(f"{name} must be a number from {least}, or None. Received: {value!r}.")


class Sieve:
    """Filters at work on one corpus, and what they counted so far.

    Args:
        filters: Filters; None to leave out only pairs of which a side is blank.
    """

    def __init__(self, filters=None):
        self.filters = filters or Filters()
        self._seen = _Digests() if self.filters.duplicates else None
        self._counts = dict.fromkeys(REASONS, 0)
        self._lines = 0

    @property
    def counts(self):
        dropped = {reason: count for reason, count in self._counts.items() if count}
        return PairCounts(self._lines, self._lines - sum(dropped.values()), dropped)

    def passes(self, source, target):
        """Whether the pair is kept; None stands for a side that could not be read."""
        self._lines += 1
        reason = self._reason(source, target)
        if reason is not None:
            self._counts[reason] += 1
        return reason is None

    def _reason(self, source, target):
        filters = self.filters
        if source is None or target is None:
            return "bad_line"
        if not source.strip() or not target.strip():
            return "empty"
        shorter, longer = sorted((len(source), len(target)))
        if filters.max_characters is not None and longer > filters.max_characters:
            return "max_characters"
        if filters.max_ratio is not None and longer > filters.max_ratio * shorter:
            return "max_ratio"
        if filters.identical and source == target:
            return "identical"
        if self._seen is not None and self._seen.add(f"{source}\n{target}"):
            return "duplicate"
        return None


class _Digests:
    """A set of texts as 64-bit digests: some 10 bytes each, where a set of Python's takes about 100.

    Two different texts of n share a digest with a chance below n * n / 2**65: 3 in a million for 10 million.
    """

    _RECENT = 2**16

    def __init__(self):
        self._sorted = np.zeros(0, "uint64")
        self._recent = set()  # and those since it was sorted

    def add(self, text):
        """Whether the text was there before; it is from now on."""
        digest = int.from_bytes(
            hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
        )
        if digest in self._recent or self._is_sorted(digest):
            return True
        self._recent.add(digest)
        # A 64th: little memory beside the array, which is merged 64 times while it doubles, in nanoseconds a digest.
        if len(self._recent) >= max(self._RECENT, len(self._sorted) // 64):
            self._settle()
        return False

    def _is_sorted(self, digest):
        place = self._sorted.searchsorted(np.uint64(digest))
        return place < len(self._sorted) and int(self._sorted[place]) == digest

    def _settle(self):
        recent = np.fromiter(self._recent, "uint64", len(self._recent))
        recent.sort()
        self._recent.clear()
        self._sorted = np.concatenate([self._sorted, recent])
        self._sorted.sort(kind="stable")  # which merges what is sorted in parts
