"""What a SentencePiece model says of its pieces beyond what its library tells, and which pieces two tokenizers share."""

import numpy as np

_USER_DEFINED = 4  # SentencePiece's type of a piece that its user gave


def shared_rows(old, new):
    """For each piece of a tokenizer its id in another, for Transformer.resize_vocabulary.

    Args:
        old: the Tokenizer a model was trained with.
        new: the Tokenizer that the model is to get.

    Returns:
        (V of new,) integers; -1 where the old one lacks the piece.

    Example:

    >>> import keras_transformer as kt
    >>> from keras_transformer.text import shared_rows
    >>> tokenizer = kt.Tokenizer.train(["a dog runs"], vocabulary_size=270)
    >>> bool((shared_rows(tokenizer, tokenizer) == range(tokenizer.vocabulary_size)).all())
    True
    """
    places = {piece: number for number, piece in enumerate(old.pieces(range(old.vocabulary_size)))}
    return np.array([places.get(piece, -1) for piece in new.pieces(range(new.vocabulary_size))])


def user_symbols(serialized):
    """The pieces that a SentencePiece model takes from its user, read from its protocol buffer.

    The bytes are read here because SentencePiece's own module for them needs the newest protobuf, which other libraries exclude.
    """
    symbols = []
    for field, piece in _fields(serialized):
        if field == 1:  # pieces: {1: text, 2: score, 3: type}
            values = dict(_fields(piece))
            if values.get(3) == _USER_DEFINED:
                symbols.append(values[1].decode("utf-8"))
    return tuple(symbols)


def _fields(message):
    """(number, value) of each field of a protocol buffer: an int, or bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(message, place)
        else:
            length, place = _varint(message, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            value, place = message[place : place + length], place + length
        yield tag >> 3, value


def _varint(message, place):
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
