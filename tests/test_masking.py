import numpy as np

from keras_transformer.layers import causal_mask, combine_masks, padding_mask


def test_padding_mask_is_true_where_a_token_stands():
    mask = np.asarray(padding_mask(np.array([[4, 5, 0], [6, 0, 0]])))
    assert mask.shape == (2, 1, 1, 3)
    assert mask[:, 0, 0].tolist() == [[True, True, False], [True, False, False]]


def test_padding_mask_takes_another_pad_id():
    assert np.asarray(padding_mask(np.array([[9, 0]]), pad_id=9))[0, 0, 0].tolist() == [False, True]


def test_causal_mask_lets_each_position_see_itself_and_the_past():
    mask = np.asarray(causal_mask(4))
    assert mask.shape == (1, 1, 4, 4)
    np.testing.assert_array_equal(mask[0, 0], np.tril(np.ones((4, 4), bool)))


def test_combine_masks_is_the_logical_and():
    ids = np.array([[4, 5, 0]])
    combined = np.asarray(combine_masks(padding_mask(ids), None, causal_mask(3)))[0, 0]
    np.testing.assert_array_equal(combined, np.tril(np.ones((3, 3), bool)) & np.array([True, True, False]))
    assert combine_masks(None, None) is None
