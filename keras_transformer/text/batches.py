"""Pairs to batches: grouped by length, bounded by a token budget, in few shapes, in an order that a seed fixes."""

import keras
import numpy as np

from keras_transformer.text.corpus import Corpus
from keras_transformer.text.ids import check_ids


class Batches(keras.utils.PyDataset):
    """Batches ``({"source": (B, S), "target": (B, T)}, labels (B, T))`` of int32 ids, for ``fit`` and ``evaluate``.

    Source rows end with eos, target rows begin with bos, labels end with eos: the shift between target and labels happens here. Pairs are
    grouped by length into buckets chosen from the data, each with one fixed shape (rows, S, T) whose rows x max(S, T) stays within
    ``batch_tokens``, padding included. The last batch of a bucket is filled up with rows of padding, which count for nothing.

    The order is a function of (seed, epoch) alone: the same on every backend and machine.

    Args:
        source: a file (plain or .gz), or a list of texts.
        target: the same for the other side.
        tokenizer: a Tokenizer.
        batch_tokens: most positions in a batch, rows x max(S, T).
        seed: of the order.
        shuffle: False keeps one fixed order.
        max_length: pairs with more tokens than this on a side are left out and counted.
        num_buckets: most shapes.
        kwargs: as keras.utils.PyDataset (workers, ...).

    Attributes:
        epoch: which order is in force; ``fit`` moves it on. Set it to start elsewhere.
        num_pairs, num_tokens: pairs, and target tokens, in an epoch.
        skipped: Counter of reasons and pairs left out.
        shapes: the (rows, S, T) in use.
        padding_share: share of padding among all source and target positions of an epoch.

    Raises:
        ValueError: no pair is left, or what Corpus raises.

    Example:

    >>> import keras_transformer as kt
    >>> tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=300)
    >>> batches = kt.Batches(["a dog runs"], ["ein Hund rennt"], tokenizer, batch_tokens=100)
    >>> inputs, labels = batches[0]
    >>> int(inputs["target"][0, 0]), len(batches)
    (2, 1)
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.shuffle = shuffle
        self.max_length = max_length
        self.num_buckets = num_buckets
        self._tokenizer = tokenizer
        corpus = Corpus(source, target)
        self.skipped = corpus.skipped
        self._sources, self._targets = self._encoded(corpus)
        lengths = np.array([(len(s), len(t) + 1) for s, t in zip(self._sources, self._targets, strict=True)])
        self._buckets = _buckets(lengths, batch_tokens, num_buckets)
        self.num_pairs = len(lengths)
        self.num_tokens = int(lengths[:, 1].sum())
        self.shapes = [bucket.shape for bucket in self._buckets]
        positions = sum(bucket.num_batches * rows * (s + t) for bucket in self._buckets for rows, s, t in [bucket.shape])
        self.padding_share = 1.0 - float(lengths.sum()) / positions
        self.epoch = 0

    def _encoded(self, corpus):
        """Source ids with eos and bare target ids of the pairs that fit."""
        longest = min(self.max_length, self.batch_tokens)
        encoded = []
        for side, add_eos in ((0, True), (1, False)):
            rows = self._tokenizer.encode([pair[side] for pair in corpus.pairs], add_eos=add_eos)
            check_ids(np.array([i for row in rows for i in row]), self._tokenizer.vocabulary_size, ("source", "target")[side])
            encoded.append([np.array(row, dtype="int32") for row in rows])
        kept = [(s, t) for s, t in zip(*encoded, strict=True) if len(s) <= longest and len(t) + 1 <= longest]
        if len(kept) < len(corpus.pairs):
            self.skipped[f"longer than {longest} tokens"] += len(corpus.pairs) - len(kept)
        if not kept:
            raise ValueError(
                f"No pair is left: all {len(corpus.pairs)} have a side of more than {longest} tokens. Raise max_length and batch_tokens."
            )
        return [s for s, _ in kept], [t for _, t in kept]

    @property
    def epoch(self):
        """Which order is in force, from 0."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch):
        self._epoch = epoch
        self._order = self._ordered(epoch)

    def on_epoch_end(self):
        """Keras calls this after each epoch: the next order."""
        if self.shuffle:
            self.epoch += 1

    def _ordered(self, epoch):
        """The epoch's batches: (bucket, indices of its pairs)."""
        generator = np.random.Generator(np.random.PCG64((self.seed, epoch)))
        batches = []
        for bucket in self._buckets:
            members = generator.permutation(bucket.members) if self.shuffle else bucket.members
            rows = bucket.shape[0]
            batches += [(bucket, members[start : start + rows]) for start in range(0, len(members), rows)]
        if self.shuffle:
            batches = [batches[index] for index in generator.permutation(len(batches))]
        return _with_different_shapes_first(batches)

    def __len__(self):
        return len(self._order)

    def __getitem__(self, index):
        bucket, members = self._order[index]
        rows, source_length, target_length = bucket.shape
        source = np.zeros((rows, source_length), dtype="int32")
        target = np.zeros((rows, target_length), dtype="int32")
        labels = np.zeros((rows, target_length), dtype="int32")
        for row, pair in enumerate(members):
            ids = self._targets[pair]
            source[row, : len(self._sources[pair])] = self._sources[pair]
            target[row, 0] = self._tokenizer.bos_id
            target[row, 1 : len(ids) + 1] = ids
            labels[row, : len(ids)] = ids
            labels[row, len(ids)] = self._tokenizer.eos_id
        return {"source": source, "target": target}, labels


