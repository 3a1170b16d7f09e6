"""Tokenizers of other libraries in place of ours: keras-nlp's and those of Hugging Face's tokenizers. Needs no Keras."""

import functools
import json
from pathlib import Path

import numpy as np

from keras_transformer.text.ids import check_ids, is_batch, text_ids
from keras_transformer.text.tokenizer import Tokenizer

# What libraries call the special pieces, ours first.
_NAMES = {
    "pad": ("<pad>", "[PAD]", "<|pad|>"),
    "unk": ("<unk>", "[UNK]", "<|unk|>"),
    "bos": ("<s>", "[BOS]", "<bos>", "[START]", "[CLS]"),
    "eos": ("</s>", "[EOS]", "<eos>", "[END]", "[SEP]", "<|endoftext|>"),
}


def as_tokenizer(tokenizer, **pieces):
    """Makes a tokenizer of another library one that Batches, Translator and callbacks take.

    Args:
        tokenizer: a Tokenizer, or an object with its methods: given back as it is. A ``tokenizers.Tokenizer`` of Hugging Face. A
            tokenizer of keras-nlp: a SentencePieceTokenizer with the four special ids becomes a Tokenizer.
        pieces: names of special pieces where they are unusual: pad="[PAD]", unk=, bos=, eos=.

    Returns:
        An object with vocabulary_size, pad_id, unk_id, bos_id, eos_id, encode, decode. Give a Transformer the same pad_id, bos_id
        and eos_id.

    Raises:
        ValueError: it is no tokenizer, lacks a special piece, or ``pieces`` has another name.

    Example:

    >>> import keras_transformer as kt
    >>> from keras_transformer.text import as_tokenizer
    >>> tokenizer = kt.Tokenizer.train(["a dog runs"], vocabulary_size=270)
    >>> as_tokenizer(tokenizer) is tokenizer
    True
    """
    _check_kinds(pieces)
    if hasattr(tokenizer, "encode_batch") and hasattr(tokenizer, "token_to_id"):
        return HuggingFaceTokenizer(tokenizer.to_str(), **pieces)
    if callable(getattr(tokenizer, "vocabulary_size", None)) and hasattr(tokenizer, "detokenize"):
        return _of_keras_nlp(tokenizer, pieces)
    if hasattr(tokenizer, "vocabulary_size") and hasattr(tokenizer, "encode"):
        return tokenizer
    raise ValueError(
        f"tokenizer is of type {type(tokenizer).__name__}. Expected: a Tokenizer, one of keras-nlp, or a tokenizers.Tokenizer."
    )


def _check_kinds(pieces):
    unknown = [name for name in pieces if name not in _NAMES]
    if unknown:
        raise ValueError(
            f"Special pieces are named as {', '.join(f'{name}=' for name in _NAMES)}. Received: "
            f"{unknown[0]}={pieces[unknown[0]]!r}."
        )


