"""Pairs of sentences -> padded batches for ``fit``: few shapes, little padding, an order that a seed fixes.

Last in the text room. Every distinct shape costs a compilation on JAX, and every padded position costs what a real one
costs; so the shapes are chosen from the lengths that the corpus has.
"""

import contextlib
import dataclasses
import itertools

import keras
import numpy as np

from keras_transformer.text.corpus import read_pairs
from keras_transformer.text.ids import check_ids

# Lengths tried as S or T of a shape. The search costs the fourth power; beyond about 40 the padding hardly falls.
_GRID = 40


class Batches(keras.utils.PyDataset):
    """Length-bucketed batches under a token budget: ``({"source": (B, S), "target": (B, T)}, labels (B, T))``, int32.

    A source row is pieces + eos; a target row, which the decoder reads, bos + pieces; a label row,
    what it must say, pieces + eos. Pairs of similar length share a shape (B, S, T); at most
    ``num_buckets`` shapes exist, chosen to minimise padding, and B max(S, T) <= batch_tokens holds
    for each. What lacks in the last batch of a shape is made up by rows of padding.

    In every epoch each pair occurs once. Pairs are dealt out to batches, and batches put in order,
    anew in every epoch, by (seed, epoch) alone: no global generator is read. ``fit`` of a
    keras.Model shuffles the batches of any PyDataset once more with Python's global generator
    unless told ``shuffle=False``; kt.Transformer tells it so.

    An epoch here is once through the pairs. When Keras has asked for the last batch of one and asks
    for the first again, the next has begun: in ``fit`` with ``steps_per_epoch``, which then takes
    several of its epochs for one of these, and from one ``fit`` to another. An epoch that was broken
    off is begun anew, unless ``restore`` is told to go on in it. Keras does not say what it asks for, so
    ``evaluate`` of another model than kt.Transformer, which takes care, counts too; give it another
    object, or say set_epoch afterwards.

    Args:
        source: path of a text file (plain or gzip), or a list of str.
        target: the same for the translations, line by line.
        tokenizer: a Tokenizer.
        batch_tokens: most padded positions of a batch on its longer side: B max(S, T).
        seed: of the order; an integer from 0 to 2**63 - 1.
        shuffle: False for one fixed order, as for validation.
        max_length: most positions of a source or target row; pairs with more are left out and
            counted.
        num_buckets: most shapes.

    Attributes:
        num_pairs: pairs in an epoch.
        skipped: pairs left out: {"empty": a side is blank, "max_length": too long for it,
            "batch_tokens": too long for it}.
        num_tokens: label tokens of an epoch, eos counted, padding not.
        padding_share: padding among all source and target positions of an epoch.
        shapes: list of (B, S, T), by S + T.
        epoch: number of the epoch being served, or of the next when the last batch was asked for;
            see set_epoch.

    Raises:
        ValueError: see read_pairs; no pair is left; ids outside the vocabulary; an argument is
            impossible.

    Example:

    >>> import keras_transformer as kt
    >>> source, target = ["a dog runs", "a dog"], ["ein Hund rennt", "ein Hund"]
    >>> tokenizer = kt.Tokenizer.train(source + target, vocabulary_size=280)
    >>> batches = kt.Batches(source, target, tokenizer, batch_tokens=64, num_buckets=1)
    >>> inputs, labels = batches[0]
    >>> inputs["target"].shape == labels.shape, int(inputs["target"][0, 0]), batches.num_pairs
    (True, 2, 2)
    """

    def __init__(
        self,
        source,
        target,
        tokenizer,
        batch_tokens=4096,
        seed=0,
        shuffle=True,
        max_length=256,
        num_buckets=8,
    ):
        super().__init__()
        _check_integers(1, batch_tokens=batch_tokens, max_length=max_length, num_buckets=num_buckets)
        _check_integers(0, seed=seed)
        self.tokenizer = tokenizer
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.shuffle = shuffle
        self.max_length = max_length
        self.num_buckets = num_buckets
        corpus = read_pairs(source, target)
        self._source = _Rows(tokenizer.encode(corpus.source, add_eos=True))
        self._target = _Rows(tokenizer.encode(corpus.target, add_bos=True, add_eos=True))
        self._source.check(tokenizer.vocabulary_size, corpus.source_name, corpus.lines)
        self._target.check(tokenizer.vocabulary_size, corpus.target_name, corpus.lines)
        self._make_buckets(corpus)
        self.set_epoch(0)

    def _make_buckets(self, corpus):
        source_lengths = self._source.lengths
        target_lengths = self._target.lengths - 1  # bos and eos stand on different sides of the shift
        longest = np.maximum(source_lengths, target_lengths)
        too_long = longest > self.max_length
        over_budget = ~too_long & (longest > self.batch_tokens)
        self.skipped = {
            "empty": corpus.counts.empty,
            "max_length": int(too_long.sum()),
            "batch_tokens": int(over_budget.sum()),
        }
        pairs = np.flatnonzero(~too_long & ~over_budget)
        if not pairs.size:
            raise ValueError(
                f"No pair of {corpus.source_name} and {corpus.target_name} is left: the shortest has {longest.min()} "
                f"positions, allowed are max_length={self.max_length} and batch_tokens={self.batch_tokens}. Raise them."
            )
        source_lengths, target_lengths = source_lengths[pairs], target_lengths[pairs]
        self._buckets = [
            _make_bucket(pairs[members], source_lengths[members], target_lengths[members], self.batch_tokens)
            for members in _group_by_shape(source_lengths, target_lengths, self.num_buckets)
        ]
        self._buckets.sort(key=lambda bucket: (bucket.source_length + bucket.target_length, bucket.shape))
        self.shapes = [bucket.shape for bucket in self._buckets]
        self.num_pairs = len(pairs)
        self.num_tokens = int(target_lengths.sum())
        positions = sum(
            bucket.num_batches * bucket.rows * (bucket.source_length + bucket.target_length) for bucket in self._buckets
        )
        self.padding_share = 1 - (int(source_lengths.sum()) + self.num_tokens) / positions

    @property
    def epoch(self):
        return self._epoch + self._is_served

    def set_epoch(self, epoch):
        """Serves the batches of that epoch from now on, so that a resumed run meets the order it would have met.

        ``fit`` needs no call: an epoch that was served to its end is followed by the next.

        Raises:
            ValueError: epoch is no integer from 0 to 2**63 - 1.
        """
        _check_integers(0, epoch=epoch)
        self._begin(epoch)
        self._is_watched = False

    def state(self):
        """Where training stands: ``{"epoch": int, "position": int}``, the next batch to train on, for ``restore``.

        Under ``fit`` of a kt.Transformer it is exact after every step, however far data are read ahead. Elsewhere it is the
        batch after the last one asked for.

        Example:

        >>> import keras_transformer as kt
        >>> texts = ["a dog", "a cat", "a bird", "a fish"]
        >>> tokenizer = kt.Tokenizer.train(texts, vocabulary_size=280)
        >>> batches = kt.Batches(texts, texts, tokenizer, batch_tokens=16)
        >>> batches.restore({"epoch": 3, "position": 1})
        >>> batches.state(), batches.full_length - len(batches)
        ({'epoch': 3, 'position': 1}, 1)
        """
        epoch, position = self._trained or (self._epoch, self._asked)
        if position == self.full_length:
            epoch, position = epoch + 1, 0
        return {"epoch": epoch, "position": position}

    def restore(self, state):
        """Goes on from a state: the rest of that epoch, which is one shorter epoch, and then whole ones.

        ``fit`` of a kt.Transformer trains the rest as its first epoch. Another Keras model takes all epochs of one call for as
        long as the first: give it ``epochs=initial_epoch + 1`` and call ``fit`` once more for the others.

        Args:
            state: what ``state`` gave, of a Batches with the same texts and arguments.

        Raises:
            ValueError: it is no such state, or lies beyond the epoch's end.
        """
        if not isinstance(state, dict) or set(state) != {"epoch", "position"}:
            raise ValueError(f'The state must be {{"epoch": int, "position": int}}. Received: {state!r}.')
        _check_integers(0, **state)
        if state["position"] > self.full_length:
            raise ValueError(
                f"The state {state!r} lies beyond the end of an epoch of {self.full_length} batches: it belongs to other texts "
                "or arguments. Give those it was made with."
            )
        is_over = state["position"] == self.full_length
        self.set_epoch(int(state["epoch"]) + is_over)
        self._start = self._asked = 0 if is_over else int(state["position"])

    @property
    def full_length(self):
        """Batches in a whole epoch; ``len`` is that less those before the position that ``restore`` was given."""
        return len(self._plan)

    def beginning(self):
        """The state in which the next ``fit`` begins."""
        return {"epoch": self.epoch, "position": 0 if self._is_served else self._start}

    def trained_on(self, batches):
        """Takes note that so many more batches have been trained on, whatever was read ahead; for ``fit``.

        No execution of several steps crosses the end of an epoch.
        """
        epoch, position = self._trained or (self._epoch, self._start)
        if position == self.full_length:
            epoch, position = epoch + 1, 0
        self._trained = epoch, min(position + batches, self.full_length)

    def example(self, index):
        """One of the first two batches of an epoch: they differ in S, and in T, where these differ at all."""
        return self._make(*self._plan[index])

    @contextlib.contextmanager
    def aside(self):
        """Within, it can be read through by the way; it then goes on where it was."""
        kept = dict(vars(self))
        yield
        vars(self).update(kept)

    def _begin(self, epoch):
        self._plan = self._deal(epoch)
        self._epoch = epoch
        self._start = self._asked = 0
        self._trained = None
        self._is_served = False  # whether the last batch has been asked for

    def _deal(self, epoch):
        """The epoch's batches in order: list of (bucket, pair numbers (B,)); -1 stands for a row of padding."""
        # A generator's raw bits are fixed for good; its shuffling methods may change from one NumPy to the next.
        bits = np.random.Philox(key=np.array([self.seed, epoch], dtype="uint64"))
        plan = []
        for bucket in self._buckets:
            order = np.argsort(bits.random_raw(len(bucket.pairs)), kind="stable") if self.shuffle else slice(None)
            rows = np.full(bucket.num_batches * bucket.rows, -1)
            rows[: len(bucket.pairs)] = bucket.pairs[order]
            plan += [(bucket, batch) for batch in rows.reshape(bucket.num_batches, bucket.rows)]
        if self.shuffle:
            plan = [plan[index] for index in np.argsort(bits.random_raw(len(plan)), kind="stable")]
        return _with_different_start(plan)

    def __len__(self):
        return len(self._plan) - self._start

    def __getitem__(self, index):
        # Here and not in on_epoch_end: TensorFlow reads ahead, into the next epoch before Keras has ended this one.
        if index == 0 and self._is_served:
            trained = self._trained
            self._begin(self._epoch + 1)
            self._trained = trained
        place = self._start + range(len(self))[index]
        batch = self._make(*self._plan[place])
        self._asked = place + 1
        if self._is_watched and self._asked == len(self._plan):
            self._is_served = True
        return batch

    def _make(self, bucket, pairs):
        pad_id = self.tokenizer.pad_id
        source = self._source.padded(pairs, bucket.source_length, pad_id)
        target = self._target.padded(pairs, bucket.target_length, pad_id, skip_last=1)
        labels = self._target.padded(pairs, bucket.target_length, pad_id, skip_first=1)
        return {"source": source, "target": target}, labels

    def on_epoch_begin(self):
        """Called by Keras. What is looked at outside of its epochs counts for nothing."""
        self._is_watched = True

    def on_epoch_end(self):
        """Called by Keras; also before the first epoch, and with ``steps_per_epoch`` in the middle of one, while it reads on."""
        self._is_watched = self._is_watched and not self._is_served


