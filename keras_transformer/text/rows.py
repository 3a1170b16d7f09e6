"""Rows of ids of different lengths, and how a batch is laid out from them. Needs no Keras, so that workers start at once.

Between the tokenizer and batches.py: a source row is pieces + eos, a target row bos + pieces + eos, of which the decoder reads all
but the last id and must say all but the first.
"""

import itertools

import numpy as np

from keras_transformer.text.ids import check_ids
from keras_transformer.text.pair import source_tokenizer

# Pairs cut into pieces at a time: as a list, ids take nine times the memory that they take in a RowsBuilder.
CHUNK = 8192


def encode_pairs(tokenizer, pairs):
    """Cuts pairs of text into pieces.

    Args:
        tokenizer: a Tokenizer, or a TokenizerPair.
        pairs: list of (line, source, target).

    Returns:
        Source rows and target rows, a list of lists of ids each; and the places of the pairs that have a piece on both sides. A
        text that is not blank may have none: "▁" alone, or, as a tokenizer normalises, zero-width spaces.
    """
    sources = source_tokenizer(tokenizer).encode([source for _, source, _ in pairs], add_eos=True)
    targets = tokenizer.encode([target for _, _, target in pairs], add_bos=True, add_eos=True)
    rows = zip(sources, targets, strict=True)
    return sources, targets, [place for place, (s, t) in enumerate(rows) if len(s) > 1 and len(t) > 2]


class RowsBuilder:
    """Gathers rows chunk by chunk, in 4 bytes an id."""

    def __init__(self, vocabulary_size):
        self._vocabulary_size = vocabulary_size
        self._ids, self._lengths = [], []

    def extend(self, rows, name):
        """Appends rows of ids; ``name(number)`` says where row ``number`` of them came from, for the error of a wrong id."""
        ids = np.asarray(list(itertools.chain.from_iterable(rows)))
        try:
            check_ids(ids, self._vocabulary_size)
        except ValueError:
            for number, row in enumerate(rows):
                check_ids(np.asarray(row), self._vocabulary_size, name=f"the tokenizer's ids of {name(number)}")
        self._ids.append(ids.astype("int32"))
        self._lengths.append(np.fromiter(map(len, rows), "int32", len(rows)))

    def rows(self):
        nothing = np.zeros(0, "int32")
        return Rows(np.concatenate([nothing, *self._ids]), np.concatenate([nothing, *self._lengths]))


class Rows:
    """Rows kept as one array.

    Args:
        ids: all of them, one row after the other.
        lengths: of each row.
    """

    def __init__(self, ids, lengths):
        self.lengths = lengths
        self.ids = ids
        self._begins = np.cumsum(lengths, dtype="int64") - lengths

    @classmethod
    def of(cls, rows):
        """From a list of lists of ids."""
        ids = np.fromiter(itertools.chain.from_iterable(rows), "int32")
        return cls(ids, np.fromiter(map(len, rows), "int32", len(rows)))

    def take(self, numbers):
        """Those rows one after the other: (ids, begin of each, length of each)."""
        return self.ids, self._begins[numbers], self.lengths[numbers]


def lay_out(rows, pairs, length, pad_id, shifts=1):
    """Rows side by side, as one array; or as several, of which each leaves out one more of a row's first ids.

    Args:
        rows: a Rows, or whatever has its ``take``.
        pairs: (B, P) numbers of rows that share a line of the batch; -1 for none.
        length: positions of a line.
        pad_id: what fills it up.
        shifts: number of arrays. A row of n ids takes n - shifts + 1 positions in each.

    Returns:
        list of ids (B, length) int32, one for each shift; segments (B, length) int32, which count the rows of a line from 1 and
        are 0 at padding.
    """
    ids = [np.full((len(pairs), length), pad_id, "int32") for _ in range(shifts)]
    segments = np.zeros((len(pairs), length), "int32")
    lines, places = np.nonzero(pairs >= 0)
    if not lines.size:
        return ids, segments
    stored, begins, lengths = rows.take(pairs[lines, places])
    lengths = lengths.astype("int64") - (shifts - 1)
    ends = np.cumsum(lengths)
    before = ends - lengths  # ids laid out before each row
    first = np.flatnonzero(np.append(True, lines[1:] != lines[:-1]))  # the first row of each line
    offsets = before - np.repeat(before[first], np.diff(np.append(first, len(lines))))  # of a row in its line
    counts = np.arange(ends[-1])
    to = np.repeat(lines * length + offsets - before, lengths) + counts
    at = np.repeat(begins - before, lengths) + counts
    for shift, array in enumerate(ids):
        array.ravel()[to] = stored[at + shift]
    segments.ravel()[to] = np.repeat(places + 1, lengths)
    return ids, segments


