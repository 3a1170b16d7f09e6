import numpy as np

from keras_transformer.decoding.hypotheses import Scored, align_words


def test_pieces_are_taken_together_to_words():
    """Source: a | dog; target: Hund | ein. og and d together outweigh a; eos takes most, and is no word."""
    attention = np.array([[0.3, 0.2, 0.2, 0.3], [0.2, 0.1, 0.3, 0.4], [0.6, 0.1, 0.1, 0.2], [0.1, 0.1, 0.1, 0.7]])
    assert align_words(attention, ["▁a", "▁d", "og", "</s>"], ["▁Hu", "nd", "▁ein", "</s>"]) == [(1, 0), (0, 1)]


def test_align_words_without_words():
    assert align_words(np.ones((1, 1)), ["</s>"], ["▁a"]) == []
    assert align_words(np.ones((1, 1)), ["a"], ["</s>"]) == []
    assert align_words(np.ones((1, 1)), ["a"], ["b"]) == [(0, 0)]  # a first piece without the mark


def test_scored_sums_log_probabilities_and_spells_alignments():
    scored = Scored("Hund ein", ["▁Hund", "▁ein"], [-0.5, -1.0], [(1, 0), (0, 1)])
    assert scored.log_probability == -1.5 and scored.pharaoh == "1-0 0-1"
