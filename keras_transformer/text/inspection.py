"""What a corpus is like before anything is trained on it: what is kept, how long it is, how it is padded, what the tokenizer makes
of it. Between Batches and the command line."""

import dataclasses

import numpy as np

from keras_transformer.text.batches import Batches
from keras_transformer.text.pair import source_tokenizer, vocabulary_sizes


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What ``inspect_corpus`` found.

    Args:
        batches: the Batches, with counts and shapes.
        source_lengths, target_lengths: (pairs,) positions of each row, eos counted.
        coverage: share of the vocabulary's pieces that occur.
        unknown_rate: share of the pieces that are unk.
        byte_rate: share of the pieces that spell a byte, for want of a piece.
        samples: list of (source pieces, target pieces).
    """

    batches: Batches
    source_lengths: np.ndarray
    target_lengths: np.ndarray
    coverage: float
    unknown_rate: float
    byte_rate: float
    samples: list

    def __str__(self):
        batches = self.batches
        skipped = ", ".join(f"{count:,} for {reason}" for reason, count in batches.skipped.items() if count) or "none"
        shapes = "  ".join(f"{rows}x({source}, {target})" for rows, source, target in batches.shapes)
        lines = [
            f"pairs: {batches.num_pairs:,} kept; left out: {skipped}",
            f"tokens an epoch: {int(self.source_lengths.sum()):,} source, {batches.num_tokens:,} target",
            f"source positions: {_quantiles(self.source_lengths)}",
            f"target positions: {_quantiles(self.target_lengths)}",
            f"batches: {batches.full_length:,} of {len(batches.shapes)} shapes, rows x (S, T): {shapes}",
            f"padding share: {batches.padding_share:.2%}",
            f"vocabulary: {vocabulary_sizes(batches.tokenizer)} pieces, {self.coverage:.1%} of them occur",
            f"unknown rate: {self.unknown_rate:.4%}; spelt in bytes: {self.byte_rate:.4%}",
        ]
        for number, sides in enumerate(self.samples, start=1):
            lines += [
                f"{number:>2} {name} {' '.join(pieces)}"
                for name, pieces in zip(("source", "target"), sides, strict=True)
            ]
        return "\n".join(lines)

    def plot(self, path):
        """Writes histograms of the lengths, with the lengths of the shapes, as a PNG.

        Raises:
            ValueError: matplotlib is not installed, or the file cannot be written.
        """
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            raise ValueError("Histograms need matplotlib. Install keras-transformer[plots].") from None
        figure = Figure(figsize=(10, 4), layout="constrained")
        FigureCanvasAgg(figure)
        for place, (name, lengths) in enumerate(
            (("source", self.source_lengths), ("target", self.target_lengths)), start=1
        ):
            axes = figure.add_subplot(1, 2, place)
            axes.hist(lengths, bins=np.arange(lengths.max() + 2) - 0.5)
            for shape in self.batches.shapes:
                axes.axvline(shape[place], color="grey", linewidth=0.5)
            axes.set(title=f"{name} positions", xlabel="pieces + eos; lines: lengths of the shapes", ylabel="pairs")
        try:
            figure.savefig(path, dpi=100, format="png")
        except OSError as error:
            raise ValueError(
                f"{path} cannot be written: {error.strerror}. Give a file in a folder that is there."
            ) from None


def inspect_corpus(batches, num_samples=10):
    """Looks through the batches of one epoch.

    Args:
        batches: a Batches.
        num_samples: pairs shown, spread over the epoch; of packed lines the first.

    Returns:
        Inspection.

    Example:

    >>> import keras_transformer as kt
    >>> from keras_transformer.text.inspection import inspect_corpus
    >>> texts = ["a dog runs", "a cat sleeps"]
    >>> tokenizer = kt.Tokenizer.train(texts, vocabulary_size=280)
    >>> inspect_corpus(kt.Batches(texts, texts, tokenizer)).unknown_rate
    0.0
    """
    tokenizer = batches.tokenizer
    tokenizers = source_tokenizer(tokenizer), tokenizer
    seen = [np.zeros(side.vocabulary_size, "int64") for side in tokenizers]
    samples = []
    with batches.aside():  # from the first batch on, and without a trace in its state
        for place in range(len(batches)):
            inputs, labels = batches[place]
            for counts, ids in zip(seen, (inputs["source"], labels), strict=True):
                counts += np.bincount(ids.ravel(), minlength=len(counts))
            due = -(-num_samples * (place + 1) // len(batches)) - len(samples)
            lines = np.flatnonzero(labels[:, 0] != tokenizer.pad_id)[:due]
            samples += [_first_pair(inputs["source"][line], labels[line], tokenizers) for line in lines]
    if tokenizers[0] is tokenizers[1]:
        tokenizers, seen = tokenizers[:1], [seen[0] + seen[1]]
    counted = np.sum([_counted(*side) for side in zip(tokenizers, seen, strict=True)], axis=0)
    total, unknown, in_bytes, occurring, known = counted.tolist()
    rates = unknown / max(total, 1), in_bytes / max(total, 1)
    return Inspection(batches, *batches.lengths(), occurring / max(known, 1), *rates, samples)


def _counted(tokenizer, seen):
    """Of one vocabulary: pieces seen, unknown ones and bytes among them; how many different ones, and how many there are."""
    special = [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id]
    pieces = seen.copy()
    pieces[special] = 0
    unknown = pieces[tokenizer.unk_id] if tokenizer.unk_id >= 0 else 0
    in_bytes = [number for number, piece in enumerate(tokenizer.pieces(range(len(seen)))) if _is_byte(piece)]
    return [pieces.sum(), unknown, pieces[in_bytes].sum(), (pieces > 0).sum(), len(seen) - len(special)]


def _is_byte(piece):
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _first_pair(source, labels, tokenizers):
    """Pieces of the first pair of a line; of a packed line, too, the first ends at eos."""
    sides = []
    for ids, tokenizer in zip((source, labels), tokenizers, strict=True):
        ends = np.flatnonzero(ids == tokenizer.eos_id)
        sides.append(tokenizer.pieces(ids[: ends[0] + 1 if ends.size else None].tolist()))
    return tuple(sides)


def _quantiles(lengths):
    values = np.quantile(lengths, (0.5, 0.9, 0.99), method="higher")
    names = ("median", "90 %", "99 %")
    shown = [f"{name} {int(value)}" for name, value in zip(names, values, strict=True)]
    return ", ".join([f"mean {lengths.mean():.1f}", *shown, f"longest {int(lengths.max())}"])
