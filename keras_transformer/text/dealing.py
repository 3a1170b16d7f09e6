"""Which pairs an epoch has, bucket by bucket, and in what order its batches come. Under batches.py; needs no Keras."""

import dataclasses
import itertools

import numpy as np

from keras_transformer.text.packing import Packs


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Pairs or lines of a bucket, each as often as an epoch asks for.

    Args:
        members: their numbers.
        whole: how often each occurs in every epoch.
        rests: list of (places among the members, how many of them occur once more).
        times: how often each occurs, on average; None for once.
    """

    members: np.ndarray
    whole: np.ndarray | None
    rests: list
    times: np.ndarray | None

    @property
    def number(self):
        """How many an epoch has, the same in each."""
        whole = len(self.members) if self.whole is None else int(self.whole.sum())
        return whole + sum(more for _, more in self.rests)

    def total(self, lengths):
        """The sum over an epoch of what each member has; on average, in a mixture."""
        return int(lengths.sum()) if self.times is None else round(float((lengths * self.times).sum()))

    def of_epoch(self, bits, shuffle):
        """The members of one epoch, in its order."""
        members = self.members if self.whole is None else np.repeat(self.members, self.whole)
        for places, more in self.rests:
            chosen = np.argsort(bits.random_raw(len(places)), kind="stable")[:more] if shuffle else slice(more)
            members = np.append(members, self.members[places[chosen]])
        return members[np.argsort(bits.random_raw(len(members)), kind="stable")] if shuffle else members


def repeated(members, repeats):
    """A Repeated of members (N,), each ``repeats`` (N,) times an epoch, or once if that is None."""
    if repeats is None:
        return Repeated(members, None, [], None)
    whole = np.floor(repeats + 1e-9).astype("int64")
    rests = []
    for rate in np.unique(repeats - whole):
        places = np.flatnonzero(repeats - whole == rate)
        more = round(float(rate) * len(places))
        if more > 0:
            rests.append((places, more))
    return Repeated(members, whole, rests, repeats)


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Pairs, or lines of packed pairs, that share one shape."""

    repeated: Repeated
    packs: Packs | None
    rows: int
    source_length: int
    target_length: int
    num_batches: int
    num_pairs: int
    source_tokens: int
    target_tokens: int

    @property
    def shape(self):
        return self.rows, self.source_length, self.target_length


def with_different_start(plan):
    """Brings to the front two batches that differ in S, and in T, where these differ at all.

    Keras on TensorFlow reads the sizes of a dataset off its first two batches and takes for fixed what is equal in both.
    Such two always exist: if a and b differ in S alone, any c of another T than theirs differs from a or from b in S as
    well.
    """
    first_places = {}  # of each (S, T)
    for place, (bucket, _) in enumerate(plan):
        first_places.setdefault((bucket.source_length, bucket.target_length), place)
    varying = [side for side in (0, 1) if len({lengths[side] for lengths in first_places}) > 1]
    if not varying:
        return plan
    first, second = next(
        (first_places[a], first_places[b])
        for a, b in itertools.combinations(first_places, 2)
        if all(a[side] != b[side] for side in varying)
    )
    rest = [batch for place, batch in enumerate(plan) if place not in (first, second)]
    return [plan[first], plan[second], *rest]
