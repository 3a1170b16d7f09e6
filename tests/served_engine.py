"""An engine that needs no model: it says a source backwards. What the tests of the server share."""

import time

import numpy as np
from exported_models import TOKENIZER

from keras_transformer.serving.engine import Engine


class Backwards(Engine):
    """Translates by reversing; remembers the batches it got.

    Args:
        seconds: that a batch takes.
    """

    def __init__(self, seconds=0.0):
        super().__init__(TOKENIZER, "backwards", 1, {"kind": "a test"}, range(1, 5))
        self.seconds = seconds
        self.batches = []

    def search(self, sources, beam_size, only_best=False):
        self.batches.append(len(sources))
        time.sleep(self.seconds)
        return [
            [([*source[-2::-1], TOKENIZER.eos_id], -float(rank)) for rank in range(beam_size)] for source in sources
        ]

    def attention(self, source, hypotheses):
        return [np.full((len(ids), len(source)), 1 / len(source)) for ids in hypotheses]

    def stream(self, source):
        yield from [*source[-2::-1], TOKENIZER.eos_id]


def backwards(text):
    """What Backwards makes of a text."""
    return TOKENIZER.decode(TOKENIZER.encode(text)[::-1])
