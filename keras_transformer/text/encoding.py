"""A corpus in whatever form -> rows of ids with their counts. Between the tokenizer and Batches; needs no Keras."""

import array
import dataclasses
import hashlib
import itertools
import os

import numpy as np

from keras_transformer.text.corpus import Corpus, PairStream, none_left
from keras_transformer.text.filters import PairCounts
from keras_transformer.text.foreign import as_tokenizer
from keras_transformer.text.mixture import Mixture
from keras_transformer.text.pair import source_tokenizer, vocabulary_sizes
from keras_transformer.text.rows import RowsBuilder, Texts
from keras_transformer.text.store import LINES, TOKENIZER, Store
from keras_transformer.text.tokenizer_files import load_tokenizer

# Pairs cut into pieces at a time.
_CHUNK = 8192


@dataclasses.dataclass
class EncodedCorpus:
    """What Batches needs of a corpus: rows, counts, perhaps texts."""

    tokenizer: object
    source: object
    target: object
    counts: PairCounts
    name: str
    line_of: object  # function that gives the line a pair was read from
    source_texts: object = None
    target_texts: object = None
    mixture: Mixture | None = None
    corpus_of: np.ndarray | None = None  # of each pair, in a mixture

    def repeats(self, pairs):
        """How often each of these pairs occurs in an epoch; None for once."""
        if self.mixture is None:
            return None
        corpus_of = self.corpus_of[pairs]
        sizes = np.bincount(corpus_of, minlength=len(self.mixture.corpora))
        if not sizes.all():
            raise ValueError(
                f"No pair of corpus {int(np.argmin(sizes))} of the mixture is left. Raise max_length, or leave it out."
            )
        return np.array(self.mixture.repeats(sizes.tolist()))[corpus_of]


def encode_corpus(source, target, tokenizer, keep_texts):
    """Whatever Batches was given, read."""
    if target is None and isinstance(source, str | os.PathLike) and os.path.isdir(source):
        return _prepared(source, tokenizer)
    if tokenizer is None:
        raise ValueError("Text needs a tokenizer. Received: tokenizer=None. Only prepared text brings its own.")
    tokenizer = as_tokenizer(tokenizer)
    mixture = source if isinstance(source, Mixture) else None
    streams = [_stream(*parts) for parts in ([(x,) for x in mixture.corpora] if mixture else [(source, target)])]
    sides = [RowsBuilder(side.vocabulary_size) for side in (source_tokenizer(tokenizer), tokenizer)]
    texts, sizes, counts = (array.array("q"), [], []), [], PairCounts(0, 0)  # lines, sources, targets
    for number, stream in enumerate(streams):
        size, corpus_counts = _encode(stream, tokenizer, sides, texts, keep_texts, number * LINES)
        sizes.append(size)
        counts = counts + corpus_counts
    if not sum(sizes):
        raise ValueError(none_left(streams[0]))
    name = " and ".join(dict.fromkeys(name for stream in streams for name in (stream.source_name, stream.target_name)))
    corpus = EncodedCorpus(
        tokenizer, *(side.rows() for side in sides), counts, name, lambda pair: texts[0][pair] % LINES
    )
    if keep_texts:
        corpus.source_texts, corpus.target_texts = (Texts(side, texts[0]) for side in texts[1:])
    if mixture:
        corpus.mixture, corpus.corpus_of = mixture, np.repeat(np.arange(len(sizes)), sizes)
    return corpus


def _stream(source, target=None):
    if isinstance(source, PairStream | Corpus):
        return source
    if target is None and isinstance(source, tuple) and len(source) == 2:
        return PairStream(*source)
    return PairStream(source, target)


def _encode(stream, tokenizer, sides, texts, keep_texts, first_line):
    """Cuts a corpus into pieces, chunk by chunk; (pairs, PairCounts). Its lines count from first_line."""
    pairs, size, blank = iter(stream), 0, 0
    while chunk := list(itertools.islice(pairs, _CHUNK)):
        source = source_tokenizer(tokenizer).encode([pair[1] for pair in chunk], add_eos=True)
        target = tokenizer.encode([pair[2] for pair in chunk], add_bos=True, add_eos=True)
        # Text of which no piece is left, such as a byte order mark alone.
        kept = [place for place in range(len(chunk)) if len(source[place]) > 1 and len(target[place]) > 2]
        blank += len(chunk) - len(kept)
        size += len(kept)
        for side, rows, name in zip(sides, (source, target), ("source", "target"), strict=True):
            rows = rows if len(kept) == len(chunk) else [rows[place] for place in kept]
            side.extend(rows, lambda number, name=name: stream.place(chunk[kept[number]][0], name))  # noqa: B023, called now
        texts[0].extend(first_line + chunk[place][0] for place in kept)
        if keep_texts:
            for column in (1, 2):
                texts[column].extend(chunk[place][column] for place in kept)
    return size, stream.counts + PairCounts(0, -blank, {"empty": blank} if blank else {})


def _prepared(folder, tokenizer):
    store = Store(folder)
    own = _tokenizer_of(folder, store.manifest["tokenizer"])
    tokenizer = own if tokenizer is None else as_tokenizer(tokenizer)
    if tokenizer != own:
        raise ValueError(
            f"{folder} was prepared with another tokenizer, of {vocabulary_sizes(own)} pieces. Received: one of "
            f"{vocabulary_sizes(tokenizer)}. Leave tokenizer out: prepared text has its own."
        )
    counts = PairCounts(**store.manifest["counts"])
    texts = store.source_texts, store.target_texts
    return EncodedCorpus(
        tokenizer,
        store.source,
        store.target,
        counts,
        os.fspath(folder),
        lambda pair: texts[0].line(pair) % LINES,
        *texts,
    )


def _tokenizer_of(folder, sha256):
    path = os.path.join(folder, TOKENIZER)
    tokenizer = load_tokenizer(path)
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise ValueError(
                f"{path} is not the tokenizer that {folder} was prepared with. Put that one back, or prepare into a new folder."
            )
    return tokenizer
