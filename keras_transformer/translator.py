"""Translator: a model and its tokenizer as one thing, text in and text out, saved and loaded as one folder."""

import functools
import json
import numbers
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from keras_transformer.artifacts import ArtifactError, check_manifest, new_folder, write_manifest
from keras_transformer.decoding.search import BeamSearch, GreedySearch
from keras_transformer.export.saved_model import export_saved_model
from keras_transformer.model_files import TOKENIZER_FILE, load_model, save_model
from keras_transformer.text.foreign import as_tokenizer, load_tokenizer
from keras_transformer.transformer import Transformer  # noqa: F401 so that its name is known when a folder is loaded

FORMAT_FILE = "translator.json"
FORMAT_VERSION = 2
_WITHOUT_MANIFEST = 1  # the version before, which still loads
_KIND = "translator"


class Translator:
    """Translates text with a trained model.

    Args:
        model: a Transformer.
        tokenizer: the Tokenizer its ids come from, or another that text.as_tokenizer takes.

    Raises:
        ValueError: the two have different vocabularies or special ids.

    Example:

    >>> import keras_transformer as kt
    >>> tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=300)
    >>> model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1)
    >>> translator = kt.Translator(model, tokenizer)
    >>> len(translator.translate(["a dog runs", ""], beam_size=1, max_length=5))
    2
    """

    def __init__(self, model, tokenizer):
        tokenizer = as_tokenizer(tokenizer)
        if model.vocabulary_size != tokenizer.vocabulary_size:
            raise ValueError(
                f"Model and tokenizer do not belong together: the model has {model.vocabulary_size} ids, the tokenizer "
                f"{tokenizer.vocabulary_size}. Use the tokenizer the model was trained with."
            )
        for name in ("pad_id", "bos_id", "eos_id"):
            if getattr(model, name) != getattr(tokenizer, name):
                raise ValueError(
                    f"Model and tokenizer do not belong together: the model's {name} is {getattr(model, name)}, the "
                    f"tokenizer's {getattr(tokenizer, name)}. Use the tokenizer the model was trained with."
                )
        self.model = model
        self.tokenizer = tokenizer
        # A search is compiled once and kept; few, because each holds what was compiled.
        self._search = functools.lru_cache(maxsize=8)(self._new_search)

    def translate(self, texts, beam_size=4, length_penalty=0.6, max_length=None, batch_tokens=4096):
        """Translates each text.

        Texts are sorted by length and searched in batches of a few fixed shapes, so that a compiled backend compiles
        little. The order of the result is that of ``texts``; what else is in the list does not change a translation.

        Args:
            texts: list (or other iterable) of str. A blank text gives a blank translation.
            beam_size: hypotheses kept for each sentence; 1 is greedy search.
            length_penalty: see decoding.BeamSearch.
            max_length: most tokens a translation may have; None for twice the source's and ten more.
            batch_tokens: most source positions searched at a time, padding included, for one hypothesis a sentence.

        Returns:
            list of str, as many as ``texts``.

        Raises:
            ValueError: ``texts`` is no list of str, an argument is impossible, or the model's numbers are not finite.
        """
        if isinstance(texts, str):
            raise ValueError("translate takes a list of texts. Received a single str; pass [text].")
        texts = list(texts) if isinstance(texts, Iterable) else [texts]
        strange = [text for text in texts if not isinstance(text, str)]
        if strange:
            raise ValueError(f"translate takes a list of str. Received: {strange[0]!r}; turn it into text first.")
        if not isinstance(batch_tokens, numbers.Integral) or batch_tokens < 1:
            raise ValueError(f"batch_tokens must be an integer from 1. Received: batch_tokens={batch_tokens!r}.")
        search = self._search(beam_size, length_penalty, max_length)
        translations = [""] * len(texts)
        sources = {
            index: ids for index, ids in enumerate(self.tokenizer.encode(texts, add_eos=True)) if texts[index].strip()
        }
        for indices in _batches(sources, max(batch_tokens // beam_size, 1)):
            ids, _ = search(_padded([sources[index] for index in indices], self.tokenizer.pad_id))
            best = self.tokenizer.decode([row.tolist() for row in ids[: len(indices), 0]])
            for index, translation in zip(indices, best, strict=True):
                translations[index] = translation
        return translations

    def _new_search(self, beam_size, length_penalty, max_length):
        if beam_size == 1:
            return GreedySearch(self.model, length_penalty, max_length)
        return BeamSearch(self.model, beam_size, length_penalty, max_length)

    def save(self, folder):
        """Writes model and tokenizer into ``folder``; a translator already there is replaced as a whole.

        The folder holds model.json, model.weights.h5, tokenizer.model, translator.json, and manifest.json with size and sha256 of
        each. Any backend loads it.

        Raises:
            ValueError: ``folder`` holds something else than a translator, which would be lost.
        """
        with new_folder(folder, FORMAT_FILE, complete=lambda new: write_manifest(new, _KIND)) as new:
            save_model(self.model, new)
            self.tokenizer.save(new / TOKENIZER_FILE)
            (new / FORMAT_FILE).write_text(json.dumps({"format_version": FORMAT_VERSION}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder):
        """Reads what ``save`` wrote, on whatever backend is active, once every byte has been compared with the manifest.

        Raises:
            ArtifactError: a ValueError: ``folder`` is not a translator's, of a later format, or damaged.
        """
        folder = Path(folder)
        for name in (FORMAT_FILE, TOKENIZER_FILE):
            if not (folder / name).is_file():
                raise ArtifactError(
                    folder,
                    f"it is not a translator: {name} is missing",
                    "Expected a folder written by Translator.save.",
                )
        try:
            version = json.loads((folder / FORMAT_FILE).read_text(encoding="utf-8"))["format_version"]
        except (ValueError, TypeError, KeyError):
            raise ArtifactError(
                folder / FORMAT_FILE, "it is damaged: it does not say which format the folder has", "Save it anew."
            ) from None
        if version not in (_WITHOUT_MANIFEST, FORMAT_VERSION):
            raise ArtifactError(
                folder,
                f"it has format version {version}; this release reads {_WITHOUT_MANIFEST} and {FORMAT_VERSION}",
                "Install the release that wrote it.",
            )
        if version != _WITHOUT_MANIFEST:
            check_manifest(folder, _KIND)
        return cls(load_model(folder), load_tokenizer(folder / TOKENIZER_FILE))

    def export(self, folder, beam_size=4, length_penalty=0.6, max_length=None):
        """Writes a SavedModel whose serving signature decodes; see export.export_saved_model."""
        export_saved_model(
            self.model,
            self.tokenizer,
            folder,
            beam_size=beam_size,
            length_penalty=length_penalty,
            max_length=max_length,
        )


def _batches(sources, batch_tokens):
    """Groups the keys of {index: ids}, longest first, so that rows x padded length stays within ``batch_tokens``."""
    order = sorted(sources, key=lambda index: (-len(sources[index]), index))
    while order:
        rows = max(batch_tokens // _padded_length(len(sources[order[0]])), 1)
        rows = 2 ** (rows.bit_length() - 1)  # a power of two, as _padded fills up to
        yield order[:rows]
        order = order[rows:]


def _padded(rows, pad_id):
    """Rows of ids as one array; both its sizes come from a short ladder, so that few shapes get compiled."""
    length = _padded_length(max(map(len, rows)))
    padded = np.full((2 ** (len(rows) - 1).bit_length(), length), pad_id, dtype="int32")
    for row, ids in zip(padded, rows, strict=False):
        row[: len(ids)] = ids
    return padded


def _padded_length(length):
    """The next of 8, 12, 16, 24, 32, 48, 64, 96, ...: at most a third of a row is padding beyond length 8."""
    size = 8
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size
