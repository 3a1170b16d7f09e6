"""What both kinds of engine share, around steps that are written down. Engines of models are in test_app.py."""

import keras
import numpy as np
import pytest
from exported_models import TOKENIZER

pytest.importorskip("fastapi")
from keras_transformer.serving.engine import Engine

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


class Written(Engine):
    """Gives the logits that are written down, the last of them for ever."""

    def __init__(self, *logits):
        super().__init__(TOKENIZER, "written", 1, {}, range(1, 2))
        self.logits = [np.array(row, "float32") for row in logits]

    def _start(self, source):
        return 0

    def _step(self, state, token):
        return self.logits[min(state, len(self.logits) - 1)], state + 1


def test_the_stream_is_greedy_and_says_neither_pad_nor_bos():
    pad_or_bos_best = [9, 0, 8, 1, 5, 4]
    assert list(Written(pad_or_bos_best, [0, 0, 0, 7, 1, 1]).stream([6, 3])) == [4, 3]
    assert list(Written(pad_or_bos_best).stream([6, 3])) == [4] * 14  # the limit of two source ids
    assert next(Written([0, 0, 0, 1, -np.inf, 2]).stream([3])) == 5


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_logits_that_are_no_numbers_end_the_stream(broken):
    stream = Written([0, 0, 0, 0, 1, 0], [0, broken, 0, 0, 1, 0]).stream([6, 3])
    assert next(stream) == 4
    with pytest.raises(ValueError, match="logits are not finite"):
        next(stream)
