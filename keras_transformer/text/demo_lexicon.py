"""The words of the built-in corpus, as data: demo.py makes sentences of them.

A noun: English singular and plural, German singular, gender, plural; "weak" ones take the plural's form in the
singular's accusative and dative. A verb: English base, third person, past, participle; German third person, plural
(which is the infinitive), participle; its objects, whether a place goes with it, its auxiliary, its separable prefix.
"""

from typing import NamedTuple

GENDERS = "mfnp"  # masculine, feminine, neuter; p for the plural of all


class Noun(NamedTuple):
    english: str
    english_plural: str
    german: str
    gender: str
    plural: str
    weak: bool = False


class Verb(NamedTuple):
    base: str
    third: str
    past: str
    participle: str
    german_third: str
    german_plural: str
    german_participle: str
    objects: tuple = ()  # of (case, kind of noun), in the German order, which is the English one too
    place: str | None = None  # case after its preposition: "dative" where, "accusative" whither, None neither
    auxiliary: str = "haben"
    prefix: str = ""


class Determiner(NamedTuple):
    singular: str
    plural: str
    forms: dict  # case -> forms by GENDERS
    declension: str  # of an adjective after it


def _nouns(table):
    rows = [line.split() for line in table.strip().splitlines()]
    return tuple(Noun(*row[:5], weak=row[5:] == ["weak"]) for row in rows)


NOUNS = {
    "person": _nouns("""
        man men Mann m Männer
        woman women Frau f Frauen
        child children Kind n Kinder
        boy boys Junge m Jungen weak
        girl girls Mädchen n Mädchen
        friend friends Freund m Freunde
        teacher teachers Lehrerin f Lehrerinnen
        doctor doctors Arzt m Ärzte
        student students Student m Studenten weak
        neighbour neighbours Nachbar m Nachbarn weak
        mother mothers Mutter f Mütter
        father fathers Vater m Väter
        brother brothers Bruder m Brüder
        sister sisters Schwester f Schwestern
        aunt aunts Tante f Tanten
        baker bakers Bäcker m Bäcker
        farmer farmers Bäuerin f Bäuerinnen
        guest guests Gast m Gäste
        baby babies Baby n Babys
        singer singers Sängerin f Sängerinnen
    """),
    "animal": _nouns("""
        dog dogs Hund m Hunde
        cat cats Katze f Katzen
        horse horses Pferd n Pferde
        bird birds Vogel m Vögel
        cow cows Kuh f Kühe
        bear bears Bär m Bären weak
        mouse mice Maus f Mäuse
        duck ducks Ente f Enten
    """),
    "thing": _nouns("""
        book books Buch n Bücher
        letter letters Brief m Briefe
        car cars Auto n Autos
        bag bags Tasche f Taschen
        table tables Tisch m Tische
        lamp lamps Lampe f Lampen
        picture pictures Bild n Bilder
        apple apples Apfel m Äpfel
        flower flowers Blume f Blumen
        bicycle bicycles Fahrrad n Fahrräder
        key keys Schlüssel m Schlüssel
        clock clocks Uhr f Uhren
        cup cups Tasse f Tassen
        hat hats Hut m Hüte
        knife knives Messer n Messer
        map maps Karte f Karten
    """),
    "place": _nouns("""
        garden gardens Garten m Gärten
        house houses Haus n Häuser
        kitchen kitchens Küche f Küchen
        forest forests Wald m Wälder
        room rooms Zimmer n Zimmer
        town towns Stadt f Städte
        park parks Park m Parks
        shop shops Laden m Läden
        school schools Schule f Schulen
        village villages Dorf n Dörfer
    """),
}


def _adjectives(row):
    return tuple(tuple(entry.split()) for entry in row.split(","))


# English | German stem
ADJECTIVES = {
    "person": _adjectives(
        "small klein,big groß,old alt,young jung,good gut,strange fremd,quiet still,funny lustig,tired müd"
    ),
    "animal": _adjectives(
        "small klein,big groß,old alt,young jung,black schwarz,white weiß,beautiful schön,fast schnell"
    ),
    "thing": _adjectives("small klein,big groß,old alt,new neu,red rot,green grün,blue blau,clean sauber,cheap billig"),
    "place": _adjectives("small klein,big groß,old alt,new neu,beautiful schön,quiet still,strange fremd,clean sauber"),
}


def _forms(table):
    return dict(zip(("nominative", "accusative", "dative"), (row.split() for row in table.split("|")), strict=True))


DETERMINERS = (
    Determiner("the", "the", _forms("der die das die | den die das die | dem der dem den"), "weak"),
    Determiner("a", "a", _forms("ein eine ein - | einen eine ein - | einem einer einem -"), "mixed"),
    Determiner(
        "this",
        "these",
        _forms("dieser diese dieses diese | diesen diese dieses diese | diesem dieser diesem diesen"),
        "weak",
    ),
    Determiner(
        "my", "my", _forms("mein meine mein meine | meinen meine mein meine | meinem meiner meinem meinen"), "mixed"
    ),
    Determiner(
        "our",
        "our",
        _forms("unser unsere unser unsere | unseren unsere unser unsere | unserem unserer unserem unseren"),
        "mixed",
    ),
)
PLURAL_DETERMINERS = tuple(determiner for determiner in DETERMINERS if determiner.singular != "a")

