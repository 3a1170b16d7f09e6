"""Translator: a model and its tokenizer as one thing, text in and text out, saved and loaded as one folder."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from keras_transformer.artifacts import (
    MANIFEST_FILE,
    ArtifactError,
    check_manifest,
    new_folder,
    parse_json,
    write_manifest,
)
from keras_transformer.decoding.constrained import ConstrainedBeamSearch
from keras_transformer.decoding.ensemble import Ensemble
from keras_transformer.decoding.errors import RowError, check_integer
from keras_transformer.decoding.hypotheses import Hypothesis, Scored, align_words
from keras_transformer.decoding.precision import at_precision
from keras_transformer.decoding.samplers import is_sampler, sampler_search
from keras_transformer.decoding.sampling import Sampling
from keras_transformer.decoding.scoring import AttentionMaps, ForcedDecoding
from keras_transformer.decoding.search import BeamSearch, GreedySearch
from keras_transformer.export.saved_model import export_saved_model
from keras_transformer.model_files import TOKENIZER_FILE, load_model, save_model
from keras_transformer.text.foreign import as_tokenizer
from keras_transformer.text.pair import source_tokenizer
from keras_transformer.text.tokenizer_files import load_tokenizer
from keras_transformer.transformer import Transformer  # noqa: F401 so that its name is known when a folder is loaded

FORMAT_FILE = "translator.json"
FORMAT_VERSION = 2
_WITHOUT_MANIFEST = 1  # the version before, which still loads
_KIND = "translator"
_MOST_FORMAT = 10_000  # bytes of the file that tells it


class Translator:
    """Translates text with a trained model.

    Args:
        model: a Transformer.
        tokenizer: the Tokenizer its ids come from, a TokenizerPair, or another that text.as_tokenizer takes.

    Raises:
        ValueError: the two have different vocabularies or special ids, or one is no Transformer or no tokenizer.

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
        if not hasattr(model, "num_source_pieces"):
            raise ValueError(f"model is of type {type(model).__name__}. Expected: a Transformer, before the tokenizer.")
        self._source_tokenizer = source_tokenizer(tokenizer)
        sizes = {
            "": (model.vocabulary_size, tokenizer),
            " of the source": (model.num_source_pieces, self._source_tokenizer),
        }
        for side, (size, one) in sizes.items():
            if size != one.vocabulary_size:
                raise ValueError(
                    f"Model and tokenizer do not belong together: the model has {size} ids{side}, the tokenizer "
                    f"{one.vocabulary_size}. Use the tokenizer the model was trained with."
                )
        if self._source_tokenizer is not tokenizer and model.tie_embeddings == "all":
            raise ValueError(
                'Model and tokenizer do not belong together: the model has one table for both sides (tie_embeddings="all"), the '
                "tokenizer is a pair. Give the model source_vocabulary_size and another tie_embeddings."
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
        self._sampler_search = functools.lru_cache(maxsize=8)(lambda sampler: sampler_search(sampler, model))
        self._forced = ForcedDecoding(model)

    def translate(self, texts, beam_size=4, length_penalty=0.6, max_length=None, batch_tokens=4096):
        """Translates each text.

        Texts are sorted by length and searched in batches of a few fixed shapes, so that a compiled backend compiles
        little. The order of the result is that of ``texts``; what else is in the list does not change a translation.

        Args:
            texts: list (or other iterable) of str. A blank text gives a blank translation.
            beam_size: hypotheses kept for each sentence; 1 is greedy search.
            length_penalty: see decoding.BeamSearch.
            max_length: most tokens a translation may have, twice the source's and ten at most; None for these.
            batch_tokens: most source positions searched at a time, padding included, for one hypothesis a sentence.

        Returns:
            list of str, as many as ``texts``.

        Raises:
            ValueError: ``texts`` is no list of str, an argument is impossible, or the model's numbers are not finite.
        """
        search = self._search(beam_size, length_penalty, max_length)
        translations = [""] * len(texts := _checked(texts))
        for indices, ids, _ in self._searched(texts, search, None, batch_tokens):
            best = self.tokenizer.decode([row.tolist() for row in ids[:, 0]])
            for index, translation in zip(indices, best, strict=True):
                translations[index] = translation
        return translations

    def hypotheses(self, texts, search=None, prefixes=None, batch_tokens=4096, include=None, avoid=None):
        """What a search finds for each text, with scores.

        Args:
            texts: list (or other iterable) of str.
            search: any of decoding's searches over this translator's model or an Ensemble with it, or a sampler of keras-nlp
                (decoding.sampler_search says which); None for decoding.BeamSearch(model), under phrases for
                decoding.ConstrainedBeamSearch(model).
            prefixes: list of str, what each translation must begin with; None for nothing. A prefix is cut into pieces on its
                own, so it should end where a word does.
            batch_tokens: most source positions searched at a time, padding included, for one hypothesis a sentence.
            include: for each text a list of str, phrases that its translation must have; None for none. A phrase is cut into pieces
                on its own, as the beginning of a word. Needs a decoding.ConstrainedBeamSearch.
            avoid: the same, of phrases that it must not have, in these pieces.

        Returns:
            list of lists of decoding.Hypothesis, in the search's order. A blank text has one, which is blank.

        Raises:
            ValueError: as translate; the search is over another model; prefixes, phrases and texts differ in number; no translation
                with all phrases was found.

        Example:

        >>> import keras_transformer as kt
        >>> tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=300)
        >>> model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1)
        >>> translator = kt.Translator(model, tokenizer)
        >>> search = kt.decoding.BeamSearch(model, beam_size=3, max_length=5, rules=kt.decoding.Rules(no_repeat_ngram=2))
        >>> found = translator.hypotheses(["a dog runs"], search)
        >>> len(found[0]), found[0][0].score >= found[0][1].score
        (3, True)
        """
        constrained = include is not None or avoid is not None
        if search is None:
            search = self._constrained if constrained else self._search(4, 0.6, None, None)
        elif is_sampler(search):
            search = self._sampler_search(search)
        if constrained and not isinstance(search, ConstrainedBeamSearch):
            raise ValueError(
                "Phrases to include or avoid need a decoding.ConstrainedBeamSearch. Received: a search of type "
                f"{type(search).__name__}."
            )
        if not hasattr(search, "model"):
            raise ValueError(
                "search must be one of decoding's, over this translator's model, or a sampler of keras-nlp. Received: "
                f"{search!r}."
            )
        if not any(one is other for one in _models(search.model) for other in _models(self.model)):
            raise ValueError(
                "The search is over another model. Make it with this translator's, search(translator.model), or with an Ensemble "
                "that has it."
            )
        texts = _checked(texts)
        prefixes = None if prefixes is None else list(prefixes)
        if prefixes is not None and len(prefixes) != len(texts):
            raise ValueError(
                f"Each text needs a prefix, which may be empty. Received: {len(texts)} texts, {len(prefixes)}."
            )
        phrases = {"include": include, "avoid": avoid}
        phrases = {name: self._phrase_ids(name, x, len(texts)) for name, x in phrases.items() if x is not None}
        found = [[Hypothesis("", 0.0, [], True)] for _ in texts]
        for indices, ids, scores in self._searched(texts, search, prefixes, batch_tokens, phrases):
            for index, rows, row_scores in zip(indices, ids, scores, strict=True):
                found[index] = [
                    self._hypothesis(row, score) for row, score in zip(rows, row_scores, strict=True) if score > -1e8
                ]
        return found

    @functools.cached_property
    def _constrained(self):
        return ConstrainedBeamSearch(self.model)

    def _phrase_ids(self, name, phrases, count):
        """For each text the ids of its phrases."""
        phrases = list(phrases)
        if len(phrases) != count:
            raise ValueError(
                f"{name} needs a list of phrases for each of {count} texts. Received: {len(phrases)} lists."
            )
        for row in phrases:
            strange = [row] if isinstance(row, str) else [x for x in row if not isinstance(x, str) or not x.strip()]
            if strange:
                raise ValueError(
                    f"{name} must hold lists of phrases, each a str with some text. Received: {strange[0]!r}."
                )
        return [[tuple(self.tokenizer.encode(phrase)) for phrase in row] for row in phrases]

    def _hypothesis(self, row, score):
        ids = row[row != self.tokenizer.pad_id].tolist()
        ended = bool(ids) and ids[-1] == self.tokenizer.eos_id
        return Hypothesis(self.tokenizer.decode(ids), float(score), ids, ended)

    def score(self, sources, targets, batch_tokens=4096):
        """What the model thinks of given translations, token by token, and how their words align.

        Args:
            sources: list of str.
            targets: list of their translations: str, or Hypothesis, whose ids are then scored as they are.
            batch_tokens: most positions scored at a time, padding included.

        Returns:
            list of decoding.Scored, as many as ``sources``.

        Raises:
            ValueError: the lists differ in length, or the model's numbers are not finite.

        Example:

        >>> import keras_transformer as kt
        >>> tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=300)
        >>> model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1)
        >>> scored = kt.Translator(model, tokenizer).score(["a dog runs"], ["ein Hund rennt"])
        >>> scored[0].log_probability < 0, len(scored[0].alignment)
        (True, 3)
        """
        sources, targets = _checked(sources), list(targets)
        if len(sources) != len(targets):
            raise ValueError(
                f"Each source needs a translation. Received: {len(sources)} sources, {len(targets)} translations."
            )
        source_ids = self._source_tokenizer.encode(sources, add_eos=True)
        labels = [
            target.ids if isinstance(target, Hypothesis) else self.tokenizer.encode(target, add_eos=True)
            for target in targets
        ]
        lengths = {index: [0] * max(map(len, pair)) for index, pair in enumerate(zip(source_ids, labels, strict=True))}
        scored = [None] * len(sources)
        pad_id = self.tokenizer.pad_id
        for indices in _batches(lengths, batch_tokens):
            batch = (
                _padded([source_ids[index] for index in indices], pad_id),
                _padded([labels[i] for i in indices], pad_id),
            )
            try:
                forced = self._forced(*batch)
            except RowError as error:
                raise error.of("texts", indices) from None
            for row, index in enumerate(indices):
                text = targets[index].text if isinstance(targets[index], Hypothesis) else targets[index]
                pieces = [self._source_tokenizer.pieces(source_ids[index]), self.tokenizer.pieces(labels[index])]
                log_probabilities = forced.log_probabilities[row, : len(labels[index])].tolist()
                attention = forced.attention[row, : len(pieces[1]), : len(pieces[0])]
                scored[index] = Scored(text, pieces[1], log_probabilities, align_words(attention, *pieces))
        return scored

    def attention(self, source, target):
        """What every layer and head attends to in one pair; plots.attention_heat_map draws it.

        Args:
            source: str.
            target: str, its translation.

        Returns:
            decoding.AttentionMaps.

        Raises:
            ValueError: the model's numbers are not finite.

        Example:

        >>> import keras_transformer as kt
        >>> tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=300)
        >>> model = kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1)
        >>> maps = kt.Translator(model, tokenizer).attention("a dog", "ein Hund")
        >>> maps.cross.shape == (1, 2, len(maps.target), len(maps.source))
        True
        """
        source, target = _checked([source, target])
        source_ids, labels = (
            self._source_tokenizer.encode(source, add_eos=True),
            self.tokenizer.encode(target, add_eos=True),
        )
        maps = self._forced.maps(np.array([source_ids]), np.array([labels]))
        pieces = self.tokenizer.pieces
        target_ids = [self.tokenizer.bos_id, *labels[:-1]]
        sides = self._source_tokenizer.pieces(source_ids), pieces(target_ids), pieces(labels)
        return AttentionMaps(*sides, **{name: x[:, 0] for name, x in maps.items()})

    def _searched(self, texts, search, prefixes, batch_tokens, phrases=None):
        """Yields (indices, ids, scores) of batches of the texts that are not blank."""
        check_integer("batch_tokens", batch_tokens, 1)
        pad_id = self.tokenizer.pad_id
        encoded = self._source_tokenizer.encode(texts, add_eos=True)
        sources = {index: ids for index, ids in enumerate(encoded) if texts[index].strip()}
        prefix_ids = None if prefixes is None else self.tokenizer.encode(prefixes)
        for indices in _batches(sources, max(batch_tokens // search.beam_size, 1)):
            source, more = _padded([sources[index] for index in indices], pad_id), {}
            filling = len(source) - len(indices)
            if prefix_ids is not None and any(prefix_ids[index] for index in indices):
                more["prefix"] = _padded([prefix_ids[index] for index in indices] + [[]] * filling, pad_id)
            for name, rows in (phrases or {}).items():
                more[name] = [*(rows[index] for index in indices), *[[]] * filling]
            if isinstance(search, Sampling):
                more["keys"] = [*indices, *[0] * filling]
            try:
                ids, scores = search(source, **more)
            except RowError as error:
                raise error.of("texts", indices) from None
            yield indices, ids[: len(indices)], scores[: len(indices)]

    def _new_search(self, beam_size, length_penalty, max_length, n_best=1):
        if beam_size == 1:
            return GreedySearch(self.model, length_penalty, max_length)
        return BeamSearch(self.model, beam_size, length_penalty, max_length, n_best=n_best)

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
    def load(cls, folder, precision=None):
        """Reads what ``save`` wrote, on whatever backend is active, once every byte has been compared with the manifest.

        Args:
            folder: path.
            precision: "float32", "bfloat16" or "int8", at which it shall translate; see decoding.at_precision. None as saved.

        Raises:
            ValueError: no such precision.
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
            with open(folder / FORMAT_FILE, "rb") as file:
                version = parse_json(file.read(_MOST_FORMAT), folder / FORMAT_FILE)["format_version"]
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
        if version != _WITHOUT_MANIFEST or (folder / MANIFEST_FILE).exists():
            check_manifest(folder, _KIND)
        try:
            tokenizer = load_tokenizer(folder / TOKENIZER_FILE)
        except ImportError:
            raise  # says what to install
        except Exception as error:  # the libraries that read it raise anything
            reason = str(error).rstrip(".") if isinstance(error, ValueError) else f"it is no tokenizer: {error!r}"
            raise ArtifactError(folder / TOKENIZER_FILE, reason) from None
        model = load_model(folder)
        try:
            translator = cls(model, tokenizer)
        except ValueError as error:
            raise ArtifactError(folder / TOKENIZER_FILE, str(error).rstrip(".")) from None
        return translator if precision is None else cls(at_precision(translator.model, precision), tokenizer)

    def export(self, folder, beam_size=4, length_penalty=0.6, max_length=None, **kwargs):
        """Writes a SavedModel whose serving signature decodes; see export.export_saved_model, which takes ``kwargs``."""
        export_saved_model(
            self.model,
            self.tokenizer,
            folder,
            beam_size=beam_size,
            length_penalty=length_penalty,
            max_length=max_length,
            **kwargs,
        )


def _checked(texts):
    """The texts as a list of str."""
    if isinstance(texts, str):
        raise ValueError("translate takes a list of texts. Received a single str; pass [text].")
    texts = list(texts) if isinstance(texts, Iterable) else [texts]
    strange = [text for text in texts if not isinstance(text, str)]
    if strange:
        raise ValueError(f"translate takes a list of str. Received: {strange[0]!r}; turn it into text first.")
    return texts


def _models(model):
    return model.models if isinstance(model, Ensemble) else [model]


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
