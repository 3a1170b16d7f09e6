"""Translates text with the ONNX model that this file lies beside; needs onnxruntime, numpy and sentencepiece, nothing else.

    python translate.py < source.txt > translation.txt

or, in Python, ``Translator("saved_models/en-de-onnx").translate(["A dog runs."])``.
"""

import json
import math
import pathlib

import numpy as np
import onnxruntime
import sentencepiece

from keras_transformer.export.driver_command import check_files, length_divisor, run_command

IMPOSSIBLE = -1e9  # the score of what must not be chosen


class Translator:
    """Encoder, decoder step and tokenizer of an export.

    Args:
        folder: of the export.
        providers: of onnxruntime: ["CUDAExecutionProvider", "CPUExecutionProvider"] for a GPU; None for the CPU.

    Attributes:
        positions: most pieces of a text: infinity, for the graphs compute their sinusoids.

    Raises:
        ValueError: a file is missing or not what was exported.
    """

    def __init__(self, folder, providers=None):
        folder = pathlib.Path(folder)
        check_files(folder)

        def start(name):
            return onnxruntime.InferenceSession(str(folder / name), providers=providers or ["CPUExecutionProvider"])

        self._encoder, self._step = start("encoder.onnx"), start("decoder_step.onnx")
        self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        self.pad_id, self.bos_id, self.eos_id = card["pad_id"], card["bos_id"], card["eos_id"]
        self._unsaid = {*card["special_ids"]}  # what no text shows
        self.positions = math.inf

    def count_pieces(self, text):
        """Pieces of a text, eos counted; 0 for a blank one."""
        return len(self._pieces.encode(text)) + 1 if text.strip() else 0

    def translate(self, texts, beam_size=4, length_penalty=0.6, max_length=None, batch_tokens=2048):
        """The best translation of each text; a blank text gives a blank translation."""
        translations = [""] * len(texts)
        rows = {i: [*self._pieces.encode(text), self.eos_id] for i, text in enumerate(texts) if text.strip()}
        order = sorted(rows, key=lambda i: -len(rows[i]))
        while order:
            longest = len(rows[order[0]])
            size = max(batch_tokens // (longest * beam_size), 1)
            batch, order = order[:size], order[size:]
            source = np.full((len(batch), longest), self.pad_id, "int32")
            for row, i in zip(source, batch, strict=True):
                row[: len(rows[i])] = rows[i]
            ids, _ = self.search(source, beam_size, length_penalty, max_length)
            for i, best in zip(batch, ids[:, 0].tolist(), strict=True):
                best = best[: best.index(self.eos_id)] if self.eos_id in best else best
                translations[i] = self._pieces.decode([x for x in best if x not in self._unsaid])
        return translations

    def search(self, source, beam_size=4, length_penalty=0.6, max_length=None):
        """Beam search; with beam_size 1 it is greedy search.

        Args:
            source: (B, S) int32, rows ended by eos and filled up with pad.
            beam_size: W.
            length_penalty: hypotheses are ranked by log p / ((5 + length) / 6) ** length_penalty.
            max_length: most tokens of a translation; None for twice the source's and ten more.

        Returns:
            ids (B, W, L) int32, best first, and scores (B, W) float32.
        """
        limits = 2 * (source != self.pad_id).sum(1) + 10
        limits = limits if max_length is None else np.minimum(limits, max_length)
        longest = int(limits.max())
        encoded = dict(
            zip(("encoder_keys", "encoder_values"), self._encoder.run(None, {"source": source}), strict=True)
        )
        encoded["source"] = source
        alive, ended = self._begin(encoded, beam_size, longest), Ended(len(source), beam_size, longest, self.pad_id)
        for step in range(longest):
            alive = self._extend(encoded, alive, ended, step, limits, length_penalty)
            if ended.done.all():
                break
        return ended.ids, ended.scores

    def _begin(self, encoded, width, longest):
        """One hypothesis of each sentence that may go on, and W - 1 that may not: equal ones would only repeat each other."""
        batch, layers, heads, _, size = encoded["encoder_keys"].shape
        nothing = np.zeros((batch * width, layers, heads, 0, size), "float32")
        scores = np.where(np.arange(width) == 0, np.float32(0), np.float32(IMPOSSIBLE))
        return {
            "ids": np.full((batch, width, longest), self.pad_id, "int32"),
            "scores": np.tile(scores, (batch, 1)),
            "target": np.full(batch * width, self.bos_id, "int32"),
            "keys": nothing,
            "values": nothing,
        }

    def _extend(self, encoded, alive, ended, step, limits, length_penalty):
        """One token more: what ends goes to ``ended``, the W best of the rest go on."""
        batch, width = alive["scores"].shape
        cache = {name: alive[name] for name in ("target", "keys", "values")}
        logits, keys, values = self._step.run(None, encoded | cache)
        totals = self._log_probabilities(logits).reshape(batch, width, -1) + alive["scores"][:, :, None]
        best, words, parents = _best_extensions(totals, 2 * width)  # each (B, 2 W)
        ids = np.take_along_axis(alive["ids"], parents[:, :, None], 1)
        ids[:, :, step] = words
        ends = (words == self.eos_id) | (step + 1 >= limits[:, None])
        ended.add(ids, best / length_divisor(step + 1, length_penalty), ends, step + 1 >= limits)
        going_on = np.where(ends, np.float32(IMPOSSIBLE), best)
        chosen = np.argsort(-going_on, axis=1, kind="stable")[:, :width]
        ids = np.take_along_axis(ids, chosen[:, :, None], 1)
        rows = (np.take_along_axis(parents, chosen, 1) + width * np.arange(batch)[:, None]).reshape(-1)
        return {
            "ids": ids,
            "scores": np.take_along_axis(going_on, chosen, 1),
            "target": np.ascontiguousarray(ids[:, :, step]).reshape(-1),
            "keys": keys[rows],
            "values": values[rows],
        }

    def _log_probabilities(self, logits):
        """log p of the next token, (B W, V); pad and bos are never said. ValueError where the logits are no numbers."""
        highest = logits.max(1, keepdims=True)
        if not np.isfinite(highest).all():
            raise ValueError(
                "The model's logits are not finite: its weights overflow. Export the last good checkpoint."
            )
        result = logits - highest - np.log(np.exp(logits - highest).sum(1, keepdims=True))
        result[:, [self.pad_id, self.bos_id]] = IMPOSSIBLE
        return result


class Ended:
    """The W best finished hypotheses of each sentence; a sentence is done when it has W, or at its limit."""

    def __init__(self, batch, width, longest, pad_id):
        self.ids = np.full((batch, width, longest), pad_id, "int32")
        self.scores = np.full((batch, width), IMPOSSIBLE, "float32")
        self.done = np.zeros(batch, bool)

    def add(self, ids, scores, ends, at_limit):
        """Takes those of ids (B, 2 W, L) that end and are among the first W."""
        width = self.scores.shape[1]
        taken = ends & (np.arange(ends.shape[1]) < width) & ~self.done[:, None] & (scores > IMPOSSIBLE / 2)
        scores = np.concatenate([self.scores, np.where(taken, scores, np.float32(IMPOSSIBLE))], 1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
        self.ids = np.take_along_axis(np.concatenate([self.ids, ids], 1), order[:, :, None], 1)
        self.scores = np.take_along_axis(scores, order, 1)
        self.done |= (self.scores > IMPOSSIBLE / 2).all(1) | at_limit


def _best_extensions(totals, count):
    """The ``count`` best of totals (B, W, V) by score, then token, then hypothesis: scores, tokens, hypotheses (B, count)."""
    batch, width = totals.shape[:2]
    flat = totals.transpose(0, 2, 1).reshape(batch, -1)  # position = token * W + hypothesis: a stable order breaks ties
    count = min(count, flat.shape[1])
    order = np.empty((batch, count), "int64")
    for row, scores in enumerate(flat):
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        candidates = np.flatnonzero(scores >= least)
        order[row] = candidates[np.argsort(-scores[candidates], kind="stable")[:count]]
    return np.take_along_axis(flat, order, 1), (order // width).astype("int32"), order % width


if __name__ == "__main__":
    run_command(Translator, pathlib.Path(__file__).parent)
