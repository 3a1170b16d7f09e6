"""The built-in corpus's words are a whole lexicon: what demo.py looks up is there, once, in every case and gender."""

import keras
import pytest

from keras_transformer.text import demo_lexicon as lexicon

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
CASES = {"nominative", "accusative", "dative"}


def test_nouns_are_complete_and_different():
    for kind, nouns in lexicon.NOUNS.items():
        assert len({noun.english for noun in nouns}) == len(nouns), kind
        for noun in nouns:
            assert noun.gender in "mfn" and noun.german[0].isupper() and noun.plural[0].isupper()
            assert not noun.weak or (noun.gender == "m" and noun.plural.endswith("n"))
    words = [noun.english for nouns in lexicon.NOUNS.values() for noun in nouns]
    assert len(set(words)) == len(words)  # one translation a word
    assert set(lexicon.ADJECTIVES) == set(lexicon.NOUNS)


def test_every_form_has_its_case_and_gender():
    for determiner in lexicon.DETERMINERS:
        assert set(determiner.forms) == CASES
        assert all(len(forms) == len(lexicon.GENDERS) for forms in determiner.forms.values())
        assert determiner.declension in lexicon.ENDINGS
    for endings in lexicon.ENDINGS.values():
        assert set(endings) == CASES and all(len(forms) == len(lexicon.GENDERS) for forms in endings.values())
    assert all("-" not in forms for d in lexicon.PLURAL_DETERMINERS for forms in d.forms.values())
    assert set(lexicon.RELATIVE_PRONOUNS) == set(lexicon.GENDERS)


def test_verbs_take_objects_and_places_that_exist():
    assert len({verb.base for verb in lexicon.VERBS}) == len(lexicon.VERBS)
    for verb in lexicon.VERBS:
        assert all(case in CASES and kind in lexicon.NOUNS for case, kind in verb.objects)
        assert verb.place is None or verb.place in lexicon.PREPOSITIONS
        assert verb.auxiliary in ("haben", "sein")
        assert verb.german_participle.startswith(verb.prefix)
        assert (verb.place == "accusative") == (verb.auxiliary == "sein" and verb.base != "stay")


def test_one_translation_a_word():
    """Else what is right would depend on chance."""
    for pairs in (lexicon.CONJUNCTIONS, lexicon.ADVERBS, lexicon.PAST_ADVERBS):
        assert len(dict(pairs)) == len(pairs)
    stems = {}
    for row in lexicon.ADJECTIVES.values():
        for english, german in row:
            assert stems.setdefault(english, german) == german
