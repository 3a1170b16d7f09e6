"""Rows of ids are laid out as counted by hand: alone, packed, shifted, sampled."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.text.rows import Layout, Rows, RowsBuilder, SampledLayout, Texts, encode_pairs, lay_out

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
ROWS = Rows.of([[5, 6, 3], [7, 3], [8, 9, 10, 3]])


def test_pairs_are_cut_and_those_without_a_piece_are_told():
    tokenizer = kt.Tokenizer.train(["a dog", "ein Hund"], vocabulary_size=280)
    pairs = [(1, "a dog", "ein Hund"), (2, "▁", "ein Hund"), (3, "a dog", "▁"), (4, "dog", "Hund")]
    sources, targets, whole = encode_pairs(tokenizer, pairs)
    assert sources[0] == [*tokenizer.encode("a dog"), tokenizer.eos_id]
    assert targets[3] == [tokenizer.bos_id, *tokenizer.encode("Hund"), tokenizer.eos_id]
    assert whole == [0, 3]


def test_a_row_a_line_is_filled_up_with_padding():
    (ids,), segments = lay_out(ROWS, np.array([[2], [0], [-1]]), 5, pad_id=1)
    assert ids.tolist() == [[8, 9, 10, 3, 1], [5, 6, 3, 1, 1], [1, 1, 1, 1, 1]]
    assert segments.tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert ids.dtype == segments.dtype == np.int32


def test_several_rows_share_a_line():
    (ids,), segments = lay_out(ROWS, np.array([[1, 0, -1], [2, -1, -1], [0, 1, 1]]), 7, pad_id=0)
    assert ids.tolist() == [[7, 3, 5, 6, 3, 0, 0], [8, 9, 10, 3, 0, 0, 0], [5, 6, 3, 7, 3, 7, 3]]
    assert segments.tolist() == [[1, 1, 2, 2, 2, 0, 0], [1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 2, 2, 3, 3]]


def test_shifted_arrays_leave_out_the_last_and_the_first():
    (target, labels), segments = lay_out(ROWS, np.array([[0, 1], [2, -1]]), 4, pad_id=0, shifts=2)
    assert target.tolist() == [[5, 6, 7, 0], [8, 9, 10, 0]]
    assert labels.tolist() == [[6, 3, 3, 0], [9, 10, 3, 0]]
    assert segments.tolist() == [[1, 1, 2, 0], [1, 1, 1, 0]]


def test_a_batch_of_padding_alone():
    (ids,), segments = lay_out(ROWS, np.array([[-1], [-1]]), 3, pad_id=4)
    assert ids.tolist() == [[4] * 3] * 2 and not segments.any()


def test_the_builder_joins_chunks_and_names_the_line_of_a_wrong_id():
    builder = RowsBuilder(10)
    builder.extend([[4, 5], [6]], str)
    builder.extend([[7, 8, 9]], str)
    ids, begins, lengths = builder.rows().take(np.array([2, 0]))
    assert [ids[b : b + n].tolist() for b, n in zip(begins, lengths, strict=True)] == [[7, 8, 9], [4, 5]]
    with pytest.raises(ValueError, match="ids of line-1 contain the id 10 at position 1"):
        builder.extend([[4], [5, 10]], lambda number: f"line-{number}")
    assert RowsBuilder(10).rows().lengths.tolist() == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_layout_gives_what_fit_takes(packed):
    target = Rows.of([[2, 7, 8, 3], [2, 9, 3], [2, 3]])
    inputs, labels = Layout(ROWS, target, 0, packed)((np.array([[0, 1]]), 6, 5, 0))
    assert inputs["source"].tolist() == [[5, 6, 3, 7, 3, 0]]
    assert inputs["target"].tolist() == [[2, 7, 8, 2, 9]] and labels.tolist() == [[7, 8, 3, 9, 3]]
    assert set(inputs) == {"source", "target"} | ({"source_segments", "target_segments"} if packed else set())


class Doubling:
    """Samples a text as its letters, each as often as the epoch, if that fits."""

    bos_id, eos_id = 2, 3

    def sample(self, text, key, alpha, most):
        self.keys.append(key)
        ids = [ord(letter) - 90 for letter in text for _ in range(key[1])]
        return ids if len(ids) <= most else ids[:1]

    keys = []


def test_sampled_rows_are_drawn_by_seed_epoch_and_line_and_fit():
    texts = [Texts(["ab", "c", "dé"], [1, 4, 9]) for _ in range(2)]
    layout = Layout(ROWS, Rows.of([[2, 7, 3], [2, 8, 3], [2, 9, 3]]), 0)
    sampled = SampledLayout(layout, *texts, Doubling(), seed=6, alpha=0.1)
    inputs, labels = sampled((np.array([[1], [0]]), 4, 5, 2))
    assert inputs["source"].tolist() == [[9, 9, 3, 0], [7, 3, 0, 0]]  # "aabb" and eos would take five
    assert inputs["target"].tolist() == [[2, 9, 9, 0, 0], [2, 7, 7, 8, 8]]
    assert labels.tolist() == [[9, 9, 3, 0, 0], [7, 7, 8, 8, 3]]
    assert Doubling.keys == [(6, 2, 8), (6, 2, 2), (6, 2, 9), (6, 2, 3)]


def test_texts_are_kept_as_bytes():
    texts = Texts(["ein Hündchen", "", "👩‍👦"], [3, 5, 8])
    assert [texts.text(n) for n in range(3)] == ["ein Hündchen", "", "👩‍👦"] and texts.line(2) == 8
