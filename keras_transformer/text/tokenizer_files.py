"""Reads the file of a tokenizer of any kind. Needs no Keras."""

import base64
import json
from pathlib import Path

from keras_transformer.text.foreign import HuggingFaceTokenizer
from keras_transformer.text.pair import TokenizerPair
from keras_transformer.text.tokenizer import Tokenizer


def load_tokenizer(path):
    """Reads a file that a tokenizer's ``save`` wrote: ours, a pair's, or a Hugging Face one.

    Raises:
        ValueError: there is no such file, or it is no tokenizer.

    Example:

    >>> import pathlib, tempfile
    >>> import keras_transformer as kt
    >>> from keras_transformer.text import load_tokenizer
    >>> tokenizer = kt.Tokenizer.train(["a dog runs"], vocabulary_size=270)
    >>> tokenizer.save(file := pathlib.Path(tempfile.mkdtemp(), "tokenizer.model"))
    >>> load_tokenizer(file) == tokenizer
    True
    """
    try:
        content = Path(path).read_bytes()
    except OSError:
        return Tokenizer.load(path)  # says what is wrong
    try:
        return tokenizer_from_bytes(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def tokenizer_from_bytes(content):
    """The tokenizer whose ``to_bytes`` these are.

    Raises:
        ValueError: they are no tokenizer's.
    """
    if not content.startswith(b"{"):
        return Tokenizer.from_bytes(content)
    try:
        about = json.loads(content)
        sides = [base64.b64decode(about[side]) for side in ("source", "target")] if about.get("kind") == "pair" else []
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"The file of a tokenizer is damaged: {type(error).__name__} {error}. Write it again."
        ) from None
    return TokenizerPair(*map(tokenizer_from_bytes, sides)) if sides else HuggingFaceTokenizer.from_bytes(content)
