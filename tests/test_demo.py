"""The built-in grammar: German by hand, one translation a sentence, nothing held out is trained on."""

import hashlib
import re

import pytest

from keras_transformer.text import demo
from keras_transformer.text.demo import _Clause, _finish, demo_corpus, dictionary_baseline, write_demo_corpus

CORPUS = demo_corpus()
ALL = {
    source: target
    for pairs in (CORPUS.train, CORPUS.valid, CORPUS.test)
    for source, target in zip(pairs.source, pairs.target, strict=True)
}
# article -> (case, gender or p for plural) it can stand for; from a school grammar
ARTICLES = {
    "der": {"nom m", "dat f"},
    "die": {"nom f", "nom p", "acc f", "acc p"},
    "das": {"nom n", "acc n"},
    "den": {"acc m", "dat p"},
    "dem": {"dat m", "dat n"},
    "ein": {"nom m", "nom n", "acc n"},
    "eine": {"nom f", "acc f"},
    "einen": {"acc m"},
    "einem": {"dat m", "dat n"},
    "einer": {"dat f"},
}
GENDERS = {
    "Hund": "m",
    "Katze": "f",
    "Pferd": "n",
    "Frau": "f",
    "Kind": "n",
    "Mann": "m",
    "Buch": "n",
    "Tasche": "f",
    "Brief": "m",
}
# Written out by hand, one or more for each construction.
BY_HAND = {
    "The woman gives this sister a clock because the singers have looked for a dog behind my shop.": "Die Frau gibt "
    "dieser "
    "Schwester eine "
    "Uhr, weil die "
    "Sängerinnen "
    "einen Hund "
    "hinter meinem "
    "Laden gesucht "
    "haben.",
    "My men who can sing gave the friends a hat.": "Meine Männer, die singen können, haben den Freunden einen Hut "
    "gegeben.",
    "The boys ran into the house.": "Die Jungen sind ins Haus gelaufen.",
    "Our boy calls the singer.": "Unser Junge ruft die Sängerin an.",
    "Perhaps our farmers can see the horses in the kitchen.": "Vielleicht können unsere Bäuerinnen die Pferde in der "
    "Küche sehen.",
    "Our small baby sleeps because the baby can invite the baby.": "Unser kleines Baby schläft, weil das Baby das "
    "Baby einladen kann.",
    "The bakers say that my father wants to bring along this bag.": "Die Bäcker sagen, dass mein Vater diese Tasche "
    "mitbringen will.",
    "These girls have stayed.": "Diese Mädchen sind geblieben.",
    "A boy waits next to a room.": "Ein Junge wartet neben einem Zimmer.",
    "Now a tired baker waits.": "Jetzt wartet ein müder Bäcker.",
    "My man thanked my boys.": "Mein Mann hat meinen Jungen gedankt.",
    "This teacher waits although a teacher has gone into our school.": "Diese Lehrerin wartet, obwohl eine Lehrerin "
    "in unsere Schule gegangen ist.",
    "My big aunt drives into a small shop.": "Meine große Tante fährt in einen kleinen Laden.",
    "Our aunt carried our old letter when the baby ran into the town.": "Unsere Tante hat unseren alten Brief "
    "getragen, als das Baby in die Stadt gelaufen ist.",
    "A brother found a blue apple.": "Ein Bruder hat einen blauen Apfel gefunden.",
}


def test_enough_of_everything():
    larger = demo_corpus(num_train=50_000, num_valid=0, num_test=0).train
    assert len(set(larger.source)) == 50_000
    for texts in (CORPUS.train.source, CORPUS.train.target):
        assert len(set(re.findall(r"\w+", " ".join(texts).lower()))) >= 200
    assert len(CORPUS.test) >= 500


def test_no_sentence_twice():
    sources = [*CORPUS.train.source, *CORPUS.valid.source, *CORPUS.test.source]
    assert len(sources) == len(set(sources)) == 30_000 + 500 + 600


def test_same_on_every_machine():
    digest = hashlib.sha256("\n".join(f"{source}\t{target}" for source, target in ALL.items()).encode()).hexdigest()
    again = demo_corpus()
    assert again.train.source == CORPUS.train.source
    assert digest[:16] == "278f0db8d3cef79a"


