"""Two tokenizers, one of the source and one of the target, that are used as one. Needs no Keras."""

import base64
import json
from pathlib import Path

from keras_transformer.text.foreign import as_tokenizer

_SPECIAL = ("pad_id", "bos_id", "eos_id")


class TokenizerPair:
    """The tokenizers of source and target, for languages that share few pieces.

    It can be used wherever a tokenizer can. Its own methods are those of the target's tokenizer, since what a model says is target
    text; source text is cut by ``source_tokenizer(pair)``. The model has a table for each: Transformer(pair.vocabulary_size,
    source_vocabulary_size=pair.source.vocabulary_size, tie_embeddings="decoder").

    Args:
        source: a Tokenizer, or what as_tokenizer takes.
        target: likewise.

    Attributes:
        source, target: the two.
        vocabulary_size, pad_id, unk_id, bos_id, eos_id: of the target.

    Raises:
        ValueError: see as_tokenizer; their ids of pad, bos and eos differ.

    Example:

    >>> import keras_transformer as kt
    >>> from keras_transformer.text import TokenizerPair, source_tokenizer
    >>> pair = TokenizerPair(kt.Tokenizer.train(["a dog runs"], 275), kt.Tokenizer.train(["ein Hund rennt"], 280))
    >>> source_tokenizer(pair).decode(source_tokenizer(pair).encode("a dog")), pair.decode(pair.encode("ein Hund"))
    ('a dog', 'ein Hund')
    """

    def __init__(self, source, target):
        source, target = as_tokenizer(source), as_tokenizer(target)
        for name in _SPECIAL:
            if getattr(source, name) != getattr(target, name):
                raise ValueError(
                    "Two vocabularies must have the same ids of pad, bos and eos, which a model reads on both sides. Received: "
                    f"{name} of {getattr(source, name)} and {getattr(target, name)}. Train both with kt.Tokenizer.train."
                )
        self.source, self.target = source, target
        self.vocabulary_size = target.vocabulary_size
        self.pad_id, self.unk_id, self.bos_id, self.eos_id = (
            getattr(target, name) for name in ("pad_id", "unk_id", "bos_id", "eos_id")
        )

    def encode(self, text, add_bos=False, add_eos=False):
        """Ids of target text; see Tokenizer.encode."""
        return self.target.encode(text, add_bos, add_eos)

    def decode(self, ids):
        """Target text of ids; see Tokenizer.decode."""
        return self.target.decode(ids)

    def pieces(self, ids):
        """The target's piece behind each id of one row."""
        return self.target.pieces(ids)

    def sample(self, *args, **kwargs):
        """Ids of target text in one of its ways; see Tokenizer.sample."""
        return self.target.sample(*args, **kwargs)

    def save(self, path):
        """Writes both into one file, which load_tokenizer reads."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.to_bytes())

    def to_bytes(self):
        """Both tokenizers as bytes: the content of the file."""
        sides = {
            side: base64.b64encode(getattr(self, side).to_bytes()).decode("ascii") for side in ("source", "target")
        }
        return json.dumps({"kind": "pair"} | sides).encode("ascii")

    def __eq__(self, other):
        return isinstance(other, TokenizerPair) and (self.source, self.target) == (other.source, other.target)

    def __hash__(self):
        return hash((self.source, self.target))

    def __repr__(self):
        return f"TokenizerPair({self.source!r}, {self.target!r})"


def source_tokenizer(tokenizer):
    """The tokenizer of source text: a pair's, or the one that serves both sides."""
    return tokenizer.source if isinstance(tokenizer, TokenizerPair) else tokenizer


def target_tokenizer(tokenizer):
    """The tokenizer of target text: a pair's, or the one that serves both sides."""
    return tokenizer.target if isinstance(tokenizer, TokenizerPair) else tokenizer


def vocabulary_sizes(tokenizer):
    """For people: "8,000", or "8,000 source and 6,000 target"."""
    source = source_tokenizer(tokenizer)
    size = f"{tokenizer.vocabulary_size:,}"
    return size if source is tokenizer else f"{source.vocabulary_size:,} source and {size} target"
