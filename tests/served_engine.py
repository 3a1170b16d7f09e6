"""An engine that needs no model: it says a source backwards. What the tests of the server share."""

import threading

import numpy as np
from exported_models import TOKENIZER

from keras_transformer.serving.engine import Engine


class Backwards(Engine):
    """Translates by reversing; remembers the batches it got.

    Attributes:
        batches: how many sentences each had.
        begun: an Event, set when a search has begun.
        may_go_on: an Event that a search waits for; clear it to hold searches up.
    """

    def __init__(self):
        super().__init__(TOKENIZER, "backwards", 1, {"kind": "a test"}, range(1, 5))
        self.batches = []
        self.begun, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def search(self, sources, beam_size, only_best=False):
        self.batches.append(len(sources))
        self.begun.set()
        self.may_go_on.wait(10)
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