def test_held_out_sentences_do_not_depend_on_the_training_size():
    assert demo_corpus(num_train=10).test == CORPUS.test


def test_one_source_has_one_translation():
    for seed in (1, 2):
        other = demo_corpus(seed=seed)
        for source, target in zip(other.train.source, other.train.target, strict=True):
            assert ALL.get(source, target) == target


@pytest.mark.parametrize("noun", GENDERS)
def test_articles_fit_the_noun(noun):
    """Whatever the case, an article right before a singular noun is one of its gender."""
    found = set(re.findall(rf"\b(\w+) {noun}\b", " ".join(CORPUS.train.target))) & ARTICLES.keys()
    assert len(found) >= 2
    for article in found:
        assert any(use.endswith(GENDERS[noun]) for use in ARTICLES[article]), article


def test_constructions_by_hand():
    for source, target in BY_HAND.items():
        assert ALL[source] == target


def test_verb_comes_last_in_subordinate_clauses():
    finite = "hat|haben|ist|sind|kann|können|muss|müssen|soll|sollen|will|wollen"
    clauses = [
        match[1]
        for target in CORPUS.train.target
        for match in re.finditer(r", (?:weil|dass|wenn|als|obwohl|bevor) (.*)\.$", target)
    ]
    assert len(clauses) > 5000
    composed = [clause for clause in clauses if re.search(rf"\b({finite})\b", clause)]
    assert len(composed) > 2000
    assert all(re.search(rf" ({finite})$", clause) for clause in composed)


def test_prefix_goes_to_the_end_of_a_main_clause():
    clause = _Clause(["calls"], ["die", "Frau"], "ruft", "an", ["einen", "Arzt"], [], "present")
    assert _finish(clause.german_second()) == "Die Frau ruft einen Arzt an."
    assert _finish(clause.german_second(first=["heute"])) == "Heute ruft die Frau einen Arzt an."
    assert " ".join(clause.german_last()) == "die Frau einen Arzt anruft"


def test_word_by_word_is_not_enough():
    translations = dictionary_baseline(CORPUS.test.source)
    share = sum(one == other for one, other in zip(translations, CORPUS.test.target, strict=True)) / len(CORPUS.test)
    assert dictionary_baseline(["In the kitchen."]) == ["In der Küche."]
    assert 0 < share < 0.2  # it gets some: it is a real dictionary
    known = {word.lower() for target in CORPUS.train.target for word in re.findall(r"\w+", target)}
    words = [word for translation in translations for word in re.findall(r"\w+", translation.lower())]
    assert sum(word in known for word in words) / len(words) > 0.98


def test_files(tmp_path):
    write_demo_corpus(tmp_path / "demo", num_train=20, num_valid=3, num_test=2)
    assert len((tmp_path / "demo" / "train.de").read_text(encoding="utf-8").splitlines()) == 20
    assert (tmp_path / "demo" / "test.en").read_text(encoding="utf-8").splitlines() == CORPUS.test.source[:2]


@pytest.mark.parametrize("sizes", [{"num_train": -1}, {"num_test": -5}])
def test_impossible_sizes(sizes):
    with pytest.raises(ValueError, match="must not be negative. Received: "):
        demo_corpus(**sizes)


def test_more_sentences_than_there_are(monkeypatch):
    monkeypatch.setattr(demo, "_sentence", lambda draw: (draw.one("ab"), "c"))
    with pytest.raises(ValueError, match="gave 2 distinct sentences; 3 were asked for. Ask for fewer."):
        demo_corpus(num_train=1, num_valid=1, num_test=1)


def test_when_is_als_in_the_past_alone():
    """wenn needs a present, a modal or an English perfect after it; als an English past."""
    for source, target in ALL.items():
        if " when " in source:
            after = source.split(" when ")[1]
            perfect_or_modal = re.search(r"\b(has|have|can|must|should|wants?)\b", after)
            assert not (perfect_or_modal and ", als " in target), source
            past_in_german = re.search(r" (hat|haben|ist|sind)\.$", target)
            assert (", als " in target) == bool(past_in_german and not perfect_or_modal), source