ENDINGS = {
    "weak": _forms("e e e en | en e e en | en en en en"),
    "mixed": _forms("er e es en | en e es en | en en en en"),
}

_ACCUSATIVE = {kind: (("accusative", kind),) for kind in NOUNS}
_GIVING = (("dative", "person"), ("accusative", "thing"))

VERBS = (
    Verb("sleep", "sleeps", "slept", "slept", "schläft", "schlafen", "geschlafen", place="dative"),
    Verb("work", "works", "worked", "worked", "arbeitet", "arbeiten", "gearbeitet", place="dative"),
    Verb("laugh", "laughs", "laughed", "laughed", "lacht", "lachen", "gelacht", place="dative"),
    Verb("wait", "waits", "waited", "waited", "wartet", "warten", "gewartet", place="dative"),
    Verb("sing", "sings", "sang", "sung", "singt", "singen", "gesungen", place="dative"),
    Verb("stay", "stays", "stayed", "stayed", "bleibt", "bleiben", "geblieben", place="dative", auxiliary="sein"),
    Verb("go", "goes", "went", "gone", "geht", "gehen", "gegangen", place="accusative", auxiliary="sein"),
    Verb("run", "runs", "ran", "run", "läuft", "laufen", "gelaufen", place="accusative", auxiliary="sein"),
    Verb("drive", "drives", "drove", "driven", "fährt", "fahren", "gefahren", place="accusative", auxiliary="sein"),
    Verb("see", "sees", "saw", "seen", "sieht", "sehen", "gesehen", _ACCUSATIVE["animal"], place="dative"),
    Verb("find", "finds", "found", "found", "findet", "finden", "gefunden", _ACCUSATIVE["thing"], place="dative"),
    Verb("love", "loves", "loved", "loved", "liebt", "lieben", "geliebt", _ACCUSATIVE["person"]),
    Verb("hear", "hears", "heard", "heard", "hört", "hören", "gehört", _ACCUSATIVE["animal"], place="dative"),
    Verb("buy", "buys", "bought", "bought", "kauft", "kaufen", "gekauft", _ACCUSATIVE["thing"], place="dative"),
    Verb("paint", "paints", "painted", "painted", "malt", "malen", "gemalt", _ACCUSATIVE["animal"], place="dative"),
    Verb("carry", "carries", "carried", "carried", "trägt", "tragen", "getragen", _ACCUSATIVE["thing"]),
    Verb(
        "look for",
        "looks for",
        "looked for",
        "looked for",
        "sucht",
        "suchen",
        "gesucht",
        _ACCUSATIVE["animal"],
        place="dative",
    ),
    Verb("forget", "forgets", "forgot", "forgotten", "vergisst", "vergessen", "vergessen", _ACCUSATIVE["thing"]),
    Verb("visit", "visits", "visited", "visited", "besucht", "besuchen", "besucht", _ACCUSATIVE["person"]),
    Verb("need", "needs", "needed", "needed", "braucht", "brauchen", "gebraucht", _ACCUSATIVE["thing"]),
    Verb("call", "calls", "called", "called", "ruft", "rufen", "angerufen", _ACCUSATIVE["person"], prefix="an"),
    Verb("invite", "invites", "invited", "invited", "lädt", "laden", "eingeladen", _ACCUSATIVE["person"], prefix="ein"),
    Verb(
        "bring along",
        "brings along",
        "brought along",
        "brought along",
        "bringt",
        "bringen",
        "mitgebracht",
        _ACCUSATIVE["thing"],
        prefix="mit",
    ),
    Verb("help", "helps", "helped", "helped", "hilft", "helfen", "geholfen", (("dative", "person"),), place="dative"),
    Verb("thank", "thanks", "thanked", "thanked", "dankt", "danken", "gedankt", (("dative", "person"),)),
    Verb("give", "gives", "gave", "given", "gibt", "geben", "gegeben", _GIVING),
    Verb("show", "shows", "showed", "shown", "zeigt", "zeigen", "gezeigt", _GIVING),
    Verb("sell", "sells", "sold", "sold", "verkauft", "verkaufen", "verkauft", _GIVING),
)

# English and German: third person, then plural.
MODALS = (
    ("can", "can", "kann", "können"),
    ("must", "must", "muss", "müssen"),
    ("should", "should", "soll", "sollen"),
    ("wants to", "want to", "will", "wollen"),
)
THOUGHTS = (
    ("says", "say", "sagt", "sagen"),
    ("believes", "believe", "glaubt", "glauben"),
    ("knows", "know", "weiß", "wissen"),
)

CONJUNCTIONS = (("because", "weil"), ("when", "wenn"), ("although", "obwohl"), ("before", "bevor"))
PAST_CONJUNCTIONS = {"wenn": "als"}  # what happened once, in a clause whose English is in the past
ADVERBS = (("today", "heute"), ("now", "jetzt"), ("often", "oft"), ("sometimes", "manchmal"), ("perhaps", "vielleicht"))
PAST_ADVERBS = (("yesterday", "gestern"), ("recently", "neulich"), ("suddenly", "plötzlich"))

PREPOSITIONS = {
    "dative": (("in", "in"), ("behind", "hinter"), ("in front of", "vor"), ("next to", "neben")),
    "accusative": (("into", "in"),),
}
CONTRACTIONS = {("in", "dem"): "im", ("in", "das"): "ins"}
RELATIVE_PRONOUNS = {"m": "der", "f": "die", "n": "das", "p": "die"}
