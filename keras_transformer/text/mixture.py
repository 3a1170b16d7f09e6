"""Several corpora as one, mixed by weight. Needs no Keras."""

import dataclasses

# Times that the pairs of a mixture may be repeated in an epoch, on average over all of them: an epoch is dealt out in memory.
_MOST_REPEATS = 1000


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Corpora of which each gives its share of an epoch; none of their pairs is left out.

    The shares are the weights or, under a temperature, proportional to size^(1 / temperature): 1 leaves the corpora as large as
    they are, the higher the more equal. The corpus whose pairs are then rarest occurs once an epoch; the others are repeated: each
    pair as often as the share says, rounded down or up, and which are rounded up changes with the epoch.

    Args:
        corpora: list of what Batches takes as its text: PairStreams, tuples (source, target), files of both sides, folders of
            prepared text, which stay on disk. All are cut by one tokenizer.
        weights: a positive number for each; None for their sizes.
        temperature: from 1; applied to the weights.

    Raises:
        ValueError: there is no corpus, or an impossible weight or temperature; or, from Batches, an epoch would be more than 1000
            times as long as all corpora together.

    Example:

    >>> from keras_transformer.text import Mixture
    >>> mixture = Mixture([(["a"], ["A"]), (["b"] * 4, ["B"] * 4)], temperature=2)
    >>> mixture.repeats([1, 4])
    [2.0, 1.0]

    Reference: Arivazhagan et al. 2019, "Massively Multilingual Neural Machine Translation in the Wild", section 4.2.
    """

    corpora: list
    weights: list | None = None
    temperature: float = 1.0

    def __post_init__(self):
        if not self.corpora:
            raise ValueError("A Mixture needs at least one corpus. Received: none.")
        if self.weights is not None and len(self.weights) != len(self.corpora):
            raise ValueError(
                f"There must be a weight for each corpus. Received: {len(self.weights)} for {len(self.corpora)} corpora."
            )
        if not all(weight > 0 for weight in (() if self.weights is None else self.weights)):
            raise ValueError(f"Weights must be positive numbers. Received: {self.weights!r}.")
        if not self.temperature >= 1:
            raise ValueError(f"temperature must be a number from 1. Received: {self.temperature!r}.")

    def repeats(self, sizes):
        """How often a pair of each corpus occurs in an epoch, floats from 1; ``sizes`` are the corpora's numbers of pairs."""
        weights = sizes if self.weights is None else self.weights
        rates = [weight ** (1 / self.temperature) / size for weight, size in zip(weights, sizes, strict=True)]
        repeats = [rate / min(rates) for rate in rates]
        rows = sum(size * times for size, times in zip(sizes, repeats, strict=True))
        if not rows <= _MOST_REPEATS * sum(sizes):
            parts = ", ".join(f"{size:,} x {times:,.0f}" for size, times in zip(sizes, repeats, strict=True))
            raise ValueError(
                f"An epoch of this Mixture would have {rows:,.0f} pairs, so that each corpus has its share and none of its pairs "
                f"is left out: {parts}. At most {_MOST_REPEATS * sum(sizes):,} are dealt: give weights nearer to the sizes, a "
                "higher temperature, or leave the rarest corpus out."
            )
        return repeats
