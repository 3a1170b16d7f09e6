"""The built-in corpus: English sentences and their German translations, made by a small grammar; no download.

What makes it more than a dictionary: articles, adjectives and nouns agree in case, gender and number; who is given
something stands in the dative; prepositions of place take the dative, of direction the accusative; the verb stands
second, after an adverb too, with its participle, infinitive or prefix at the end; after a conjunction or relative
pronoun the whole verb comes last. Every English sentence has one translation. The words are in demo_lexicon.py.
"""

import dataclasses
import random
from pathlib import Path

from keras_transformer.text import demo_lexicon as lexicon


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Sentences and their translations: ``source[i]`` is English, ``target[i]`` German."""

    source: list[str]
    target: list[str]

    def __len__(self) -> int:
        return len(self.source)


@dataclasses.dataclass(frozen=True)
class DemoCorpus:
    """Three sets of Pairs; no English sentence occurs twice, in one set or in two."""

    train: Pairs
    valid: Pairs
    test: Pairs


def demo_corpus(num_train: int = 30_000, num_valid: int = 500, num_test: int = 600, seed: int = 0) -> DemoCorpus:
    """Draws distinct sentences from the grammar, the same on every machine.

    Args:
        num_train: pairs to train on.
        num_valid: pairs to validate with.
        num_test: pairs held out to the end.
        seed: an integer.

    Returns:
        A DemoCorpus.

    Raises:
        ValueError: a number is negative, or the grammar does not give that many.

    Example:

    >>> from keras_transformer.text.demo import demo_corpus
    >>> corpus = demo_corpus(num_train=100, num_valid=10, num_test=10)
    >>> len(corpus.train), len(set(corpus.train.source) & set(corpus.test.source))
    (100, 0)
    """
    sizes = {"num_train": num_train, "num_valid": num_valid, "num_test": num_test}
    for name, size in sizes.items():
        if size < 0:
            raise ValueError(f"{name} must not be negative. Received: {name}={size}. Pass 0 for none.")
    wanted = sum(sizes.values())
    draw = _Draw(seed)
    pairs = {}
    for _ in range(3 * wanted + 1000):
        if len(pairs) == wanted:
            break
        source, target = _sentence(draw)
        pairs.setdefault(source, target)
    if len(pairs) < wanted:
        raise ValueError(f"The grammar gave {len(pairs)} distinct sentences; {wanted} were asked for. Ask for fewer.")
    rows = list(pairs.items())
    # Held-out sentences come first, so that the test set stays the same when there are more training pairs.
    sets = rows[:num_test], rows[num_test : num_test + num_valid], rows[num_test + num_valid :]
    test, valid, train = (Pairs([source for source, _ in part], [target for _, target in part]) for part in sets)
    return DemoCorpus(train, valid, test)


def write_demo_corpus(folder: str | Path, **sizes: int) -> Path:
    """Writes demo_corpus(**sizes) as train.en, train.de, valid.en, ..., test.de: UTF-8, a sentence a line.

    Args:
        folder: made where it lacks; files of these names are overwritten.
        **sizes: num_train, num_valid, num_test, seed, as of demo_corpus.

    Returns:
        The folder's Path.

    Raises:
        ValueError: see demo_corpus.

    Example:

    >>> import tempfile
    >>> from keras_transformer.text.demo import write_demo_corpus
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sorted(path.name for path in write_demo_corpus(folder, num_train=10).iterdir())[:2]
    ['test.de', 'test.en']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    corpus = demo_corpus(**sizes)
    for name in ("train", "valid", "test"):
        pairs = getattr(corpus, name)
        for language, texts in (("en", pairs.source), ("de", pairs.target)):
            lines = "".join(text + "\n" for text in texts)
            (folder / f"{name}.{language}").write_text(lines, encoding="utf-8", newline="\n")
    return folder


def dictionary_baseline(sources: list[str]) -> list[str]:
    """Translates word by word, each English word by one German word; order and agreement are what it lacks.

    Args:
        sources: list of English sentences of the corpus.

    Returns:
        list of str.

    Example:

    >>> from keras_transformer.text.demo import dictionary_baseline
    >>> dictionary_baseline(["The dog sleeps."])
    ['Der Hund schläft.']
    """
    dictionary = _dictionary()
    translations = []
    for source in sources:
        words = source.rstrip(".").split()
        words = [dictionary.get(word.lower(), "") for word in words]
        translations.append(_finish([word for word in words if word]))
    return translations


# Drawing


