"""What a SentencePiece model says of its pieces, read from its bytes."""

import keras
import pytest

import keras_transformer as kt
from keras_transformer.text import shared_rows
from keras_transformer.text.pieces import _fields, user_symbols

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")


def test_user_symbols_are_read_from_the_bytes_in_their_order():
    symbols = ("<2fr>", "<2de>", "ﬁ-ligature" * 20)  # one longer than 127 bytes
    tokenizer = kt.Tokenizer.train(["a dog runs"], vocabulary_size=280, user_symbols=symbols)
    assert user_symbols(tokenizer.to_bytes()) == tokenizer.user_symbols == symbols
    assert kt.Tokenizer.train(["a dog"], vocabulary_size=270).user_symbols == ()


def test_fields_of_each_wire_type():
    message = bytes([0x08, 0x96, 0x01, 0x12, 0x02, 0x61, 0x62, 0x1D, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0])
    assert list(_fields(message)) == [(1, 150), (2, b"ab"), (3, b"\1\0\0\0"), (4, b"\2\0\0\0\0\0\0\0")]


def test_shared_rows_name_the_same_pieces():
    old = kt.Tokenizer.train(["a dog runs", "a cat sleeps"], vocabulary_size=285)
    new = kt.Tokenizer.train(["a dog sings", "the bird sings"], vocabulary_size=285)
    rows = shared_rows(old, new)
    assert len(rows) == new.vocabulary_size
    pieces = new.pieces(range(new.vocabulary_size))
    for piece, row in zip(pieces, rows.tolist(), strict=True):
        assert row == -1 or old.pieces([row]) == [piece]
    assert {piece for piece, row in zip(pieces, rows, strict=True) if row < 0}.isdisjoint(
        old.pieces(range(old.vocabulary_size))
    )
    assert 260 <= (rows >= 0).sum() < len(rows)
