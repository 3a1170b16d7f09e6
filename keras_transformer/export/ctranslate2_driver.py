"""Translates text with the CTranslate2 model that this file lies beside; needs ctranslate2 and sentencepiece, nothing else.

    python translate.py < source.txt > translation.txt

or, in Python, ``Translator("saved_models/en-de-ct2").translate(["A dog runs."])``.
"""

import collections
import json
import pathlib

import ctranslate2
import sentencepiece

from keras_transformer.export.driver_command import check_files, length_divisor, run_command


class Translator:
    """A CTranslate2 model and its tokenizer.

    Args:
        folder: of the export.
        **kwargs: as ctranslate2.Translator takes them: device="cuda", compute_type="int8", inter_threads=4, ...

    Attributes:
        positions: most pieces of a text, eos counted, and of a translation.

    Raises:
        ValueError: a file is missing or not what was exported.
    """

    def __init__(self, folder, **kwargs):
        folder = pathlib.Path(folder)
        check_files(folder)
        self.model = ctranslate2.Translator(str(folder), **kwargs)
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        self._unsaid = {*card["special_ids"]}  # what no text shows
        self.positions = card["positions"]

    def count_pieces(self, text):
        """Pieces of a text, eos counted; 0 for a blank one."""
        return len(self.pieces.encode(text)) + 1 if text.strip() else 0

    def translate(self, texts, beam_size=4, length_penalty=0.6, max_length=None):
        """The best translation of each text; a blank text gives a blank translation."""
        return [
            hypotheses[0][0] if hypotheses else ""
            for hypotheses in self.search(texts, beam_size, length_penalty, max_length)
        ]

    def search(self, texts, beam_size=4, length_penalty=0.6, max_length=None):
        """For each text its hypotheses as (text, score), best first: log p / ((5 + length) / 6) ** length_penalty, eos counted.

        max_length None allows twice the pieces of the source, eos counted, and ten more; the model's positions bound both.

        Raises:
            ValueError: a text has more pieces than the model has positions.
        """
        found = [[] for _ in texts]
        for length, indices in self._by_length(texts).items():
            limit = min(max_length or 2 * length + 10, self.positions)
            results = self.model.translate_batch(
                [self.pieces.encode(texts[index], out_type=str) for index in indices],
                beam_size=beam_size,
                num_hypotheses=beam_size,
                length_penalty=1,  # not 0, with which CTranslate2 stops at the first hypothesis; undone below
                return_scores=True,
                return_end_token=True,
                max_input_length=0,
                max_decoding_length=limit,
                max_batch_size=4096,
                batch_type="tokens",
            )
            for index, result in zip(indices, results, strict=True):
                found[index] = self._ranked(result, length_penalty)
        return found

    def _by_length(self, texts):
        """{pieces and eos: indices of texts}, for CTranslate2 takes one length limit a call."""
        groups = collections.defaultdict(list)
        for index, text in enumerate(texts):
            if length := self.count_pieces(text):
                if length > self.positions:
                    raise ValueError(
                        f"Text {index} has {length} pieces, and the model positions for {self.positions}. Split it into sentences."
                    )
                groups[length].append(index)
        return groups

    def _ranked(self, result, length_penalty):
        ranked = []
        for pieces, score in zip(result.hypotheses, result.scores, strict=True):
            total = score * len(pieces)  # log p
            ids = [self.pieces.piece_to_id(piece) for piece in pieces]
            text = self.pieces.decode([i for i in ids if i not in self._unsaid])
            ranked.append((text, total / length_divisor(len(pieces), length_penalty)))
        return sorted(ranked, key=lambda item: -item[1])


if __name__ == "__main__":
    run_command(Translator, pathlib.Path(__file__).parent)
