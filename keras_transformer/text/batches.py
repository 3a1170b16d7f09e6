"""Pairs of sentences -> padded batches for ``fit``: few shapes, little padding, an order that a seed fixes.

Last in the text room. Every distinct shape costs a compilation on JAX, and every padded position costs what a real one
costs; so the shapes are chosen from the lengths that the corpus has (buckets.py), or several pairs share a line (packing.py).
Batches are laid out from rows of ids in memory or in prepared shards, here or by worker processes: always the same.
"""

import contextlib
import dataclasses
import hashlib
import math

import keras
import numpy as np

from keras_transformer.text.buckets import group_by_shape
from keras_transformer.text.dealing import Bucket, repeated, with_different_start
from keras_transformer.text.encoding import encode_corpus
from keras_transformer.text.packing import pack
from keras_transformer.text.pair import source_tokenizer, target_tokenizer
from keras_transformer.text.prefetch import Prefetch
from keras_transformer.text.rows import Layout, SampledLayout
from keras_transformer.text.workers import WorkerError, Workers


class Batches(keras.utils.PyDataset):
    """Length-bucketed batches under a token budget: ``({"source": (B, S), "target": (B, T)}, labels (B, T))``, int32.

    A source row is pieces + eos; a target row, which the decoder reads, bos + pieces; a label row,
    what it must say, pieces + eos. Pairs of similar length share a shape (B, S, T); at most
    ``num_buckets`` shapes exist, chosen to minimise padding, and B max(S, T) <= batch_tokens holds
    for each. The last batch of a shape is filled up with rows of padding.

    In every epoch each pair occurs once. Pairs are dealt out to batches, and batches put in order,
    anew in every epoch, by (seed, epoch) alone: no global generator is read. ``fit`` of a
    keras.Model shuffles the batches of any PyDataset once more with Python's global generator
    unless told ``shuffle=False``; kt.Transformer tells it so.

    An epoch here is one pass over the pairs. The next one begins when Keras, after the last batch, asks for the first again: within
    one ``fit`` with ``steps_per_epoch``, where several of Keras's epochs may make one of these, and from one ``fit`` to the next.
    Keras does not say what it reads batches for, so that ``evaluate`` counts as a pass too, unless the model is a kt.Transformer;
    give ``evaluate`` another Batches, or call set_epoch afterwards. A loop without Keras, ``for inputs, labels in batches``, gives
    one epoch, and the next loop the next one. An epoch that was broken off is begun anew, unless ``restore`` is called to go on in
    it. Reading batches by number, ``batches[3]``, ends no epoch, unless ``restore(batches.state())`` or set_epoch is called.

    Args:
        source: path of a text file or a pattern of shards, or a list of str; or, with target=None, a PairStream, a Corpus, a
            Mixture of several corpora, or the folder of prepared text.
        target: the same for the translations, line by line.
        tokenizer: a Tokenizer, a TokenizerPair of one for each side, or one of keras-nlp or Hugging Face's tokenizers (see
            as_tokenizer); None for prepared text, which has its own.
        batch_tokens: most padded positions of a batch on its longer side: B max(S, T).
        seed: of the order; an integer from 0 to 2**63 - 1.
        shuffle: False for one fixed order, as for validation.
        max_length: most positions of a source or target row; pairs with more are left out and
            counted.
        num_buckets: most shapes.
        packed_length: positions of a line that several pairs share, on the longer side; None for a line a pair. The one shape then
            makes num_buckets meaningless, and the inputs hold "source_segments" (B, S) and "target_segments" (B, T) as well.
        sampling: alpha of subword sampling (see Tokenizer.sample), which cuts texts into other pieces in every epoch; None for
            the same pieces always.
        num_workers: processes that make batches ahead of time; with 0 each is made when it is asked for. The batches are the same.
        row_multiple: B is a multiple of it, as the devices of a data-parallel step want it.
        process: (index, count) of this process among those that train together: it gets B / count rows of every batch. All take
            the same number of steps.

    Attributes:
        num_pairs: pairs in an epoch.
        skipped: pairs left out: {"empty": a side is blank, "max_length": too long for it,
            "batch_tokens": too long for it}, and those a PairStream's filters left out.
        num_tokens: label tokens of an epoch, eos counted, padding not.
        padding_share: padding among all source and target positions of an epoch.
        shapes: list of (B, S, T), by S + T.
        epoch: number of the epoch being served, or of the next when the last batch was asked for;
            see set_epoch.

    Raises:
        ValueError: see PairStream; no pair is left; ids outside the vocabulary; an argument is
            impossible.
        WorkerError: from a batch: a worker died, raised, or gave none within 8 seconds.

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
        target=None,
        tokenizer=None,
        batch_tokens=4096,
        seed=0,
        shuffle=True,
        max_length=256,
        num_buckets=8,
        packed_length=None,
        sampling=None,
        num_workers=0,
        row_multiple=1,
        process=(0, 1),
    ):
        super().__init__()
        sizes = {"batch_tokens": batch_tokens, "max_length": max_length, "num_buckets": num_buckets}
        _check_integers(
            1, **sizes, row_multiple=row_multiple, **({} if packed_length is None else {"packed_length": packed_length})
        )
        _check_integers(0, seed=seed, num_workers=num_workers)
        self.process = _checked_process(process)
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.shuffle = shuffle
        self.max_length = max_length
        self.num_buckets = num_buckets
        self.packed_length = packed_length
        self.sampling = sampling
        self.num_workers = num_workers
        self.row_multiple = row_multiple
        corpus = encode_corpus(source, target, tokenizer, keep_texts=sampling is not None)
        self.tokenizer = corpus.tokenizer
        self._layout = Layout(corpus.source, corpus.target, self.tokenizer.pad_id, packed=packed_length is not None)
        self._source_lengths = corpus.source.lengths
        self._target_lengths = corpus.target.lengths - 1  # bos and eos stand on different sides of the shift
        self._make_buckets(corpus)
        if sampling is not None:
            _check_sampling(sampling, self.tokenizer)
            self._layout = SampledLayout(
                self._layout, corpus.source_texts, corpus.target_texts, self.tokenizer, seed, sampling
            )
        self._prefetch = None
        self._line_of = corpus.line_of
        self.set_epoch(0)

    def _make_buckets(self, corpus):
        source_lengths, target_lengths = self._source_lengths, self._target_lengths
        longest = np.maximum(source_lengths, target_lengths)
        limit = self.max_length if self.packed_length is None else min(self.max_length, self.packed_length)
        too_long = longest > limit
        multiple = math.lcm(self.row_multiple, self.process[1])
        budget = self.batch_tokens // multiple
        over_budget = ~too_long & (longest > budget)
        dropped = dict(corpus.counts.dropped)
        self.skipped = {
            "empty": dropped.pop("empty", 0),
            "max_length": dropped.pop("max_length", 0) + int(too_long.sum()),
            "batch_tokens": int(over_budget.sum()),
        } | dropped
        pairs = np.flatnonzero(~too_long & ~over_budget).astype("int32")
        if not pairs.size:
            raise ValueError(
                f"No pair of {corpus.name} is left: the shortest has {longest.min()} "
                f"positions, allowed are max_length={limit} and batch_tokens={self.batch_tokens}"
                f"{f' for {multiple} rows' if multiple > 1 else ''}. Raise them."
            )
        del longest, too_long, over_budget  # memory, for the grouping
        repeats = corpus.repeats(pairs)
        if self.packed_length is None:
            lengths = [x if len(x) == len(pairs) else x[pairs] for x in (source_lengths, target_lengths)]
            groups = group_by_shape(*lengths, self.num_buckets)
            self._buckets = [self._bucket(pairs[x], None if repeats is None else repeats[x], multiple) for x in groups]
        else:
            self._buckets = [self._packed_bucket(pairs, repeats, multiple)]
        self._buckets.sort(key=lambda bucket: (bucket.source_length + bucket.target_length, bucket.shape))
        self.shapes = [bucket.shape for bucket in self._buckets]
        self.num_pairs = sum(bucket.num_pairs for bucket in self._buckets)
        self.num_tokens = sum(bucket.target_tokens for bucket in self._buckets)
        positions = sum(
            bucket.num_batches * bucket.rows * (bucket.source_length + bucket.target_length) for bucket in self._buckets
        )
        self.padding_share = 1 - (sum(bucket.source_tokens for bucket in self._buckets) + self.num_tokens) / positions

    def _bucket(self, pairs, repeats, multiple):
        source_length, target_length = (int(x[pairs].max()) for x in (self._source_lengths, self._target_lengths))
        return self._sized(repeated(pairs, repeats), None, source_length, target_length, multiple)

    def _packed_bucket(self, pairs, repeats, multiple):
        if repeats is not None:
            raise ValueError(
                "packed_length does not go with a Mixture, whose pairs change with the epoch. Give one of them."
            )
        length = min(self.packed_length, self.batch_tokens // multiple)
        packs = pack(self._source_lengths[pairs], self._target_lengths[pairs], length)
        packs = dataclasses.replace(packs, pairs=pairs[packs.pairs])
        lines = repeated(np.arange(len(packs), dtype="int32"), None)
        return self._sized(lines, packs, packs.source_length, packs.target_length, multiple)

    def _sized(self, lines, packs, source_length, target_length, multiple):
        """The bucket with as few rows as its batches need."""
        number = lines.number
        most_rows = self.batch_tokens // max(source_length, target_length) // multiple * multiple
        num_batches = -(-number // most_rows)
        # Rows spread evenly: the last batch then lacks less than one row for each batch, instead of half a batch on average.
        rows = -(-number // (num_batches * multiple)) * multiple
        num_batches = -(-number // rows)
        members = lines.members if packs is None else packs.pairs
        tokens = [lines.total(lengths[members]) for lengths in (self._source_lengths, self._target_lengths)]
        num_pairs = number if packs is None else len(members)
        return Bucket(lines, packs, rows, source_length, target_length, num_batches, num_pairs, *tokens)

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
        batch after the last one asked for: in a loop without Keras, after the one it has given.

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
        """Batches in a whole epoch; ``len`` is that less those before the position that ``restore`` was given, until the next."""
        return len(self._plan)

    def beginning(self):
        """The state in which the next ``fit`` begins."""
        return {"epoch": self.epoch, "position": 0 if self._is_served else self._start}

    def trained_on(self, batches):
        """Notes that ``batches`` more batches have been trained on, whatever was read ahead; for ``fit``.

        No execution of several steps crosses the end of an epoch.
        """
        epoch, position = self._trained or (self._epoch, self._start)
        if position == self.full_length:
            epoch, position = epoch + 1, 0
        self._trained = epoch, min(position + batches, self.full_length)

    def example(self, index):
        """One of the first two batches of an epoch: they differ in S, and in T, where these differ at all."""
        return self._layout(self._request(index))

    @contextlib.contextmanager
    def aside(self):
        """A context in which a whole epoch can be read; afterwards this stands where it stood before."""
        kept = {name: value for name, value in vars(self).items() if name != "_prefetch"}  # workers stay, or stay gone
        self.set_epoch(self.epoch)
        try:
            yield
        finally:
            vars(self).update(kept)

    def _begin(self, epoch):
        self._plan = self._deal(epoch)
        self._epoch = epoch
        self._start = self._asked = 0
        self._trained = None
        self._is_served = False  # whether the last batch has been asked for

    def _deal(self, epoch):
        """The epoch's batches in order: list of (bucket, its lines (B,)); -1 stands for a line of padding."""
        # A generator's raw bits are fixed for good; its shuffling methods may change from one NumPy to the next.
        bits = np.random.Philox(key=np.array([self.seed, epoch], dtype="uint64"))
        plan = []
        for bucket in self._buckets:
            members = bucket.repeated.of_epoch(bits, self.shuffle)
            rows = np.full(bucket.num_batches * bucket.rows, -1, "int32")
            rows[: len(members)] = members
            plan += [(bucket, batch) for batch in rows.reshape(bucket.num_batches, bucket.rows)]
        if self.shuffle:
            plan = [plan[index] for index in np.argsort(bits.random_raw(len(plan)), kind="stable")]
        return with_different_start(plan)

    def lines(self, epoch, index):
        """Line numbers, from 1, of the pairs in batch ``index`` of an epoch, in their order; list of int."""
        pairs = self._pairs(*self._deal(epoch)[index])
        return [self._line_of(pair) for pair in pairs[pairs >= 0].tolist()]

    def __len__(self):
        return len(self._plan) - (0 if self._is_served else self._start)

    def __iter__(self):
        """The batches of this epoch, or after ``restore`` the rest of them; the next loop gives the next epoch."""
        # Keras's fit asks by number and never comes here; but a callback may look at a batch within fit.
        for index in range(len(self)):
            batch = self[index]
            if not self._is_watched:
                self._trained = None  # what an earlier fit trained on: the state is this loop's
                self._is_served = self._asked == len(self._plan)
            yield batch

    def __getitem__(self, index):
        # Here and not in on_epoch_end: TensorFlow reads ahead, into the next epoch before Keras has ended this one.
        if index == 0 and self._is_served:
            trained = self._trained
            self._begin(self._epoch + 1)
            self._trained = trained
        place = range(self._start, len(self._plan))[index]
        batch = self._make(place)
        self._asked = place + 1
        if self._is_watched and self._asked == len(self._plan):
            self._is_served = True
        return batch

    def _make(self, place):
        if self.num_workers == 0:
            return self._layout(self._request(place))
        if self._prefetch is None:
            self._prefetch = Prefetch(Workers(self._layout, self.num_workers))
        try:
            return self._prefetch.get(self._plan, place, self._request)
        except WorkerError:
            self._prefetch = None  # the next batch starts workers anew
            raise

    def _request(self, place):
        """What a worker is asked for: (pairs (B, P), S, T, epoch); of this process's rows."""
        bucket, lines = self._plan[place]
        return self._pairs(bucket, lines), bucket.source_length, bucket.target_length, self._epoch

    def _pairs(self, bucket, lines):
        """(B, P) pairs of those lines of a batch that are this process's; -1 for none."""
        index, count = self.process
        lines = lines[index::count]
        return lines[:, None] if bucket.packs is None else bucket.packs.lines(lines)

    def lengths(self):
        """Positions of the rows of all pairs that batches are made of, eos counted: source (pairs,), target (pairs,)."""
        pairs = [bucket.packs.pairs if bucket.packs else np.unique(bucket.repeated.members) for bucket in self._buckets]
        pairs = np.sort(np.concatenate(pairs))
        return self._source_lengths[pairs], self._target_lengths[pairs]

    def fingerprint(self):
        """Hexadecimal digits that two Batches share if their epochs are dealt out alike: pairs of the same lengths in the same
        order, the same shapes and seed. Words of the texts may differ."""
        numbers = [self.seed, self.shuffle, self.full_length, *(size for shape in self.shapes for size in shape)]
        digest = hashlib.sha256(repr((list(map(int, numbers)), self.sampling)).encode())
        for lengths in self.lengths():
            digest.update(np.ascontiguousarray(lengths, "<i4"))
        return digest.hexdigest()[:32]

    def close(self):
        """Ends the workers, if there are any; they also end with this object. The next batch that is asked for starts new ones."""
        if self._prefetch is not None:
            self._prefetch.close()
            self._prefetch = None

    def on_epoch_begin(self):
        """Called by Keras. Batches that are read before Keras has begun an epoch end none."""
        self._is_watched = True

    def on_epoch_end(self):
        """Called by Keras; also before the first epoch, and with ``steps_per_epoch`` in the middle of one, while it reads on."""
        self._is_watched = self._is_watched and not self._is_served


def _check_integers(minimum, **arguments):
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not minimum <= value < 2**63:
            raise ValueError(f"{name} must be an integer from {minimum} to 2**63 - 1. Received: {value!r}.")


def _check_sampling(alpha, tokenizer):
    """Raises ValueError unless both sides can be sampled with ``alpha``."""
    for one in (source_tokenizer(tokenizer), target_tokenizer(tokenizer)):
        if not hasattr(one, "sample"):
            raise ValueError(
                f"sampling needs a kt.Tokenizer with a unigram model. Received: a {type(one).__name__}. Train one, or leave "
                "sampling out."
            )
        one.sample("a", (0, 0, 0), alpha=alpha)


def _checked_process(process):
    is_pair = isinstance(process, tuple) and len(process) == 2 and all(isinstance(x, int) for x in process)
    if not is_pair or not 0 <= process[0] < process[1]:
        raise ValueError(f"process must be (index, count) with 0 <= index < count. Received: {process!r}.")
    return process