class _Draw:
    """Choices that only rest on random.Random.random, which Python keeps the same from version to version."""

    def __init__(self, seed):
        self._random = random.Random(seed).random

    def one(self, choices):
        return choices[int(self._random() * len(choices))]

    def chance(self, probability: float) -> bool:
        return self._random() < probability


# The grammar. A phrase is a pair of word lists, English and German.


def _sentence(draw: _Draw) -> tuple[str, str]:
    main, kind = _clause(draw), draw.one(("plain", "plain", "adverb", "adverb", "conjunction", "thought", "relative"))
    if kind == "plain":
        english, german = main.english, main.german_second()
    elif kind == "adverb":
        adverb, german_adverb = draw.one(lexicon.PAST_ADVERBS if main.tense == "past" else lexicon.ADVERBS)
        english, german = adverb.split() + main.english, main.german_second(first=[german_adverb])
    elif kind == "conjunction":
        conjunction, german_conjunction = draw.one(lexicon.CONJUNCTIONS)
        other = _clause(draw, short=True)
        if other.tense == "past":
            german_conjunction = lexicon.PAST_CONJUNCTIONS.get(german_conjunction, german_conjunction)
        english = [*main.english, conjunction, *other.english]
        german = [*main.german_second(), ",", german_conjunction, *other.german_last()]
    elif kind == "thought":
        subject = _noun_phrase(draw, "person", "nominative", adjective=0.2)
        verb = draw.one(lexicon.THOUGHTS)
        english = [*subject.english, verb[subject.number], "that", *main.english]
        german = [*subject.german, verb[2 + subject.number], ",", "dass", *main.german_last()]
    else:
        english, german = _with_relative_clause(draw)
    return _finish(english), _finish(german)


def _finish(words: list[str]) -> str:
    """Words as a sentence: capital letter, commas without a space before them, full stop."""
    text = " ".join(words).replace(" ,", ",")
    return text[0].upper() + text[1:] + "."


@dataclasses.dataclass(frozen=True)
class _Clause:
    """A clause whose German parts are kept apart, since their order depends on where it stands."""

    english: list[str]
    subject: list[str]
    finite: str  # what is conjugated
    prefix: str  # of a separable verb in the present, else ""
    middle: list[str]  # objects and place
    end: list[str]  # participle or infinitive
    tense: str

    def german_second(self, first: list[str] | tuple[()] = ()) -> list[str]:
        """The verb second: after the subject, or after ``first``, which changes places with it."""
        front, after = (list(first), self.subject) if first else (self.subject, [])
        return [*front, self.finite, *after, *self.middle, *self.end, *([self.prefix] if self.prefix else [])]

    def german_last(self) -> list[str]:
        """The verb last, a prefix back in its place."""
        return [*self.subject, *self.middle, *self.end, self.prefix + self.finite]


def _clause(draw, short=False, subject=None):
    verb = draw.one(lexicon.VERBS)
    if subject is None:
        subject = _noun_phrase(draw, "person", "nominative", adjective=0.1 if short else 0.3)
    tense = draw.one(("present", "present", "past", "perfect", "modal"))
    english_verb, finite, prefix, end = _conjugate(draw, verb, tense, subject.number)
    english_objects, middle = _complements(draw, verb, short)
    english = [*subject.english, *english_verb, *english_objects]
    return _Clause(english, subject.german, finite, prefix, middle, end, tense)


def _conjugate(draw, verb, tense, number):
    """English verb; German finite verb, prefix left behind, participle or infinitive. number: 0 singular, 1 plural."""
    if tense == "present":
        return (
            (verb.third if number == 0 else verb.base).split(),
            (verb.german_third, verb.german_plural)[number],
            verb.prefix,
            [],
        )
    if tense == "modal":
        modal = draw.one(lexicon.MODALS)
        return [*modal[number].split(), *verb.base.split()], modal[2 + number], "", [verb.prefix + verb.german_plural]
    auxiliary = {"haben": ("hat", "haben"), "sein": ("ist", "sind")}[verb.auxiliary][number]
    english = verb.past.split() if tense == "past" else [("has", "have")[number], *verb.participle.split()]
    return english, auxiliary, "", [verb.german_participle]


def _complements(draw, verb, short):
    """Objects and place as the verb asks for them: English and German words."""
    english, german = [], []
    for case, kind in verb.objects:
        phrase = _noun_phrase(draw, kind, case, adjective=0.1 if short else 0.3)
        english, german = [*english, *phrase.english], [*german, *phrase.german]
    if verb.place == "accusative" or (verb.place == "dative" and draw.chance(0.1 if short else 0.35)):
        preposition, german_preposition = draw.one(lexicon.PREPOSITIONS[verb.place])
        phrase = _noun_phrase(draw, "place", verb.place, adjective=0.1, plural=0.0)
        english = [*english, *preposition.split(), *phrase.english]
        german = [*german, *_contract(german_preposition, phrase.german)]
    return english, german


