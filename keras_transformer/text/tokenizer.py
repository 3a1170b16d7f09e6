"""Text <-> ids: a SentencePiece vocabulary shared by source and target.

Kudo and Richardson 2018, "SentencePiece".
"""

import io
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece

from keras_transformer.text.corpus import read_lines
from keras_transformer.text.formats import table_kind
from keras_transformer.text.ids import check_ids, is_batch, text_ids
from keras_transformer.text.pieces import user_symbols

# SentencePiece adds up counts thread by thread, so that the vocabulary depends on the number of threads: it is fixed, and not
# taken from the machine.
_TRAINING_THREADS = 16
# Bytes of a text to learn from. SentencePiece's own 4192 would leave out longer texts without a word.
_LONGEST_TEXT = 2**30  # the most it allows
_SPECIAL_PIECES = ("<pad>", "<unk>", "<s>", "</s>")
# "train.en.gz", "data/train.en", but not "Good morning." or "ein Hund rennt".
_FILE_NAME = re.compile(r"\S*[/\\]\S+|\S+\.\w+")


class Tokenizer:
    """A SentencePiece model: text to ids and back.

    Byte fallback spells what the vocabulary lacks in UTF-8 bytes, so that no text is unknown. Ids 0
    to 3 are pad, unk, bos, eos.

    Decoding gives back the encoded text as it was normalised: with the default "nfkc" the NFKC form (a composed "é",
    "..." for the one character "…"), runs of spaces made one and spaces at the ends taken off. "▁" (U+2581), with which
    pieces write a space, comes back as a space.

    Made by Tokenizer.train, load or from_bytes.

    Attributes:
        vocabulary_size: V, special ids and bytes included.
        pad_id, unk_id, bos_id, eos_id: the special ids.
        user_symbols: tuple of the symbols that ``train`` was given, such as language tags.
        special_ids: array of the four and of the user symbols: what ``decode`` leaves out.

    Args:
        serialized: bytes of a SentencePiece model that has all four special ids.

    Raises:
        ValueError: the bytes are no such model.

    Example:

    >>> import keras_transformer as kt
    >>> tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=280)
    >>> ids = tokenizer.encode("a dog runs", add_eos=True)
    >>> ids[-1], tokenizer.decode(ids)
    (3, 'a dog runs')

    Reference: Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226
    """

    def __init__(self, serialized):
        try:
            if not serialized:  # SentencePiece takes it for "load later"
                raise RuntimeError
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=serialized)
        except (RuntimeError, TypeError):
            raise ValueError(
                "These bytes are not a SentencePiece model. Give the bytes of a file that "
                "Tokenizer.save or SentencePiece wrote."
            ) from None
        self.vocabulary_size = self._processor.vocab_size()
        self.pad_id = self._processor.pad_id()
        self.unk_id = self._processor.unk_id()
        self.bos_id = self._processor.bos_id()
        self.eos_id = self._processor.eos_id()
        missing = [name for name in ("pad_id", "unk_id", "bos_id", "eos_id") if getattr(self, name) < 0]
        if missing:
            raise ValueError(
                f"The SentencePiece model lacks {', '.join(missing)}. Train it with pad_id=0, unk_id=1, bos_id=2, "
                "eos_id=3."
            )
        self._serialized = bytes(serialized)
        self.user_symbols = user_symbols(self._serialized)
        symbols = [self._processor.piece_to_id(symbol) for symbol in self.user_symbols]
        self.special_ids = np.array([self.pad_id, self.unk_id, self.bos_id, self.eos_id, *symbols])

    @classmethod
    def train(
        cls,
        files_or_texts,
        vocabulary_size=8000,
        model_type="unigram",
        normalization="nfkc",
        character_coverage=0.9999,
        user_symbols=(),
    ):
        """Learns a vocabulary, the same one on every machine.

        Args:
            files_or_texts: one file; a list of files, learnt jointly (plain, gzip or zstd); or an
                iterable of texts. Strings of a list are files when they name some, texts otherwise.
            vocabulary_size: V wanted. A corpus too small for it gives fewer; read
                ``vocabulary_size`` of the result.
            model_type: "unigram" or "bpe".
            normalization: of text before everything: "nfkc", "nfkc_cf" (lower-cases as well),
                "nmt_nfkc" or "identity".
            character_coverage: share of the corpus's characters that get pieces of their own, from
                0.98 to 1; the rarest are spelt in bytes. Take 0.9995 for scripts of thousands of
                characters.
            user_symbols: list of texts, each of which is one piece wherever it occurs and is left out by ``decode``, such as the
                tag "<2de>" with which a source asks for its language (Johnson et al. 2017, section 3).

        Returns:
            Tokenizer.

        Raises:
            ValueError: no text, something else than str, a missing or unreadable file, one of columns,
                vocabulary_size below what bytes and characters need, or another impossible argument.
        """
        _check_word("model_type", model_type, ("unigram", "bpe"))
        _check_word("normalization", normalization, ("nfkc", "nfkc_cf", "nmt_nfkc", "identity"))
        if type(vocabulary_size) is not int or not 0 < vocabulary_size < 2**31:
            raise ValueError(f"vocabulary_size must be an integer from 1 to 2**31 - 1. Received: {vocabulary_size!r}.")
        if not isinstance(character_coverage, int | float) or not 0.98 <= character_coverage <= 1:
            raise ValueError(f"character_coverage must be a number from 0.98 to 1. Received: {character_coverage!r}.")
        user_symbols = _checked_symbols(user_symbols)
        model, failures = io.BytesIO(), []
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_utf8(_texts(files_or_texts), failures),
                model_writer=model,
                model_type=model_type,
                vocab_size=vocabulary_size,
                hard_vocab_limit=False,
                character_coverage=character_coverage,
                normalization_rule_name=normalization,
                byte_fallback=True,
                max_sentence_length=_LONGEST_TEXT,
                user_defined_symbols=user_symbols,
                required_chars="▁",  # spelt in bytes, a space would not come back as one
                pad_id=0,
                unk_id=1,
                bos_id=2,
                eos_id=3,
                num_threads=_TRAINING_THREADS,
                minloglevel=2,  # errors only
            )
        except (RuntimeError, OSError) as error:
            if failures:
                raise failures[0] from None
            raise ValueError(_training_advice(str(error), vocabulary_size)) from None
        return cls(model.getvalue())

    @classmethod
    def load(cls, path):
        """Reads a file that ``save`` wrote, or any SentencePiece model with the four special ids.

        Raises:
            ValueError: there is no such file, or it is not such a model.
        """
        try:
            serialized = Path(path).read_bytes()
        except OSError as error:
            raise ValueError(f"The tokenizer {path} cannot be read: {error.strerror}. Check the path.") from None
        try:
            return cls(serialized)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def save(self, path):
        """Writes a standard SentencePiece model file, which any SentencePiece reads; a missing folder is made."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._serialized)

    @classmethod
    def from_bytes(cls, serialized):
        """The tokenizer whose ``to_bytes`` these are."""
        return cls(serialized)

    def to_bytes(self):
        """The whole tokenizer as bytes: the content of its file."""
        return self._serialized

    def encode(self, text, add_bos=False, add_eos=False):
        """Ids of a text, or of each text of a list.

        Text that looks like a special piece ("</s>") is text: special ids come only from
        ``add_bos`` and ``add_eos``.

        Args:
            text: str, or a list of str.
            add_bos: put bos_id in front.
            add_eos: put eos_id behind.

        Returns:
            list of int for a str; list of those for a list.

        Raises:
            ValueError: something else than str, or a str that UTF-8 cannot write (a lone
                surrogate).
        """
        if isinstance(text, bytes) or not isinstance(text, Iterable):
            raise ValueError(f"encode takes str or a list of str. Received: {type(text).__name__} {text!r}.")
        texts = [text] if isinstance(text, str) else list(text)
        for number, item in enumerate(texts):
            if not isinstance(item, str):
                raise ValueError(
                    f"encode takes str or a list of str. Item {number} is of type {type(item).__name__}: {item!r}."
                )
            _check_utf8(item, f"Text {number}")
        rows = self._processor.encode(texts, out_type=int, add_bos=add_bos, add_eos=add_eos)
        return rows[0] if isinstance(text, str) else rows

    def sample(self, text, key, alpha=0.2, most=None, candidates=16):
        """Ids of a text cut into pieces in one of its likely ways: other ways in other epochs make a model robust.

        One of the best ways is drawn with a probability proportional to P(pieces)^alpha: with alpha 0 all are equally likely, with
        a large alpha the best is nearly always drawn. The draw depends on the key alone, so that a training that is resumed meets
        the same pieces.

        Args:
            text: str.
            key: (seed, epoch, line), integers from 0.
            alpha: smoothness of the draw, from 0.
            most: the most pieces; ways with more are left out. If all have more, the ids are those of ``encode``.
            candidates: how many of the best ways are drawn from.

        Returns:
            list of int, without bos and eos.

        Raises:
            ValueError: the model is no unigram model, alpha is negative, or ``text`` is no str.

        Example:

        >>> import keras_transformer as kt
        >>> tokenizer = kt.Tokenizer.train(["a dog runs", "a dog sleeps"], vocabulary_size=280)
        >>> ids = tokenizer.sample("a dog runs", key=(1, 0, 7), alpha=0.1)
        >>> ids == tokenizer.sample("a dog runs", key=(1, 0, 7), alpha=0.1), tokenizer.decode(ids)
        (True, 'a dog runs')

        Reference: Kudo 2018, "Subword Regularization", section 3.3.
        """
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be a number from 0. Received: {alpha!r}.")
        usual = self.encode(text)
        try:
            rows = self._processor.nbest_encode(text, nbest_size=candidates, out_type=int)
        except RuntimeError:
            raise ValueError(
                'Only a unigram model knows several ways to cut a text. Train the tokenizer with model_type="unigram".'
            ) from None
        rows = [ids for ids in rows if most is None or len(ids) <= most]
        if len(rows) < 2:
            return rows[0] if rows else usual
        scores = alpha * np.array([sum(map(self._processor.get_score, ids)) for ids in rows])
        ends = np.cumsum(np.exp(scores - scores.max()))
        seed, epoch, line = key
        bits = np.random.Philox(key=np.array([seed, epoch], "uint64"), counter=np.array([0, line, 0, 1], "uint64"))
        drawn = (int(bits.random_raw(1)[0]) >> 11) * 2.0**-53 * ends[-1]
        return rows[int(np.searchsorted(ends, drawn, side="right"))]

    def decode(self, ids):
        """Text of a row of ids, or of each row.

        Whatever follows the first eos_id is ignored, special ids and user symbols are dropped, so raw output of a
        search can be given.

        Args:
            ids: list of int or array (T,); or a list of such rows, or array (B, T).

        Returns:
            str for one row; list of str for several.

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        if is_batch(ids):
            return [self.decode(row) for row in ids]
        return self._processor.decode(text_ids(self._row(ids), self.eos_id, self.special_ids))

    def pieces(self, ids):
        """The piece behind each id of one row, special ids included: ['▁a', '▁dog', '</s>'].

        Raises:
            ValueError: an id is outside the vocabulary.
        """
        return [self._processor.id_to_piece(piece) for piece in self._row(ids).tolist()]

    def _row(self, ids):
        """One row of ids as an array, checked."""
        row = np.asarray(ids)
        if row.ndim != 1:
            raise ValueError(f"Expected a row of ids, shape (T,). Received: shape {row.shape}, {type(ids).__name__}.")
        check_ids(row, self.vocabulary_size)
        return row

    def __eq__(self, other):
        return isinstance(other, Tokenizer) and self._serialized == other._serialized

    def __hash__(self):
        return hash(self._serialized)

    def __reduce__(self):
        return Tokenizer, (self._serialized,)

    def __repr__(self):
        return f"Tokenizer(vocabulary_size={self.vocabulary_size})"