class _Rows:
    """Rows of ids of different lengths, kept as one array; row -1 is empty."""

    def __init__(self, rows):
        self.lengths = np.fromiter((len(row) for row in rows), dtype="int64", count=len(rows))
        self._ids = np.asarray(list(itertools.chain.from_iterable(rows)))
        # A last row of no ids stands for a row of padding.
        ends = np.cumsum(self.lengths)
        self._begins = np.append(ends - self.lengths, 0)
        self._ends = np.append(ends, 0)

    def check(self, vocabulary_size, name, lines):
        """Raises for an id outside the vocabulary, naming the line it came from; then stores ids in 32 bits."""
        try:
            check_ids(self._ids, vocabulary_size)
        except ValueError:
            for number, row in zip(lines, np.split(self._ids, self._begins[1:-1]), strict=True):
                check_ids(row, vocabulary_size, name=f"the tokenizer's ids of {name}:{number}")
        self._ids = self._ids.astype("int32")

    def padded(self, rows, length, pad_id, skip_first=0, skip_last=0):
        """Those rows, without so many ids in front and behind, as one array (B, length)."""
        places = self._begins[rows][:, None] + skip_first + np.arange(length)  # (B, length)
        inside = places < self._ends[rows][:, None] - skip_last
        return np.where(inside, self._ids.take(places, mode="clip"), np.int32(pad_id))