def _contract(preposition: str, noun_phrase: list[str]) -> list[str]:
    """in + dem = im, in + das = ins"""
    contracted = lexicon.CONTRACTIONS.get((preposition, noun_phrase[0]))
    return [contracted, *noun_phrase[1:]] if contracted else [preposition, *noun_phrase]


def _with_relative_clause(draw):
    """The man who sees the dog sleeps. - Der Mann, der den Hund sieht, schläft."""
    head = _noun_phrase(draw, "person", "nominative", adjective=0.1)
    pronoun = dataclasses.replace(head, english=["who"], german=[lexicon.RELATIVE_PRONOUNS[head.gender]])
    inner = _clause(draw, short=True, subject=pronoun)
    outer = _clause(draw, short=True, subject=dataclasses.replace(head, english=[], german=[]))
    german = [*head.german, ",", *inner.german_last(), ",", *outer.german_second()]
    return [*head.english, *inner.english, *outer.english], german


@dataclasses.dataclass(frozen=True)
class _NounPhrase:
    english: list[str]
    german: list[str]
    number: int  # 0 singular, 1 plural
    gender: str  # m, f, n, or p for any plural


def _noun_phrase(draw: _Draw, kind: str, case: str, adjective: float, plural: float = 0.25) -> _NounPhrase:
    """Determiner, perhaps an adjective, noun: all agree."""
    noun = draw.one(lexicon.NOUNS[kind])
    number = int(draw.chance(plural))
    gender = "p" if number else noun.gender
    determiner = draw.one(lexicon.DETERMINERS if not number else lexicon.PLURAL_DETERMINERS)
    column = lexicon.GENDERS.index(gender)
    article = determiner.forms[case][column]
    adjective_words = draw.one(lexicon.ADJECTIVES[kind]) if draw.chance(adjective) else None
    english = [determiner.plural if number else determiner.singular]
    german = [article]
    if adjective_words:
        english.append(adjective_words[0])
        german.append(adjective_words[1] + lexicon.ENDINGS[determiner.declension][case][column])
    english.append(noun.english_plural if number else noun.english)
    german.append(_decline(noun, case, number))
    if english[0] == "a" and english[1][0] in "aeiou":
        english[0] = "an"
    return _NounPhrase(english, german, number, gender)


def _decline(noun, case, number):
    """A noun's form: weak ones take their plural's outside the nominative, and the dative plural ends with n."""
    if number:
        return noun.plural + "n" if case == "dative" and noun.plural[-1] not in "ns" else noun.plural
    return noun.plural if noun.weak and case != "nominative" else noun.german


def _dictionary() -> dict[str, str]:
    """English word -> the German word in its first form."""
    entries = {"who": "der", "that": "dass", "an": "ein", "has": "hat", "have": "haben"}
    for determiner in reversed(lexicon.DETERMINERS):
        entries[determiner.plural] = determiner.forms["nominative"][3]
        entries[determiner.singular] = determiner.forms["nominative"][0]
    entries |= {english: german + "e" for row in lexicon.ADJECTIVES.values() for english, german in row}
    for kind in lexicon.NOUNS.values():
        for noun in kind:
            entries |= {noun.english: noun.german, noun.english_plural: noun.plural}
    for verb in lexicon.VERBS:
        for english, german in (
            (verb.participle, verb.german_participle),
            (verb.past, verb.german_participle),
            (verb.third, verb.german_third),
            (verb.base, verb.prefix + verb.german_plural),
        ):
            entries[english.split()[0]] = german
    for third, plural, german_third, german_plural in (*lexicon.MODALS, *lexicon.THOUGHTS):
        entries |= {third.split()[0]: german_third, plural.split()[0]: german_plural}
    phrases = (*lexicon.CONJUNCTIONS, *lexicon.ADVERBS, *lexicon.PAST_ADVERBS)
    phrases += (*lexicon.PREPOSITIONS["dative"], *lexicon.PREPOSITIONS["accusative"])
    for english, german in sorted(phrases, key=lambda phrase: -len(phrase[0].split())):  # "in" over "in front of"
        first, *others = english.split()
        entries[first] = german
        for word in others:
            entries.setdefault(word, "")
    return entries
