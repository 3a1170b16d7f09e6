"""Several pairs in one line of a batch, so that hardly a position is padded. Needs no Keras.

Instead of buckets: all batches have one shape (B, S, T). Attention stays inside a pair by the segment ids that the batch carries
(Raffel et al. 2020, "T5", section 3.1.1, packs so too; Krell et al. 2021, "Efficient Sequence Packing without
Cross-contamination", packs by histogram as here).
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Packs:
    """Which pairs share a line.

    Args:
        pairs: numbers of all pairs, line by line.
        begins: of each line in them, and their number at the end.
        source_length: S.
        target_length: T.
    """

    pairs: np.ndarray
    begins: np.ndarray
    source_length: int
    target_length: int

    def __len__(self):
        return len(self.begins) - 1

    def lines(self, numbers):
        """(B, P) pairs of those lines; -1 for none. A line -1 holds none."""
        numbers = np.asarray(numbers)
        begins = self.begins[numbers]
        sizes = np.where(numbers < 0, 0, self.begins[np.minimum(numbers + 1, len(self))] - begins)
        places = np.arange(max(int(sizes.max()), 1))
        inside = places < sizes[:, None]
        return np.where(inside, self.pairs.take(begins[:, None] + places, mode="clip"), -1)


def pack(source_lengths, target_lengths, length):
    """Packs all pairs into lines of at most ``length`` positions on the longer side.

    The shorter side is as long as the corpus's proportion asks for. A line is filled with the largest pair that fits, again and
    again, keeping the two sides even; and what filled one line fills as many as there are pairs of the same lengths for. So the
    time depends on how many lengths there are, not on how many pairs.

    Args:
        source_lengths: of the pairs, none over ``length``.
        target_lengths: likewise.
        length: positions.

    Returns:
        Packs.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.text.packing import pack
    >>> packs = pack(np.array([4, 6, 3, 7]), np.array([4, 6, 3, 7]), length=10)
    >>> packs.lines([0, 1]).tolist()
    [[3, 2], [1, 0]]
    """
    source_length, target_length = _capacities(source_lengths, target_lengths, length)
    # Both lengths as one number, source first: sorting pairs of numbers takes many times as long.
    base = int(target_lengths.max()) + 1
    both = np.asarray(source_lengths, "int64") * base + target_lengths
    order = np.argsort(both, kind="stable")  # pairs, cell by cell
    cells, counts = np.unique(both[order], return_counts=True)
    cells = np.stack(np.divmod(cells, base))
    next_pair = np.cumsum(counts) - counts
    left = counts.copy()
    lines, sizes = [], []
    while left.any():
        pattern = _fill(cells, left, source_length, target_length)
        used, times = np.unique(pattern, return_counts=True)
        repeats = int((left[used] // times).min())
        block = np.empty((repeats, len(pattern)), "int64")
        column = 0
        for cell, number in zip(used, times, strict=True):
            taken = order[next_pair[cell] : next_pair[cell] + repeats * number]
            block[:, column : column + number] = taken.reshape(repeats, number)
            next_pair[cell] += repeats * number
            left[cell] -= repeats * number
            column += number
        block = block[:, ::-1]
        lines.append(block.ravel())
        sizes.append(np.full(repeats, len(pattern)))
    begins = np.append(0, np.cumsum(np.concatenate(sizes)))
    return Packs(np.concatenate(lines), begins, source_length, target_length)


def _capacities(source_lengths, target_lengths, length):
    totals = np.array([source_lengths.sum(), target_lengths.sum()], "float64")
    longest = np.array([source_lengths.max(), target_lengths.max()])
    wanted = np.ceil(length * totals / totals.max()).astype("int64")
    source_length, target_length = np.minimum(np.maximum(wanted, longest), length)
    return int(source_length), int(target_length)


def _fill(cells, left, source_length, target_length):
    """The cells whose pairs fill one line."""
    room = np.array([source_length, target_length])
    capacity = room.copy()
    available = left.copy()
    pattern = []
    while True:
        fits = np.flatnonzero((available > 0) & (cells[0] <= room[0]) & (cells[1] <= room[1]))
        if not fits.size:
            return np.array(pattern)
        rest = (room[:, None] - cells[:, fits]) / capacity[:, None]
        # Large pairs first; and what is left on one side beyond the other cannot be filled.
        best = fits[np.argmin(rest.sum(axis=0) / 2 + np.abs(rest[0] - rest[1]))]
        pattern.append(best)
        available[best] -= 1
        room = room - cells[:, best]
