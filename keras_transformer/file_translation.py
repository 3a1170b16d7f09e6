"""Whole files through a translator: as many lines out as in, in pieces, so that a huge file streams and a broken run goes on.

Above the translator, under the command line.
"""

import bisect
import dataclasses
import itertools
import os
import re
import time

from keras_transformer.decoding.errors import RowError, check_integer
from keras_transformer.text.pair import source_tokenizer

# Ends of sentences in the scripts of most languages; a full stop ends none without white space behind it.
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])")
_WORD_END = re.compile(r"\s+")

# Most ids of a sentence by default: it is decoded in up to twice as many steps, each over all before it, while others wait.
LONGEST = 1024


@dataclasses.dataclass
class Counts:
    """What became of the lines.

    Attributes:
        lines: translated, blank ones among them.
        blank: given back blank.
        split: longer than allowed, translated sentence by sentence.
        cut_off: translations that reached the limit of tokens without an end.
        seconds: what it took.
        broken: of those split, with a sentence that was too long itself and was split between words, or within one.
    """

    lines: int = 0
    blank: int = 0
    split: int = 0
    cut_off: int = 0
    seconds: float = 0.0
    broken: int = 0

    def add(self, lines, divided, found):
        """Counts a chunk: its lines, (parts, whether one was broken) of each, and for each line the hypotheses of each part."""
        self.lines += len(lines)
        self.blank += sum(not line.strip() for line in lines)
        self.split += sum(len(parts) > 1 for parts, _ in divided)
        self.broken += sum(broken for _, broken in divided)
        self.cut_off += sum(not of_part[0].ended for line in found for of_part in line)

    def __str__(self):
        parts = [f"{self.lines:,} lines, {self.lines / max(self.seconds, 1e-9):.1f} a second"]
        parts += [f"{n:,} {word}" for n, word in ((self.blank, "blank"), (self.split, "over-long and split")) if n]
        if self.broken:
            parts[-1] += f", {self.broken:,} of them within a sentence"
        if self.cut_off:
            parts.append(f"{self.cut_off:,} translations cut off at the limit of tokens")
        return "; ".join(parts)


def translate_lines(
    translator,
    lines,
    write,
    search=None,
    chunk_lines=1000,
    longest=LONGEST,
    over_long="split",
    first=1,
    stride=1,
    include=None,
    avoid=None,
    n_best=1,
):
    """Translates lines in chunks and hands each chunk's translations to ``write`` as soon as they are there.

    Args:
        translator: a Translator.
        lines: iterable of str; read no further than the chunk at work.
        write: called with a list of translations, one a line, none with a line feed in it.
        search: as Translator.hypotheses; the first of its hypotheses are written.
        chunk_lines: lines at a time. Sentences are sorted by length within a chunk: large is fast, 1 answers at once.
        longest: most ids, eos included, that are translated as one sentence; None for any number.
        over_long: "split": a longer line is translated sentence by sentence, and a sentence that is too long itself in parts that
            end at white space, or within a word if that is too long, too; "refuse": it is an error.
        first: number of the first line, for messages.
        stride: how far apart the lines' numbers are; more than 1 for a shard.
        include: iterable of lists of str, for each line the phrases that its translation must have; None for none.
        avoid: the same, of phrases that it must not have.
        n_best: translations of a line, separated by tabs, best first; empty where fewer were found.

    Yields:
        Counts so far, after each chunk.

    Raises:
        ValueError: a line is longer than ``longest`` and not to be split, or has phrases, or its phrases cannot be met; the message
            has its number. Or the phrases end before the lines do.

    Example:

    >>> import keras_transformer as kt
    >>> from keras_transformer.file_translation import translate_lines
    >>> tokenizer = kt.Tokenizer.train(["a dog runs", "ein Hund rennt"], vocabulary_size=300)
    >>> translator = kt.Translator(kt.Transformer(tokenizer.vocabulary_size, d_model=8, num_heads=2, num_layers=1), tokenizer)
    >>> written = []
    >>> search = kt.decoding.GreedySearch(translator.model, max_length=4)
    >>> [counts.lines for counts in translate_lines(translator, ["a dog", "", "runs"], written.extend, search, chunk_lines=2)]
    [2, 3]
    >>> len(written), written[1]
    (3, '')
    """
    check_integer("chunk_lines", chunk_lines, 1)
    check_integer("n_best", n_best, 1)
    if longest is not None:
        check_integer("longest", longest, 2)
    if over_long not in ("split", "refuse"):
        raise ValueError(f'over_long must be "split" or "refuse". Received: {over_long!r}.')
    counts, lines, begin = Counts(), iter(lines), time.perf_counter()
    phrases = {name: iter(x) for name, x in (("include", include), ("avoid", avoid)) if x is not None}
    while chunk := list(itertools.islice(lines, chunk_lines)):
        numbers = range(first + stride * counts.lines, first + stride * (counts.lines + len(chunk)), stride)
        fits = _Fits(source_tokenizer(translator.tokenizer), longest)
        divided = [_parts(line, fits, over_long, number) for number, line in zip(numbers, chunk, strict=True)]
        parts = [of_line for of_line, _ in divided]
        of_chunk = {name: _phrases(name, rows, parts, numbers) for name, rows in phrases.items()}
        try:
            found = iter(translator.hypotheses([part for line in parts for part in line], search, **of_chunk))
        except RowError as error:
            of_parts = [number for number, line in zip(numbers, parts, strict=True) for _ in line]
            raise error.of("lines", of_parts) from None
        found = [[next(found) for _ in line] for line in parts]
        if n_best == 1:
            write([_joined(line, 0) for line in found])
        else:
            write(["\t".join(_joined(line, rank).replace("\t", " ") for rank in range(n_best)) for line in found])
        counts.add(chunk, divided, found)
        counts.seconds = time.perf_counter() - begin
        yield counts