def _texts(files_or_texts):
    """Yields the texts of whatever ``train`` was given."""
    if isinstance(files_or_texts, str | os.PathLike):
        files_or_texts = [Path(files_or_texts)]
    if isinstance(files_or_texts, list | tuple) and _are_files(files_or_texts):
        for file in files_or_texts:
            if table_kind(file):  # else braces and names of columns would be learnt as text
                raise ValueError(
                    f"{file} holds source and target in columns, by its name. Give the texts themselves: "
                    "(text for _, *pair in text.PairStream(FILE, columns=...) for text in pair)."
                )
            yield from read_lines(file)
    elif isinstance(files_or_texts, Iterable):
        yield from files_or_texts
    else:
        raise ValueError(
            f"files_or_texts is of type {type(files_or_texts).__name__}: {files_or_texts!r}. Expected a file's path, a "
            "list of paths, or an iterable of str."
        )


def _utf8(texts, failures):
    """The texts in UTF-8, for SentencePiece. It would garble an exception of theirs, which is therefore kept in ``failures``."""
    try:
        for number, text in enumerate(texts, start=1):
            if not isinstance(text, str):
                raise ValueError(
                    f"Text {number} to learn from is of type {type(text).__name__}: {text!r}. Expected str."
                )
            yield _check_utf8(text, f"Text {number} to learn from")
    except Exception as error:
        failures.append(error)
        raise


