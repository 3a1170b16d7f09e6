import numpy as np
import pytest
from keras import ops
from layer_contract import as_numpy

from keras_transformer.decoding.rules import IMPOSSIBLE, Rules

SPECIAL = (0, 2, 3)
IDS = np.array([[[4, 5, 4, 5, 0, 0], [6, 6, 5, 4, 0, 0]]], dtype="int32")  # (1, 2, 6), four of them written
LOGITS = np.array([[[0.5, -1, 1, -2, 2, -0.5, 0.25, 0]] * 2], dtype="float32")


def forbidden(**rules):
    """Which tokens each of the two hypotheses may not have next, beside pad and bos."""
    step = rules.pop("step", 4)
    ids = IDS.copy()
    ids[:, :, step:] = 0
    allowed = Rules(**rules).forbid(
        ops.convert_to_tensor(LOGITS), ops.convert_to_tensor(ids), ops.convert_to_tensor(step, dtype="int32"), SPECIAL
    )
    allowed = as_numpy(allowed)[0]
    kept = allowed > IMPOSSIBLE
    np.testing.assert_array_equal(allowed[kept], LOGITS[0][kept])
    assert not kept[:, [0, 2]].any()
    return [sorted(set(range(8)) - {0, 2} - set(np.flatnonzero(row).tolist())) for row in kept]


def test_what_may_not_come_next():
    assert forbidden() == [[], []]
    assert forbidden(banned=(7, (6,))) == [[6, 7], [6, 7]]
    assert forbidden(banned=((4, 5, 1), (5, 4, 7))) == [[1], [7]]
    assert forbidden(banned=((4, 5, 1),), step=1) == [[], []]
    assert forbidden(min_length=5) == [[3], [3]]
    assert forbidden(min_length=4) == [[], []]
    assert forbidden(no_repeat_ngram=1) == [[4, 5], [4, 5, 6]]
    assert forbidden(no_repeat_ngram=2) == [[4], []]  # 5 4 is there; 4 has only come last
    assert forbidden(no_repeat_ngram=3) == [[4], []]
    assert forbidden(no_repeat_ngram=4) == [[], []]
    assert forbidden(no_repeat_ngram=2, step=1) == [[], []]


def test_where_nothing_may_come_the_translation_ends():
    assert forbidden(min_length=9, banned=(1, 4, 5, 6, 7)) == [[1, 4, 5, 6, 7]] * 2


def test_a_repetition_costs_whatever_the_sign():
    changed = as_numpy(
        Rules(repetition_penalty=2.0).change_logits(
            ops.convert_to_tensor(LOGITS), ops.convert_to_tensor(IDS[:, :, :4]), 4
        )
    )
    expected = LOGITS.copy()
    expected[0, 0, 4], expected[0, 0, 5] = 1, -1
    expected[0, 1, 4], expected[0, 1, 5], expected[0, 1, 6] = 1, -1, 0.125
    np.testing.assert_allclose(changed, expected)


def test_the_limit_of_a_source():
    assert [Rules(length_ratio=ratio).limit(7) for ratio in ((2, 10), (0, 3), (1.5, 0), (0.1, 0.9))] == [24, 3, 10, 1]
    tensors = [Rules(length_ratio=ratio).limit(ops.convert_to_tensor([7])) for ratio in ((2, 10), (1.5, 0), (0.1, 0.9))]
    assert [int(x[0]) for x in tensors] == [24, 10, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_length": -1}, "min_length must be an integer from 0"),
        ({"no_repeat_ngram": 1.5}, "no_repeat_ngram must be an integer from 0"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a positive number"),
        ({"coverage_penalty": -1}, "coverage_penalty must be a number from 0"),
        ({"length_ratio": (0, 0)}, "length_ratio must be a pair"),
        ({"length_ratio": 2}, "length_ratio must be a pair"),
        ({"banned": 3}, "banned must hold ids and tuples of ids"),
        ({"banned": ((),)}, "banned must hold ids and tuples of ids"),
        ({"banned": (-1,)}, "banned must hold ids and tuples of ids"),
    ],
)
def test_impossible_rules(arguments, message):
    with pytest.raises(ValueError, match=message):
        Rules(**arguments)
