"""Which shapes batches have: chosen from the corpus's lengths so that few positions are padded. Needs no Keras.

Every distinct shape costs a compilation on JAX, and every padded position costs what a real one costs.
"""

import numpy as np

# Lengths tried as S or T of a shape. The search costs the fourth power; beyond about 40 the padding hardly falls.
_GRID = 40
_PART = 2**20


def group_by_shape(source_lengths, target_lengths, num_buckets):
    """Parts the pairs into at most num_buckets groups so that few positions are padded; a list of index arrays.

    A pair fits into a shape when neither of its sides is longer; it goes into the smallest that fits. Shapes are points
    of a grid of lengths: each in turn is taken out and put where it saves most, until nothing changes.
    """
    source_grid, source_cells = _grid_cells(source_lengths)
    target_grid, target_cells = _grid_cells(target_lengths)
    pair_cells = source_cells * np.int16(len(target_grid)) + target_cells
    occurring = _counts(pair_cells, len(source_grid) * len(target_grid))
    cells = np.flatnonzero(occurring)  # those that hold pairs
    weights = occurring[cells]
    rows, columns = np.divmod(np.arange(len(occurring)), len(target_grid))
    sizes = source_grid[rows].astype("int64") + target_grid[columns]
    fits = (rows[:, None] >= rows[cells]) & (columns[:, None] >= columns[cells])  # fits[shape, cell]

    def cost(shapes):
        """Positions each cell's pairs take in the smallest of the shapes that fits."""
        return np.where(fits[shapes], sizes[shapes][:, None], sizes[-1]).min(axis=0)

    def best_addition(shapes):
        saved = np.where(fits, np.maximum(cost(shapes) - sizes[:, None], 0), 0) @ weights
        return int(np.argmax(saved))

    shapes = [len(sizes) - 1] * min(num_buckets, len(weights))  # the largest, which fits all; the first stays
    improved = True
    while improved:
        improved = False
        for place in range(1, len(shapes)):
            others = shapes[:place] + shapes[place + 1 :]
            moved = [*others[:place], best_addition(others), *others[place:]]
            if cost(moved) @ weights < cost(shapes) @ weights:
                shapes, improved = moved, True
    choice = np.where(fits[shapes], sizes[shapes][:, None], sizes[-1] + 1).argmin(axis=0)
    choices = np.zeros(len(occurring), "int16")
    choices[cells] = choice
    of_pair = choices[pair_cells]
    return [np.flatnonzero(of_pair == group).astype("int32") for group in np.unique(choice)]


def _grid_cells(lengths):
    """At most _GRID of the lengths, the longest among them; and the place in it of the first that is not shorter, for each."""
    counts = _counts(lengths, int(lengths.max()) + 1)
    grid = np.flatnonzero(counts)
    if len(grid) > _GRID:
        # Half of them follow the bulk of the lengths, half the few long ones.
        bulk = _quantiles(counts, _GRID // 2)
        tail = np.geomspace(grid[0], grid[-1], _GRID // 2)[:-1]
        grid = np.unique(np.append(bulk, grid[np.searchsorted(grid, tail)]))
    cell_of_length = np.searchsorted(grid, np.arange(grid[-1] + 1)).astype("int16")
    return grid, cell_of_length[lengths]


def _counts(values, size):
    """np.bincount part by part: it copies what it counts, in 8 bytes each."""
    return sum(np.bincount(values[begin : begin + _PART], minlength=size) for begin in range(0, len(values), _PART))


def _quantiles(counts, parts):
    """The lengths below which 1, 2, .. of that many parts of the texts lie; counts[length] is how many texts have it."""
    total = counts.sum()
    ranks = np.ceil((total - 1) * np.linspace(0, 1, parts + 1)[1:]).astype("int64")
    return np.searchsorted(np.cumsum(counts), ranks, side="right")