class _Foreign:
    """What all adapters share: special ids by name, and rows cut at eos. A subclass has ``_encode`` and ``_decode``."""

    def _find_special(self, find, pieces):
        _check_kinds(pieces)
        self._pieces = {}
        for kind, names in _NAMES.items():
            names = (pieces[kind],) if kind in pieces else names
            found = [(name, number) for name in names if (number := find(name)) is not None]
            if not found and kind != "unk":
                raise ValueError(
                    f"The tokenizer has no {kind} piece. Looked for: {', '.join(names)}. Name its own as {kind}=..., or add one."
                )
            name, number = found[0] if found else (None, -1)
            self._pieces |= {kind: name} if name else {}
            setattr(self, f"{kind}_id", number)
        if len({self.pad_id, self.bos_id, self.eos_id}) < 3:
            raise ValueError(f"pad, bos and eos must be three pieces. Received: {self._pieces}.")
        self._reserved = {self.pad_id, self.bos_id, self.eos_id}

    def encode(self, text, add_bos=False, add_eos=False):
        """Ids of a text, or of each text of a list; text that looks like a special piece is text. See Tokenizer.encode."""
        if isinstance(text, str):
            return self.encode([text], add_bos, add_eos)[0]
        begin, end = [self.bos_id] * add_bos, [self.eos_id] * add_eos
        return [[*begin, *row, *end] for row in self._rows(list(text))]

    def _rows(self, texts):
        """What ``_encode`` gives, without the ids of pad, bos and eos: within a row they would end it, or hide a part of it."""
        rows = self._encode(texts)
        spelt = [number for number, row in enumerate(rows) if not self._reserved.isdisjoint(row)]
        for number, row in zip(spelt, self._encode_literally([texts[number] for number in spelt]), strict=True):
            unknown = [self.unk_id] if self.unk_id >= 0 else []
            rows[number] = [x for piece in row for x in (unknown if piece in self._reserved else [piece])]
        return rows

    def _encode_literally(self, texts):
        """Rows of texts that spell special pieces; where the library can, cut into pieces like other text."""
        return self._encode(texts)

    def decode(self, ids):
        """Text of a row of ids, or of each row, up to its eos and without special ids; see Tokenizer.decode."""
        if is_batch(ids):
            return [self.decode(row) for row in ids]
        check_ids(ids, self.vocabulary_size)
        return self._decode(text_ids(ids, self.eos_id, (self.pad_id, self.bos_id, self.unk_id)))

    def save(self, path):
        """Writes it so that load_tokenizer reads it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.to_bytes())

    def __eq__(self, other):
        return type(other) is type(self) and self.to_bytes() == other.to_bytes()

    def __hash__(self):
        return hash(self.to_bytes())


class HuggingFaceTokenizer(_Foreign):
    """A tokenizer of Hugging Face's tokenizers library; made by as_tokenizer.

    Args:
        serialized: its JSON, as ``to_str`` gives it.
        pieces: names of special pieces; see as_tokenizer.

    Raises:
        ValueError: the library is missing, the JSON describes none of its tokenizers, or a special piece is missing.
    """

    def __init__(self, serialized, **pieces):
        self._serialized = serialized
        self._tokenizer = _of_json(serialized)
        self.vocabulary_size = self._tokenizer.get_vocab_size()
        self._find_special(self._tokenizer.token_to_id, pieces)

    def _encode(self, texts):
        return [row.ids for row in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    @functools.cached_property
    def _literal(self):
        """A second one to which special pieces are text: a flag that is switched on the first would hold for other threads too."""
        tokenizer = _of_json(self._serialized)
        tokenizer.encode_special_tokens = True
        return tokenizer

    def _encode_literally(self, texts):
        if not texts:  # as nearly always: without a second one
            return []
        return [row.ids for row in self._literal.encode_batch(texts, add_special_tokens=False)]

    def _decode(self, ids):
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def pieces(self, ids):
        """The piece behind each id of one row."""
        return [self._tokenizer.id_to_token(int(number)) for number in ids]

    def to_bytes(self):
        """The whole tokenizer as bytes: the content of its file."""
        about = {"kind": "tokenizers", "pieces": self._pieces, "tokenizer": json.loads(self._serialized)}
        return json.dumps(about).encode("utf-8")

    @classmethod
    def from_bytes(cls, content):
        """The tokenizer whose ``to_bytes`` these are, or whose own ``tokenizer.json``."""
        about = json.loads(content)
        if about.get("kind") != "tokenizers":
            return cls(content.decode("utf-8"))
        if not {"tokenizer", "pieces"} <= about.keys():
            raise ValueError("The file of a tokenizer is damaged: it lacks tokenizer or pieces. Write it again.")
        return cls(json.dumps(about["tokenizer"]), **about["pieces"])

    def __reduce__(self):
        return HuggingFaceTokenizer.from_bytes, (self.to_bytes(),)


def _of_json(serialized):
    """The tokenizers.Tokenizer of that JSON, which neither pads nor truncates."""
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise ValueError(
            "A Hugging Face tokenizer needs tokenizers, which is not installed. pip install tokenizers."
        ) from None
    try:
        tokenizer = tokenizers.Tokenizer.from_str(serialized)
    except Exception as error:  # the library raises no other kind
        raise ValueError(f"This JSON is no tokenizer of Hugging Face's tokenizers: {error}.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class KerasNlpTokenizer(_Foreign):
    """A tokenizer of keras-nlp that is no SentencePiece model; made by as_tokenizer. It cannot be saved: keep its preset."""

    def __init__(self, tokenizer, **pieces):
        self._tokenizer = tokenizer
        self.vocabulary_size = tokenizer.vocabulary_size()
        vocabulary = {piece: number for number, piece in enumerate(tokenizer.get_vocabulary())}
        self._find_special(vocabulary.get, pieces)

    def _encode(self, texts):
        return [np.asarray(self._tokenizer.tokenize(text)).tolist() for text in texts]

    def _decode(self, ids):
        text = self._tokenizer.detokenize(ids)
        return text if isinstance(text, str) else np.asarray(text).item().decode("utf-8")

    def pieces(self, ids):
        """The piece behind each id of one row."""
        return [self._tokenizer.id_to_token(int(number)) for number in ids]

    def to_bytes(self):
        raise ValueError(
            f"A {type(self._tokenizer).__name__} of keras-nlp cannot be saved with a model. Train a kt.Tokenizer, or use "
            "keras-nlp's SentencePieceTokenizer."
        )


def _of_keras_nlp(tokenizer, pieces):
    proto = getattr(tokenizer, "proto", None)
    if proto is None:
        return KerasNlpTokenizer(tokenizer, **pieces)
    return Tokenizer(proto if isinstance(proto, bytes) else Path(proto).read_bytes())
