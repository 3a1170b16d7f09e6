"""Rows and texts of several corpora as those of one, each left where it is: in memory, or in prepared shards. Needs no Keras."""

import numpy as np

from keras_transformer.text.store import LINES


class _Joined:
    """Parts numbered through, one after the other.

    Args:
        parts: of each corpus its Rows, Texts, or what has their methods.
        sizes: pairs of each.
    """

    def __init__(self, parts, sizes):
        self._parts = parts
        self._firsts = np.cumsum(sizes) - sizes

    def _find(self, numbers):
        """The part of each of these pairs, and its number in it. An empty part has none."""
        parts = np.searchsorted(self._firsts, numbers, side="right") - 1
        return parts, numbers - self._firsts[parts]


class JoinedRows(_Joined):
    """The rows of all parts, with the ``take`` of a Rows."""

    @property
    def lengths(self):
        """Of all rows."""
        return np.concatenate([part.lengths for part in self._parts])

    def take(self, numbers):
        """Those rows, corpus by corpus: (ids, begin of each, length of each)."""
        parts, places = self._find(numbers)
        begins, lengths = (np.empty(len(numbers), "int64") for _ in range(2))
        found, before = [], 0
        for part in np.unique(parts):
            members = np.flatnonzero(parts == part)
            ids, at, sizes = self._parts[part].take(places[members])
            sizes = sizes.astype("int64")
            ends = np.cumsum(sizes)
            # These rows alone: one corpus in memory gives all it has.
            found.append(ids[np.repeat(at - (ends - sizes), sizes) + np.arange(ends[-1])])
            begins[members], lengths[members] = before + ends - sizes, sizes
            before += ends[-1]
        return np.concatenate(found), begins, lengths


class JoinedTexts(_Joined):
    """The texts of all parts, with ``text`` and ``line`` of a Texts; line numbers of corpus n, from 0, begin at n * 2**40."""

    def text(self, number):
        part, place = self._find(number)
        return self._parts[part].text(place)

    def line(self, number):
        part, place = self._find(number)
        return int(part) * LINES + self._parts[part].line(place)