@dataclasses.dataclass(frozen=True)
class _Bucket:
    """Pairs that share one shape."""

    pairs: np.ndarray
    rows: int
    source_length: int
    target_length: int
    num_batches: int

    @property
    def shape(self):
        return self.rows, self.source_length, self.target_length


def _make_bucket(pairs, source_lengths, target_lengths, batch_tokens):
    source_length, target_length = int(source_lengths.max()), int(target_lengths.max())
    most_rows = batch_tokens // max(source_length, target_length)
    num_batches = -(-len(pairs) // most_rows)
    # Rows spread evenly: the last batch then lacks less than one row for each batch, instead of half a batch on average.
    rows = -(-len(pairs) // num_batches)
    return _Bucket(pairs, rows, source_length, target_length, num_batches)


def _group_by_shape(source_lengths, target_lengths, num_buckets):
    """Parts the pairs into at most num_buckets groups so that few positions are padded; a list of index arrays.

    A pair fits into a shape when neither of its sides is longer; it goes into the smallest that fits. Shapes are points
    of a grid of lengths: each in turn is taken out and put where it saves most, until nothing changes.
    """
    source_grid, source_cells = _grid_cells(source_lengths)
    target_grid, target_cells = _grid_cells(target_lengths)
    grid = len(source_grid), len(target_grid)
    pair_cells = np.ravel_multi_index((source_cells, target_cells), grid)
    cells, places, weights = np.unique(pair_cells, return_inverse=True, return_counts=True)  # cells that hold pairs
    rows, columns = np.unravel_index(np.arange(grid[0] * grid[1]), grid)
    sizes = source_grid[rows] + target_grid[columns]
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
    return [np.flatnonzero(choice[places] == group) for group in np.unique(choice)]


def _grid_cells(lengths):
    """At most _GRID of the lengths, the longest among them; and the place in it of the first that is not shorter, for each."""
    grid = np.unique(lengths)
    if len(grid) > _GRID:
        # Half of them follow the bulk of the lengths, half the few long ones.
        bulk = np.quantile(lengths, np.linspace(0, 1, _GRID // 2 + 1)[1:], method="higher")
        tail = np.geomspace(grid[0], grid[-1], _GRID // 2)[:-1]
        grid = np.unique(np.append(bulk, grid[np.searchsorted(grid, tail)]))
    return grid, np.searchsorted(grid, lengths)


def _with_different_start(plan):
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


def _check_integers(minimum, **arguments):
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not minimum <= value < 2**63:
            raise ValueError(f"{name} must be an integer from {minimum} to 2**63 - 1. Received: {value!r}.")
