import numpy as np
import pytest
from test_properties_search import ALL, EOS, PAD, SOURCE, TableModel, drawn_table, every_translation
from test_search import MODEL

from keras_transformer.decoding import BeamSearch, ConstrainedBeamSearch, Rules

SIZES = (3, 40)  # length, V
TABLE_MODEL = TableModel(SIZES[1])
WIDE = ConstrainedBeamSearch(TABLE_MODEL, ALL[3], 1.0, max_length=3)
NARROW = ConstrainedBeamSearch(TABLE_MODEL, 3, 1.0, max_length=3)
INCLUDE = [[(4, 5), 1], [5, (5, 5)], []]  # of three rows
AVOID = [[], [4], [(4, 5, 1), (1, 1)]]


def has(tokens, phrase):
    phrase = (phrase,) if isinstance(phrase, int) else phrase
    return any(tokens[place : place + len(phrase)] == phrase for place in range(len(tokens)))


def allowed_translations(table, row):
    """{tokens: score} of all translations of up to three tokens that have and lack what they must."""
    return {
        tokens: score
        for tokens, score in every_translation(table, SOURCE[row], 1.0, SIZES[0]).items()
        if all(has(tokens, phrase) for phrase in INCLUDE[row]) and not any(has(tokens, x) for x in AVOID[row])
    }


@pytest.mark.parametrize("tied", [False, True])
def test_a_wide_beam_is_exhaustive(tied):
    for seed in range(5):
        table = drawn_table(seed, tied, SIZES)
        TABLE_MODEL.table.assign(table)
        ids, scores = WIDE(SOURCE, include=INCLUDE, avoid=AVOID)
        for row, (found, found_scores) in enumerate(zip(ids, scores, strict=True)):
            expected = allowed_translations(table, row)
            # Behind these stand translations with a word that the table makes impossible.
            found_scores = found_scores[found_scores > -1e3]
            found = [tuple(x[x != PAD].tolist()) for x in found[: len(found_scores)]]
            assert set(found) == set(expected) and len(found) == len(expected) > 1
            np.testing.assert_allclose(found_scores, [expected[tokens] for tokens in found], rtol=1e-5, atol=1e-5)
            assert (np.diff(found_scores) <= 0).all()


def test_a_narrow_beam_meets_them_all_the_same():
    """And its scores are true; the best of the wide beam is often found, though its first token may be the least likely."""
    best = 0
    for seed in range(20):
        table = drawn_table(seed, False, SIZES)
        TABLE_MODEL.table.assign(table)
        ids, scores = NARROW(SOURCE, include=INCLUDE, avoid=AVOID)
        for row in range(3):
            expected = allowed_translations(table, row)
            found = [tuple(x[x != PAD].tolist()) for x in ids[row] if x[0] != PAD]
            assert found and len(set(found)) == len(found)
            np.testing.assert_allclose(
                scores[row, : len(found)], [expected[tokens] for tokens in found], rtol=1e-5, atol=1e-5
            )
            best += expected[found[0]] >= max(expected.values()) - 1e-5
    assert best > 40


def test_without_phrases_it_is_beam_search():
    source = np.array([[5, 6, 4, 6, 3], [4, 3, 0, 0, 0], [6, 5, 5, 3, 0]], dtype="int32")
    ids, scores = ConstrainedBeamSearch(MODEL, 3)(source, include=[[], [], []])
    expected_ids, expected_scores = BeamSearch(MODEL, 3)(source)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"include": [[], []]}, "include must have a list of phrases for each of 3 rows. Received: 2 lists"),
        ({"include": [[()], [], []]}, "include must hold ids below 40"),
        ({"avoid": [[(40,)], [], []]}, "avoid must hold ids below 40"),
        ({"include": [[], [(4, EOS)], []]}, "without pad, bos and eos"),
        (
            {"include": [[], [], [(4, 4, 5), 1]]},
            r"phrases for source rows \[2\] have 4 tokens, and a translation may have 3",
        ),
        ({"include": [[], [4], []], "avoid": [[], [4], []]}, r"was found for source rows \[1\]"),
    ],
)
def test_impossible_phrases(arguments, message):
    TABLE_MODEL.table.assign(drawn_table(0, False, SIZES))
    with pytest.raises(ValueError, match=message):
        NARROW(SOURCE, **arguments)


def test_rules_that_contradict_them():
    TABLE_MODEL.table.assign(drawn_table(0, False, SIZES))
    search = ConstrainedBeamSearch(TABLE_MODEL, 3, max_length=3, rules=Rules(banned=(4,)))
    with pytest.raises(ValueError, match=r"was found for source rows \[0\]"):
        search(SOURCE, include=INCLUDE)
