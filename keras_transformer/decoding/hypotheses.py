"""What comes back beside the text: hypotheses with their scores, and translations scored and aligned word by word."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A translation as a search found it.

    Attributes:
        text: str.
        score: float, as the search ranks it.
        ids: list of int; eos is the last, if it was reached.
        ended: whether the model ended it. If not, it reached the limit of tokens and is cut off there.
    """

    text: str
    score: float
    ids: list
    ended: bool


@dataclasses.dataclass(frozen=True)
class Scored:
    """A translation as the model judges it.

    Attributes:
        text: str.
        pieces: list of str, the translation's pieces, eos among them.
        token_log_probabilities: list of float, one a piece.
        alignment: list of (source word, target word), counted from 0, one for each word of the translation: the source word that
            it attends to most, by the mean over the heads of the last decoder layer.
    """

    text: str
    pieces: list
    token_log_probabilities: list
    alignment: list

    @property
    def log_probability(self):
        """Of the whole translation."""
        return float(sum(self.token_log_probabilities))

    @property
    def pharaoh(self):
        """The alignment in Pharaoh's format: "0-0 1-2"."""
        return " ".join(f"{source}-{target}" for source, target in self.alignment)


def align_words(attention, source_pieces, target_pieces):
    """Which source word each target word attends to most.

    A word begins at a piece with SentencePiece's mark. Attention of pieces is summed over a source word's and averaged over a
    target word's; special pieces belong to no word.

    Args:
        attention: (T, S), of each target piece over source pieces.
        source_pieces: S str.
        target_pieces: T str.

    Returns:
        list of (source word, target word), counted from 0; empty if one side has no word.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.decoding.hypotheses import align_words
    >>> align_words(np.array([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]]), ["▁a", "▁d", "og"], ["▁Hund", "▁ein"])
    [(1, 0), (0, 1)]
    """
    sources, targets = _words(source_pieces), _words(target_pieces)
    if not max(sources, default=-1) >= 0 or not max(targets, default=-1) >= 0:
        return []
    by_word = np.zeros((max(targets) + 1, max(sources) + 1))
    for target, row in zip(targets, np.asarray(attention), strict=True):
        for source, weight in zip(sources, row, strict=True):
            if source >= 0 and target >= 0:
                by_word[target, source] += weight
    return [(int(source), target) for target, source in enumerate(by_word.argmax(axis=1))]


def _words(pieces):
    """Which word each piece belongs to; -1 for special pieces."""
    words, word = [], -1
    for piece in pieces:
        if piece in ("</s>", "<s>", "<pad>"):
            words.append(-1)
            continue
        word += piece.startswith("▁") or word < 0
        words.append(word)
    return words