def _joined(line, rank):
    """The translations of that rank of a line's parts; none if one of them has no such."""
    if any(len(of_part) <= rank for of_part in line):
        return ""
    return " ".join(of_part[rank].text for of_part in line).replace("\n", " ")


def _phrases(name, rows, parts, numbers):
    """The phrases of a chunk's lines."""
    found = list(itertools.islice(rows, len(parts)))
    if len(found) < len(parts):
        raise ValueError(
            f"{name} needs phrases for each line, which may be none. Received: none for line {numbers[len(found)]}."
        )
    for number, row, of_line in zip(numbers, found, parts, strict=True):
        if row and len(of_line) > 1:
            raise ValueError(
                f"Line {number} has phrases and is over-long: which of its sentences they belong to is not known. Allow more, "
                "or cut the line by hand."
            )
    return [row for row, of_line in zip(found, parts, strict=True) for _ in of_line]


class _Fits:
    """Whether a text has no more ids than allowed, eos included."""

    def __init__(self, tokenizer, longest):
        self.longest = longest
        self._tokenizer = tokenizer

    def length(self, text):
        return len(self._tokenizer.encode(text)) + 1

    def __call__(self, text):
        return self.longest is None or self.length(text) <= self.longest


def _parts(line, fits, over_long, number):
    """The line, or, where it is over-long, its sentences, as many as fit taken together; and whether one of them was broken."""
    if fits(line):
        return [line], False
    if over_long == "refuse":
        raise ValueError(
            f"Line {number} has {fits.length(line)} ids, and {fits.longest} are allowed: {line.strip()[:60]!r}. Allow more, cut "
            "the line where its sense allows, or let it be split."
        )
    ends, begin, broken = [], 0, False
    for end in [*(match.end() for match in _SENTENCE_END.finditer(line)), len(line)]:
        if not fits(line[begin:end].strip()):
            ends += _breaks(line, begin, end, fits, number)
            broken = True
        ends.append(end)
        begin = end
    parts, first, begin = [], 0, 0  # the last part begins at ``first``, the next at ``begin``
    for end in ends:
        together = line[first:end].strip()
        if parts and fits(together):
            parts[-1] = together
        else:
            parts.append(line[begin:end].strip())
            first = begin
        begin = end
    return [part for part in parts if part], broken


def _breaks(text, begin, end, fits, number):
    """Where text[begin:end] is broken into parts that fit: behind white space, or within a word that does not fit by itself."""
    words = [match.end() for match in _WORD_END.finditer(text, begin, end)]
    words = [place for place in words if place < end] + [end]
    breaks = []
    while begin < end:
        next_word = bisect.bisect_right(words, begin)
        count = _most(len(words) - next_word, lambda n: fits(text[begin : words[next_word + n - 1]].strip()))  # noqa: B023
        if count:
            begin = words[next_word + count - 1]
        elif count := _most(words[next_word] - begin, lambda n: fits(text[begin : begin + n])):  # noqa: B023
            begin += count
        else:
            raise ValueError(
                f"Line {number} has the letter {text[begin]!r} of {fits.length(text[begin])} ids, and {fits.longest} are allowed. "
                "Allow more."
            )
        breaks.append(begin)
    return breaks[:-1]


def _most(highest, fits):
    """The largest count up to ``highest`` that fits, or 0; no count beyond twice the result is tried."""
    low, high = 0, 1  # what fits; what does not or is not known to
    while high <= highest and fits(high):
        low, high = high, 2 * high
    high = min(high, highest + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def shard(lines, number, count):
    """Every ``count``-th line from the ``number``-th on, counted from 1: ``paste -d '\\n'`` of all shards gives the whole.

    Example:

    >>> from keras_transformer.file_translation import shard
    >>> list(shard(["a", "b", "c", "d", "e"], 2, 2))
    ['b', 'd']
    """
    check_integer("count of shards", count, 1)
    if not 1 <= number <= count:
        raise ValueError(f"There are shards 1 to {count}. Received: shard {number}.")
    return itertools.islice(lines, number - 1, None, count)


def skip_lines(lines, count, done_by):
    """The lines behind the first ``count``.

    Args:
        lines: iterable of str.
        count: how many are done.
        done_by: what has them, for the message.

    Raises:
        ValueError: there are fewer.

    Example:

    >>> from keras_transformer.file_translation import skip_lines
    >>> list(skip_lines(["a", "b", "c"], 2, "out.de"))
    ['c']
    """
    lines = iter(lines)
    skipped = sum(1 for _ in itertools.islice(lines, count))
    if skipped < count:
        raise ValueError(
            f"{done_by} has {count} lines, and the text to translate only {skipped}: they do not belong together. Name the file "
            "that was being written, with the same --source and --shard."
        )
    return lines


def complete_lines(path):
    """How many whole lines a file has; what follows the last line feed, of a write that was broken off, is taken off it."""
    if not os.path.exists(path):
        return 0
    lines = end = 0
    with open(path, "rb+") as file:
        for line in file:
            if line.endswith(b"\n"):
                lines, end = lines + 1, end + len(line)
        file.truncate(end)
    return lines
