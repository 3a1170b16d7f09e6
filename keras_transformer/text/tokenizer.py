"""Text to ids and back: a SentencePiece model with fixed special ids. First in the flow.

Kudo and Richardson 2018 (SentencePiece); Kudo 2018 (unigram), Sennrich et al. 2016 (BPE).
"""

import io
import re
from pathlib import Path

import sentencepiece

from keras_transformer.text.corpus import read_lines

PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3


class Tokenizer:
    """Cuts text into pieces of a vocabulary learnt from data.

    Ids: pad_id=0, unk_id=1, bos_id=2, eos_id=3, then the 256 bytes (so that any character can be written), then pieces. Text is
    normalised by Unicode NFKC and runs of spaces become one, so ``decode(encode(text))`` gives the normalised text.

    Args:
        model: the serialised SentencePiece model, bytes; usually made by ``train`` or ``load``.

    Example:

    >>> import keras_transformer as kt
    >>> tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=300)
    >>> tokenizer.decode(tokenizer.encode("a dog rennt"))
    'a dog rennt'
    """

    pad_id, unk_id, bos_id, eos_id = PAD_ID, UNK_ID, BOS_ID, EOS_ID

    def __init__(self, model):
        self._model = bytes(model)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(self._model)
        except RuntimeError as error:
            raise ValueError(f"These bytes are no SentencePiece model: {error}") from None
        found = tuple(
            getattr(self._processor, name)() for name in ("pad_id", "unk_id", "bos_id", "eos_id")
        )
        if found != (PAD_ID, UNK_ID, BOS_ID, EOS_ID):
            raise ValueError(
                f"The SentencePiece model has pad, unk, bos, eos ids {found}; expected (0, 1, 2, 3). Train it with "
                "Tokenizer.train, or with --pad_id=0 --unk_id=1 --bos_id=2 --eos_id=3."
            )

    @classmethod
    def train(cls, texts, vocabulary_size=8000, model_type="unigram"):
        """Learns a vocabulary, joint over all that is given.

        Args:
            texts: list of files (plain or .gz, one text a line), or an iterable of texts. A list whose every entry is an existing
                file is read as files.
            vocabulary_size: pieces in all, the 4 special ids and 256 bytes included. Small corpora may not hold so many: then fewer
                are learnt, and ``vocabulary_size`` of the result says how many.
            model_type: "unigram" or "bpe".

        Raises:
            ValueError: no text, a vocabulary too small for the characters of the text, or an unknown model_type.
        """
        if model_type not in ("unigram", "bpe"):
            raise ValueError(f'model_type must be "unigram" or "bpe". Received: {model_type!r}.')
        if isinstance(texts, str | Path):
            texts = [texts]
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_sentences(texts),
                model_writer=model,
                vocab_size=vocabulary_size,
                model_type=model_type,
                hard_vocab_limit=False,
                byte_fallback=True,
                character_coverage=0.9999,
                normalization_rule_name="nfkc",
                max_sentence_length=1 << 20,
                pad_id=PAD_ID,
                unk_id=UNK_ID,
                bos_id=BOS_ID,
                eos_id=EOS_ID,
                num_threads=1,  # the same vocabulary on every machine
                minloglevel=2,
            )
        except RuntimeError as error:
            raise ValueError(_training_advice(str(error), vocabulary_size)) from None
        return cls(model.getvalue())

    @classmethod
    def load(cls, path):
        """Reads a model written by ``save``."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"There is no tokenizer at {path}. Expected a file written by Tokenizer.save.")
        return cls(path.read_bytes())

    def save(self, path):
        """Writes the model to one file."""
        Path(path).write_bytes(self._model)

    def to_bytes(self):
        """The serialised model, as ``Tokenizer(model)`` takes it."""
        return self._model

    @property
    def vocabulary_size(self):
        """V: how many ids there are."""
        return self._processor.get_piece_size()

    def encode(self, texts, add_bos=False, add_eos=False):
        """Ids of a text (list of int), or of each of a list of texts (list of lists)."""
        if isinstance(texts, str):
            return self._processor.encode(texts, add_bos=add_bos, add_eos=add_eos)
        return self._processor.encode(list(texts), add_bos=add_bos, add_eos=add_eos, num_threads=1)

    def decode(self, ids):
        """Text of a row of ids, or of each of several rows; what stands after eos, and all special ids, are left out."""
        rows = [row.tolist() if hasattr(row, "tolist") else row for row in ids]
        if rows and isinstance(rows[0], list | tuple):
            return self._processor.decode([self._content(row) for row in rows])
        return self._processor.decode(self._content(rows))

    def pieces(self, ids):
        """The pieces of a row of ids, special ones included."""
        return [self._processor.id_to_piece(int(index)) for index in ids]

    def _content(self, row):
        if EOS_ID in row:
            row = row[: row.index(EOS_ID)]
        return [index for index in row if index not in (PAD_ID, UNK_ID, BOS_ID)]

    def __eq__(self, other):
        return isinstance(other, Tokenizer) and self._model == other._model

    def __hash__(self):
        return hash(self._model)


def _sentences(texts):
    """The texts themselves, or the lines of the files they name."""
    texts = list(texts)
    if not texts:
        raise ValueError("There is no text to learn a vocabulary from. Pass files or texts.")
    if not all(isinstance(text, Path) or (len(text) < 4096 and Path(text).is_file()) for text in texts):
        yield from texts
        return
    for path in texts:
        yield from read_lines(path)


def _training_advice(message, vocabulary_size):
    needed = re.search(r"required_chars[^0-9]*(\d+)|(\d+) > \d+", message)
    if needed or "smaller than required" in message:
        return (
            f"vocabulary_size={vocabulary_size} is too small: the special ids, the 256 bytes and the characters of the text do "
            f"not fit. Choose a larger one. (SentencePiece: {message.strip().splitlines()[-1]})"
        )
    return f"No vocabulary could be learnt from this text: {message.strip().splitlines()[-1]}"
