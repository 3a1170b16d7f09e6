"""A corpus in any form that Batches takes -> rows of ids with their counts. Between the tokenizer and Batches; needs no Keras."""

import array
import dataclasses
import hashlib
import itertools
import os

import numpy as np

from keras_transformer.text.corpus import Corpus, PairStream, none_left
from keras_transformer.text.filters import PairCounts
from keras_transformer.text.foreign import as_tokenizer
from keras_transformer.text.joined import JoinedRows, JoinedTexts
from keras_transformer.text.mixture import Mixture
from keras_transformer.text.pair import source_tokenizer, vocabulary_sizes
from keras_transformer.text.rows import CHUNK, RowsBuilder, Texts, encode_pairs
from keras_transformer.text.store import LINES, MANIFEST, TOKENIZER, Store
from keras_transformer.text.tokenizer_files import load_tokenizer


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
    """Reads what Batches was given, in any of its forms; an EncodedCorpus."""
    if isinstance(source, Mixture):
        return _mixed(source, tokenizer, keep_texts)
    if target is None and isinstance(source, str | os.PathLike) and os.path.isdir(source):
        return _prepared(source, tokenizer)
    if tokenizer is None:
        if target is None and isinstance(source, str | os.PathLike) and not os.path.exists(source):
            raise ValueError(
                f"There is no folder {os.fspath(source)} of prepared text (looked in {os.getcwd()}). Check the path."
            )
        raise ValueError("Text needs a tokenizer. Received: tokenizer=None. Only prepared text brings its own.")
    tokenizer = as_tokenizer(tokenizer)
    stream = source if isinstance(source, PairStream | Corpus) else PairStream(source, target)
    sides = [RowsBuilder(side.vocabulary_size) for side in (source_tokenizer(tokenizer), tokenizer)]
    texts = array.array("q"), [], []  # lines, sources, targets
    counts = _encode(stream, tokenizer, sides, texts, keep_texts)
    if not texts[0]:
        raise ValueError(none_left(stream, stream.counts))
    name = " and ".join(dict.fromkeys((stream.source_name, stream.target_name)))
    corpus = EncodedCorpus(tokenizer, *(side.rows() for side in sides), counts, name, texts[0].__getitem__)
    if keep_texts:
        corpus.source_texts, corpus.target_texts = (Texts(side, texts[0]) for side in texts[1:])
    return corpus


def _mixed(mixture, tokenizer, keep_texts):
    """Each corpus read by itself; prepared ones stay in their folders."""
    parts = []
    for corpus in mixture.corpora:
        source, target = corpus if isinstance(corpus, tuple) and len(corpus) == 2 else (corpus, None)
        parts.append(encode_corpus(source, target, tokenizer, keep_texts))
        tokenizer = parts[-1].tokenizer  # prepared text's, which the others must have too
    sizes = [len(part.source.lengths) for part in parts]
    sides = [JoinedRows([getattr(part, side) for part in parts], sizes) for side in ("source", "target")]
    firsts = np.cumsum(sizes) - sizes
    counts = sum((part.counts for part in parts), PairCounts(0, 0))
    name = " and ".join(dict.fromkeys(part.name for part in parts))

    def line_of(pair):
        number = int(np.searchsorted(firsts, pair, side="right")) - 1
        return parts[number].line_of(pair - firsts[number])

    corpus = EncodedCorpus(tokenizer, *sides, counts, name, line_of)
    if keep_texts:
        corpus.source_texts, corpus.target_texts = (
            JoinedTexts([getattr(part, side) for part in parts], sizes) for side in ("source_texts", "target_texts")
        )
    corpus.mixture, corpus.corpus_of = mixture, np.repeat(np.arange(len(sizes)), sizes)
    return corpus


def _encode(stream, tokenizer, sides, texts, keep_texts):
    """Cuts a corpus into pieces, chunk by chunk; PairCounts."""
    pairs, blank = iter(stream), 0
    while chunk := list(itertools.islice(pairs, CHUNK)):
        source, target, kept = encode_pairs(tokenizer, chunk)
        blank += len(chunk) - len(kept)
        for side, rows, name in zip(sides, (source, target), ("source", "target"), strict=True):
            rows = rows if len(kept) == len(chunk) else [rows[place] for place in kept]
            side.extend(rows, lambda number, name=name: stream.place(chunk[kept[number]][0], name))  # noqa: B023, called now
        texts[0].extend(chunk[place][0] for place in kept)
        if keep_texts:
            for column in (1, 2):
                texts[column].extend(chunk[place][column] for place in kept)
    return stream.counts + PairCounts(0, -blank, {"empty": blank} if blank else {})


def _prepared(folder, tokenizer):
    store = Store(folder)
    own = _tokenizer_of(folder, store.manifest)
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


def _tokenizer_of(folder, manifest):
    path = os.path.join(folder, TOKENIZER)
    tokenizer = load_tokenizer(path)
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest["tokenizer"]:
            raise ValueError(
                f"{path} is not the tokenizer that {folder} was prepared with. Put that one back, or prepare into a new folder."
            )
    if tokenizer.vocabulary_size != manifest["vocabulary_size"]:
        raise ValueError(
            f"{os.path.join(folder, MANIFEST)} is damaged: it tells of {manifest['vocabulary_size']} pieces, its tokenizer has "
            f"{tokenizer.vocabulary_size}. Prepare the text into a new folder."
        )
    return tokenizer
