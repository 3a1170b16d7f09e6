import numpy as np
import pytest

from keras_transformer.text import check_ids
from keras_transformer.text.ids import is_batch, text_ids


@pytest.mark.parametrize(
    "ids",
    [[0, 9], [[5, 6, 3], [4, 3, 0]], np.zeros((2, 3, 4), "uint8"), np.array([9], "uint64"), 7, np.int64(0), [], [[]]],
)
def test_ids_of_the_vocabulary_pass(ids):
    assert check_ids(ids, vocabulary_size=10) is None
    with pytest.raises(ValueError):  # the same call is not blind: the same ids plus one too many are refused
        check_ids(np.append(ids, 10).astype("int64"), vocabulary_size=10)


# -1 and 2**33 + 1 are what a cast to int32, or an index from the end, would take for ids 9 and 1.
@pytest.mark.parametrize("wrong", [10, -1, 2**33 + 1, -(2**63), 2**31])
@pytest.mark.parametrize("place", [(0, 0), (1, 2), (0, 2)])
def test_an_id_outside_is_named_with_its_place(wrong, place):
    ids = np.full((2, 3), 4)
    ids[place] = wrong
    with pytest.raises(ValueError) as error:
        check_ids(ids, vocabulary_size=10, name="the source")
    message = str(error.value)
    assert message.startswith(f"the source contain the id {wrong} at row {place[0]}, column {place[1]}. ")
    assert "Expected ids from 0 to 9 (the vocabulary has 10)" in message
    assert "Use the tokenizer the model was made for" in message


def test_the_first_of_several_wrong_ids_is_named():
    with pytest.raises(ValueError, match=r"the id -3 at row 0, column 2\."):
        check_ids([[4, 5, -3], [77, 4, 4]], vocabulary_size=10)


@pytest.mark.parametrize(
    ("ids", "place"),
    [([4, 11], " at position 1."), ([[[4], [11]]], " at position (0, 1, 0)."), (11, "the id 11. ")],
)
def test_places_in_other_ranks(ids, place):
    with pytest.raises(ValueError) as error:
        check_ids(ids, vocabulary_size=10)
    assert place in str(error.value)


@pytest.mark.parametrize(
    ("ids", "received"),
    [
        ([1.0, 2.0], "float64, beginning with 1.0"),
        (np.array([np.nan], "float32"), "float32, beginning with nan"),
        ([True, False], "bool, beginning with True"),
        (["5"], "<U1, beginning with '5'"),
        ([None], "object, beginning with None"),
        ([2**70], f"object, beginning with {2**70}"),
    ],
)
def test_what_is_no_integer_is_refused(ids, received):
    with pytest.raises(ValueError) as error:
        check_ids(ids, vocabulary_size=10, name="target")
    message = str(error.value)
    assert message.startswith(f"target must be integers. Received: dtype {received}. ")
    assert '.astype("int32")' in message


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="source cannot be read as one array. Expected rows of equal length; .*pad_id"):
        check_ids([[4, 5], [6]], vocabulary_size=10, name="source")


@pytest.mark.parametrize(
    "rows", [[[5, 3], [3]], ([5], [3]), np.zeros((2, 3), int), np.zeros((0, 3), int), [np.array([5, 3])]]
)
def test_rows_are_a_batch(rows):
    assert is_batch(rows)


@pytest.mark.parametrize("row", [[5, 3], (), [], np.array([5, 3]), [np.int64(5)]])
def test_a_single_row_is_no_batch(row):
    assert not is_batch(row)


def test_text_ends_at_the_first_eos_and_has_no_special_ids():
    assert text_ids([2, 7, 0, 8, 3, 9, 3], eos_id=3, special_ids=(0, 2)) == [7, 8]
    assert text_ids(np.array([7, 1, 8]), eos_id=3, special_ids=np.array([0, 2])) == [7, 1, 8]
    assert text_ids([], 3, (0,)) == text_ids([3], 3, (0,)) == []
