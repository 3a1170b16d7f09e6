"""What the server asks of a model, for a saved translator on any backend and for an exported SavedModel alike.

All that the HTTP side knows of translating is here: a new kind of model, or of search, is a new Engine.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from keras import ops

from keras_transformer.backend import compiled, compiles_each_shape
from keras_transformer.backend_decoding import next_size
from keras_transformer.decoding.rules import Rules
from keras_transformer.decoding.scoring import ForcedDecoding
from keras_transformer.decoding.search import BeamSearch, GreedySearch
from keras_transformer.export.card import facts_of_run
from keras_transformer.export.folders import CARD_FILE
from keras_transformer.export.loaded import LoadedSavedModel
from keras_transformer.layers.masking import padding_mask
from keras_transformer.text.pair import source_tokenizer
from keras_transformer.translator import SHORTEST, Translator


class Engine:
    """The part that both kinds share: pieces, padding, greedy streaming.

    Attributes:
        tokenizer: text <-> ids, of the target where the source has its own.
        source_tokenizer: of the source.
        name: under which the model is served.
        version: int.
        card: dict about the model, for people.
        beam_sizes: range of the beam sizes that ``search`` takes.
        few_shapes: whether batches are filled up to a few sizes, because each shape costs a compilation.
    """

    def __init__(self, tokenizer, name: str, version: int, card: dict, beam_sizes: range, few_shapes: bool = False):
        self.tokenizer = tokenizer
        self.source_tokenizer = source_tokenizer(tokenizer)
        self.name = name
        self.version = version
        self.card = card
        self.beam_sizes = beam_sizes
        self.few_shapes = few_shapes

    def search(self, sources: list, beam_size: int, only_best: bool = False) -> list:
        """Translates sources together.

        Args:
            sources: list of lists of ids, each ended by eos.
            beam_size: W.
            only_best: whether the best hypothesis will do, which may be found sooner.

        Returns:
            For each source its W hypotheses, or fewer with ``only_best``, best first: [(ids up to eos and without padding, score),
            ...].
        """
        ids, scores = self._search(self._padded(sources), beam_size, only_best)
        pad_id = self.tokenizer.pad_id
        return [
            [([x for x in row.tolist() if x != pad_id], float(score)) for row, score in zip(rows, scored, strict=True)]
            for rows, scored in zip(ids[: len(sources)], scores[: len(sources)], strict=True)
        ]

    def attention(self, source: list, hypotheses: list) -> list:
        """For each token of each hypothesis how much it looked at each of ``source``: a list of (T, S), rows sum to 1."""
        weights = self._attention(self._padded([source] * len(hypotheses)), self._padded(hypotheses))
        return [one[: len(ids), : len(source)] for one, ids in zip(weights, hypotheses, strict=False)]

    def warm_up(self, beam_size: int) -> None:
        """Translates a little in two shapes, so that nobody waits for what is traced and compiled at the first calls.

        TensorFlow leaves open only those dimensions that it has seen change: rows and lengths.
        """
        end = self.tokenizer.eos_id
        texts = [self.source_tokenizer.encode(text, add_eos=True) for text in ("1 2 3 4 5", "1")]
        for sources, labels in (([[end]], [[end]] * 2), (texts, [[end] * 3])):  # every dimension changes
            for only_best in (True, False):
                self.search(sources, beam_size, only_best)
            self.attention(sources[0], labels)
            next(self.stream(sources[0]))

    def _padded(self, rows):
        return padded(rows, self.tokenizer.pad_id, self.few_shapes)

    def stream(self, source: list) -> Iterator[int]:
        """Greedy search of one source as a generator of ids, eos the last unless the limit comes first.

        Raises:
            ValueError: logits are not finite.
        """
        banned = [self.tokenizer.pad_id, self.tokenizer.bos_id]
        token, state = self.tokenizer.bos_id, self._start(self._padded([source]))
        for _ in range(Rules().limit(len(source))):
            logits, state = self._step(state, token)
            logits = np.array(logits)
            if not np.isfinite(logits.max()):  # NaN and infinity come through, as in a search
                raise ValueError("The model's logits are not finite: its weights hold NaN or overflow.")
            logits[banned] = -np.inf
            token = int(logits.argmax())
            yield token
            if token == self.tokenizer.eos_id:
                return


class TranslatorEngine(Engine):
    """A Translator in this process, on whatever backend is active.

    Args:
        translator: a Translator.
        name: under which it is served.
        card: dict about the model, beside what the model itself tells.
        max_beam_size: the largest beam that a request may ask for.
        length_penalty: see decoding.BeamSearch.
    """

    def __init__(
        self,
        translator: Translator,
        name: str = "translator",
        card: dict | None = None,
        max_beam_size: int = 8,
        length_penalty: float = 0.6,
    ):
        model = translator.model
        known = {"kind": "Translator", "parameters": model.count_params(), "model": model.get_config()}
        card = known | (card or {})
        sizes = range(1, min(max_beam_size, model.vocabulary_size) + 1)
        super().__init__(translator.tokenizer, name, 1, card, sizes, few_shapes=compiles_each_shape())
        self.model = model
        self._searcher = functools.cache(self._new_searcher)
        self._length_penalty = length_penalty
        self._forced = ForcedDecoding(model)
        self._encode = compiled(self._first_state, model)
        self._advance = compiled(self._next_state, model)

    def _new_searcher(self, beam_size, n_best):
        if beam_size == 1:
            return GreedySearch(self.model, self._length_penalty)
        return BeamSearch(self.model, beam_size, self._length_penalty, n_best=n_best)

    def _search(self, source, beam_size, only_best):
        return self._searcher(beam_size, 1 if only_best else beam_size)(source)

    def _attention(self, source, labels):
        return self._forced(source, labels).attention

    def _first_state(self, source):
        encoder_output = self.model.encode(source, padding_mask(source, self.model.pad_id))
        length = ops.shape(source)[1]  # not source.shape, which is (1, None) once TensorFlow has met two lengths
        return self.model.init_cache(encoder_output, 1, Rules().limit(length))

    def _next_state(self, source, cache, token, step):
        return self.model.decode_step(token, cache, step, padding_mask(source, self.model.pad_id))

    def _start(self, source):
        return _tensor(source), self._encode(_tensor(source)), 0

    def _step(self, state, token):
        source, cache, step = state
        logits, cache = self._advance(source, cache, _tensor(np.array([token], "int32")), _tensor(np.int32(step)))
        return _array(logits)[0], (source, cache, step + 1)


class SavedModelEngine(Engine):
    """An exported SavedModel; its beam size and length penalty were fixed at export.

    Args:
        loaded: a LoadedSavedModel.
        name: under which it is served.
    """

    def __init__(self, loaded: LoadedSavedModel, name: str = "translator"):
        width = loaded.card["search"]["beam_size"]
        super().__init__(loaded.tokenizer, name, loaded.version, loaded.card, range(width, width + 1))
        self._search = lambda source, beam_size, only_best: loaded.search(source)
        self._attention, self._start, self._step = loaded.attention, loaded.start, loaded.step


def load_engine(folder, name: str | None = None) -> Engine:
    """The engine for a run folder, a saved translator, or an exported SavedModel.

    Args:
        folder: path.
        name: under which it is served; None for the folder's.

    Raises:
        ValueError: the folder holds none of these, or an export that was changed since.
    """
    folder = Path(folder)
    name = name or folder.resolve().name
    if not folder.is_dir():
        raise ValueError(
            f"There is no folder {folder}. Give a run folder, a saved translator, or an exported SavedModel."
        )
    if any(path.name.isdecimal() and (path / "saved_model.pb").is_file() for path in folder.iterdir()):
        return SavedModelEngine(LoadedSavedModel(folder), name)
    card = facts_of_run(folder)
    folder = folder / "translator" if (folder / "translator").is_dir() else folder
    if (folder / CARD_FILE).is_file():
        card |= json.loads((folder / CARD_FILE).read_text(encoding="utf-8"))
    return TranslatorEngine(Translator.load(folder), name, card)


def padded(rows: list, pad_id: int, few_shapes: bool) -> np.ndarray:
    """Rows of ids as one array, filled up to the longest; with ``few_shapes`` to few numbers of rows and few lengths."""
    size, length = len(rows), max(map(len, rows))
    if few_shapes:
        size, length = 1 << (size - 1).bit_length(), next_size(length, SHORTEST)
    array = np.full((size, length), pad_id, "int32")
    for row, ids in zip(array, rows, strict=False):
        row[: len(ids)] = ids
    return array


def _tensor(array):
    return ops.convert_to_tensor(array, dtype="int32")


def _array(tensor):
    return ops.convert_to_numpy(tensor)
