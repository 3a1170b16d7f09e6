"""Shapes: every pair is in one group whose shape holds it, and few positions are padded. More in test_batches.py."""

import keras
import numpy as np
import pytest

from keras_transformer.text.buckets import group_by_shape

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")


def shapes_and_positions(source, target, groups):
    shapes = [(int(source[group].max()), int(target[group].max())) for group in groups]
    return shapes, sum(len(group) * sum(shape) for group, shape in zip(groups, shapes, strict=True))


@pytest.mark.parametrize("num_buckets", [1, 2, 8])
def test_every_pair_is_in_one_group(num_buckets):
    generator = np.random.default_rng(num_buckets)
    source, target = generator.integers(1, 90, (2, 500))
    groups = group_by_shape(source, target, num_buckets)
    assert len(groups) <= num_buckets and sorted(np.concatenate(groups)) == list(range(500))


def test_two_kinds_of_text_need_two_shapes_and_no_padding():
    source, target = np.array([3, 9, 3, 9, 3]), np.array([4, 7, 4, 7, 4])
    groups = group_by_shape(source, target, 2)
    assert sorted(map(sorted, groups)) == [[0, 2, 4], [1, 3]]
    assert len(group_by_shape(source, target, 8)) == 2


def test_a_long_source_does_not_lengthen_the_targets():
    """Where both sides are counted, (20, 5) and (5, 20) are two shapes and not one of 20 by 20."""
    source, target = np.array([20] * 10 + [5] * 10), np.array([5] * 10 + [20] * 10)
    shapes, _ = shapes_and_positions(source, target, group_by_shape(source, target, 3))
    assert {(20, 5), (5, 20)} <= set(shapes)


def test_each_shape_more_saves_positions():
    source, target = np.random.default_rng(3).gamma(4, 4, (2, 2000)).astype(int) + 1
    positions = [shapes_and_positions(source, target, group_by_shape(source, target, n))[1] for n in (1, 2, 4, 8)]
    assert positions == sorted(positions, reverse=True) and positions[-1] < 0.7 * positions[0]