class Layout:
    """Makes batches from two sides of rows: what a worker does.

    Args:
        source, target: Rows, or whatever has their ``take``.
        pad_id: what fills lines up.
        packed: whether a line holds several pairs; the inputs then tell the segments.
    """

    def __init__(self, source, target, pad_id, packed=False):
        self.source, self.target = source, target
        self.pad_id = pad_id
        self.packed = packed

    def __call__(self, request):
        """(pairs (B, P), S, T, epoch) -> ({"source": (B, S), "target": (B, T)}, labels (B, T))."""
        pairs, source_length, target_length, _ = request
        return self.batch(self.source, self.target, pairs, source_length, target_length)

    def batch(self, source_rows, target_rows, pairs, source_length, target_length):
        (source,), source_segments = lay_out(source_rows, pairs, source_length, self.pad_id)
        (target, labels), target_segments = lay_out(target_rows, pairs, target_length, self.pad_id, shifts=2)
        inputs = {"source": source, "target": target}
        if self.packed:
            inputs |= {"source_segments": source_segments, "target_segments": target_segments}
        return inputs, labels


class SampledLayout(Layout):
    """Batches whose texts are cut into pieces anew in every epoch.

    Which pieces depends on (seed, epoch, line) alone. A sample longer than the pair's place in its shape gives way to the next
    that fits, at last to the usual pieces: the token budget holds.

    Args:
        source_texts, target_texts: what has ``text(pair)`` and ``line(pair)``.
        tokenizer: a Tokenizer that can ``sample``, or a TokenizerPair of such.
        seed: of the samples.
        alpha: see Tokenizer.sample.
    """

    def __init__(self, layout, source_texts, target_texts, tokenizer, seed, alpha):
        super().__init__(layout.source, layout.target, layout.pad_id, layout.packed)
        self.source_texts, self.target_texts = source_texts, target_texts
        self.tokenizers = source_tokenizer(tokenizer), tokenizer
        self.seed, self.alpha = seed, alpha

    def __call__(self, request):
        pairs, source_length, target_length, epoch = request
        numbers = pairs[pairs >= 0]
        local = np.where(pairs >= 0, np.cumsum(pairs >= 0).reshape(pairs.shape) - 1, -1)
        # In a packed line every pair has the room of its usual pieces, else the whole line.
        sides = []
        for side, (rows, texts, length) in enumerate(
            ((self.source, self.source_texts, source_length), (self.target, self.target_texts, target_length + 1))
        ):
            room = rows.take(numbers)[2] if self.packed else np.full(len(numbers), length)
            sides.append(
                Rows.of([self._row(texts, int(n), int(r), side, epoch) for n, r in zip(numbers, room, strict=True)])
            )
        return self.batch(*sides, local, source_length, target_length)

    def _row(self, texts, number, room, side, epoch):
        special = 2 if side else 1
        key = (self.seed, epoch, 2 * texts.line(number) + side)
        tokenizer = self.tokenizers[side]
        ids = tokenizer.sample(texts.text(number), key, alpha=self.alpha, most=room - special)
        return [*([tokenizer.bos_id] if side else []), *ids, tokenizer.eos_id]


class Texts:
    """Texts in memory as UTF-8, without an object for each.

    Args:
        texts: list of str.
        lines: the line each was read from.
    """

    def __init__(self, texts, lines):
        self._lines = np.array(lines, "int64")
        encoded = [text.encode("utf-8") for text in texts]
        self._bytes = b"".join(encoded)
        self._ends = np.cumsum(np.fromiter(map(len, encoded), "int64", len(encoded)))

    def text(self, number):
        begin = self._ends[number - 1] if number else 0
        return self._bytes[begin : self._ends[number]].decode("utf-8")

    def line(self, number):
        return int(self._lines[number])
