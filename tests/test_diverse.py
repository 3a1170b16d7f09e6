import numpy as np
import pytest
from test_search import BOS, EOS, MODEL, PAD, SOURCE, TableModel, tied_table, tokens_of

from keras_transformer.decoding import BeamSearch, DiverseBeamSearch
from keras_transformer.decoding import loop as loop_module


def plain_diverse_beam_search(model, source, width, groups, diversity, length_penalty):
    """The search of one sentence as DiverseBeamSearch's docstring words it, in lists; [(score, tokens)], best first."""
    limit, width = 2 * int(np.sum(source != PAD)) + 10, width // groups
    alive = [[(0.0, [], int(source.sum()))] for _ in range(groups)]
    finished, done = [[] for _ in range(groups)], [False] * groups
    for length in range(1, limit + 1):
        taken = []
        for group in range(groups):
            if done[group]:
                continue
            extensions = []
            for beam, (score, tokens, history) in enumerate(alive[group]):
                history = model.next_history(history, tokens[-1] if tokens else BOS)
                for token, logit in enumerate(model.table[history % len(model.table)].tolist()):
                    if token not in (PAD, BOS):
                        cost = diversity * taken.count(token)
                        found = (score + logit, [*tokens, token], history)
                        extensions.append((-(score + logit - cost), token, beam, found))
            best = sorted(extensions)[: 2 * width]
            ends = [token == EOS or length == limit for _, token, _, _ in best]
            taken = taken + [token for _, token, _, _ in best[:width]]
            finished[group] += [
                (score / ((5 + length) / 6) ** length_penalty, tokens)
                for (_, _, _, (score, tokens, _)), end in zip(best[:width], ends[:width], strict=True)
                if end
            ]
            alive[group] = [found for (_, _, _, found), end in zip(best, ends, strict=True) if not end][:width]
            alive[group].sort(key=lambda one: -one[0])
            finished[group] = sorted(finished[group], key=lambda one: -one[0])[:width]
            done[group] = len(finished[group]) == width
        if all(done):
            break
    found = sorted((one for group in finished for one in group), key=lambda one: -one[0])
    return [one for place, one in enumerate(found) if one[1] not in [tokens for _, tokens in found[:place]]]


@pytest.mark.parametrize(("groups", "diversity"), [(2, 1.0), (3, 20.0)])
def test_diverse_search_equals_the_algorithm_written_out(groups, diversity, monkeypatch):
    for name, value in (("_ROOM", 4), ("_SHRINK", 2), ("_SMALLEST", 4)):  # rows leave the batch, the cache grows
        monkeypatch.setattr(loop_module, name, value)
    model = TableModel(tied_table(seed=5))
    source = np.random.default_rng(groups).integers(4, 8, (8, 4), dtype="int32")
    source[np.arange(4) > np.arange(8)[:, None] % 3 + 1] = PAD
    ids, scores = DiverseBeamSearch(model, 6, groups, diversity, 0.6)(source)
    assert ids.shape[:2] == (8, 6)
    alike = 0
    plain_ids, _ = BeamSearch(model, 6, 0.6)(source)
    for row, found, found_scores, plain in zip(source, ids, scores, plain_ids, strict=True):
        expected = plain_diverse_beam_search(model, row, 6, groups, diversity, 0.6)
        assert [tokens_of(hypothesis) for hypothesis in found[: len(expected)]] == [tokens for _, tokens in expected]
        np.testing.assert_allclose(found_scores[: len(expected)], [score for score, _ in expected], rtol=1e-6)
        alike += found.tolist() == plain.tolist()
    assert alike < 8  # the groups do matter


def test_groups_begin_differently_when_repeating_is_dear():
    found = []
    for diversity in (0.0, 100.0):
        ids, scores = DiverseBeamSearch(MODEL, 4, 4, diversity, max_length=3)(SOURCE)
        assert (np.diff(scores, axis=1) <= 0).all()
        assert (scores[:, 1:] > -1e8).all() == (diversity > 0)  # what all groups find comes once
        found.append([len(set(row[:, 0].tolist()) - {PAD}) for row in ids])
    assert found[0] == [1, 1, 1] and found[1] == [4, 4, 4]


def test_what_several_groups_find_comes_once():
    ids, scores = DiverseBeamSearch(MODEL, 6, 3, 0.0, max_length=3, n_best=5)(SOURCE)  # three times the same two
    expected_ids, expected_scores = BeamSearch(MODEL, 2, max_length=3)(SOURCE)
    np.testing.assert_array_equal(ids[:, :2], expected_ids)
    np.testing.assert_allclose(scores[:, :2], expected_scores, rtol=1e-6)
    assert (scores[:, 2:] == -1e9).all() and (ids[:, 2:] == PAD).all()


def test_one_group_is_beam_search():
    ids, scores = DiverseBeamSearch(MODEL, 3, 1, 5.0)(SOURCE)
    expected_ids, expected_scores = BeamSearch(MODEL, 3)(SOURCE)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)


def test_impossible_arguments():
    for arguments, message in (
        ({"groups": 3}, "groups must be a divisor of beam_size=4. Received: groups=3"),
        ({"groups": 0}, "groups must be an integer from 1"),
        ({"diversity": float("nan")}, "diversity must be a number from 0"),
    ):
        with pytest.raises(ValueError, match=message):
            DiverseBeamSearch(MODEL, 4, **arguments)


def test_numbers_that_are_none_raise():
    model = TableModel(np.full((1, 7), np.nan))
    with pytest.raises(ValueError, match=r"not finite for source rows \[0\]"):
        DiverseBeamSearch(model, 4)(np.array([[5, EOS]]))