class _Bucket:
    """The pairs of one shape."""

    def __init__(self, members, lengths, batch_tokens):
        source_length, target_length = (int(size) for size in lengths[members].max(axis=0))
        rows = max(batch_tokens // max(source_length, target_length), 1)
        self.members = members
        self.shape = (min(rows, len(members)), source_length, target_length)
        self.num_batches = -(-len(members) // self.shape[0])


def _buckets(lengths, batch_tokens, count):
    """At most ``count`` buckets of pairs of like length, cut so that padding is least.

    Pairs are sorted by their longer side; cuts between sorted lengths are found by dynamic programming over the distinct lengths.
    """
    longer = lengths.max(axis=1)
    order = np.argsort(longer, kind="stable")
    sizes, starts = np.unique(longer[order], return_index=True)
    starts = np.append(starts, len(order))
    cells = len(sizes)
    highest = np.maximum.reduceat(lengths[order], starts[:-1])  # (cells, 2): longest source and target of each cell
    costs = np.full((cells, cells), np.inf)  # [first, last]: positions of a bucket of these cells, padding included
    for first in range(cells):
        widths = np.maximum.accumulate(highest[first:]).sum(axis=1)
        costs[first, first:] = widths * (starts[first + 1 :] - starts[first])
    best, cuts = costs[0], [np.zeros(cells, dtype=int)]
    for _ in range(min(count, cells) - 1):
        totals = np.concatenate([[0.0], best[:-1]])[:, None] + costs  # [first cell of the last bucket, last cell]
        cuts.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    edges, last = [], cells - 1
    for choice in reversed(cuts):
        if last < 0:
            break
        edges.append((int(choice[last]), last))
        last = int(choice[last]) - 1
    return [
        _Bucket(order[starts[first] : starts[last + 1]], lengths, batch_tokens) for first, last in reversed(edges)
    ]


def _with_different_shapes_first(batches):
    """Moves up to two batches to the front, so that the first two differ in S and in T wherever any do.

    Keras on TensorFlow takes a dataset's shapes from its first two batches and freezes what is equal in both.
    """
    varies = [len({bucket.shape[axis] for bucket, _ in batches}) > 1 for axis in (1, 2)]

    def differ(one, other):
        return all(one.shape[axis] != other.shape[axis] for axis in (1, 2) if varies[axis - 1])

    for first in range(len(batches)):
        for second in range(first + 1, len(batches)):
            if differ(batches[first][0], batches[second][0]):
                front = [batches[first], batches[second]]
                rest = [batch for index, batch in enumerate(batches) if index not in (first, second)]
                return front + rest
    return batches