def _check_utf8(text, name):
    """The text in UTF-8, which cannot write the halves of surrogate pairs."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} cannot be written in UTF-8: {text!r} has a lone surrogate at {error.start}. Take it out."
        ) from None


def _are_files(items):
    """Files when a path is among them, one exists, or all are written like file names: then a wrong name is an error."""
    if any(isinstance(item, os.PathLike) for item in items):
        return True
    strings = [item for item in items if isinstance(item, str) and item and "\0" not in item and len(item) < 1024]
    if any(os.path.isfile(item) for item in strings):
        return True
    return bool(strings) and all(_FILE_NAME.fullmatch(item) for item in items if isinstance(item, str))


def _checked_symbols(symbols):
    """User symbols as a list of str."""
    if isinstance(symbols, str):  # else each of its letters would be a symbol, which decode leaves out
        raise ValueError(f"user_symbols must be a list of str. Received: a single str, {symbols!r}; give [symbol].")
    symbols = list(symbols)
    for symbol in symbols:
        if not isinstance(symbol, str) or not symbol.strip() or symbol in _SPECIAL_PIECES:
            raise ValueError(f"A user symbol must be a text that is no special piece. Received: {symbol!r}.")
    twice = [symbol for number, symbol in enumerate(symbols) if symbol in symbols[:number]]
    if twice:
        raise ValueError(f"Each user symbol is given once. Received twice: {twice[0]!r}.")
    return symbols


def _check_word(name, word, known):
    if word not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}. Received: {word!r}.")


def _training_advice(message, vocabulary_size):
    """SentencePiece's reason to give up, in our words where it is a common one."""
    if "sentences_.empty()" in message:
        return "There is no text to learn a vocabulary from: all files or texts are empty. Give at least one sentence."
    needed = re.search(r"required_chars\. \d+ vs (\d+)", message)
    if needed:
        return (
            f"vocabulary_size={vocabulary_size} is too small: special ids, 256 bytes and the corpus's characters alone "
            f"need {needed.group(1)}. Raise vocabulary_size, or lower character_coverage."
        )
    if "insert_id" in message:
        return f"vocabulary_size={vocabulary_size} is too small: special ids and 256 bytes alone need 260. Raise vocabulary_size."
    return f"SentencePiece could not learn a vocabulary of {vocabulary_size} pieces: {message}"
