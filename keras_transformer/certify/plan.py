"""What is to be certified and how much of it: written by the parent, read by the process of each backend."""

import dataclasses
import json
from pathlib import Path

from keras_transformer.artifacts.manifest import file_sha256

# What a process says of itself once nothing is left to compute; before, it names the stage it is at.
DONE = "done"
_FILES = ("model.json", "model.weights.h5", "tokenizer.model")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A certification.

    Attributes:
        translator: folder of the translator whose weights are the checkpoint.
        source: file of sentences to compute with, or None for the built-in corpus.
        target: file of their translations, or None.
        seed: of new weights and of the order of batches.
        steps: Adam updates of the loss curve.
        sentences: how many are decoded.
        beam_size: of beam search.
        batch_tokens: padded positions of a batch.
        pairs: of the text, how many are made batches of.
    """

    translator: str
    source: str | None = None
    target: str | None = None
    seed: int = 1
    steps: int = 50
    sentences: int = 200
    beam_size: int = 4
    batch_tokens: int = 1024
    pairs: int = 600

    def __post_init__(self):
        if (self.source is None) != (self.target is None):
            raise ValueError(f"Text needs both sides. Received: source={self.source!r}, target={self.target!r}.")
        for name in ("steps", "sentences", "beam_size", "batch_tokens", "pairs"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer from 1. Received: {name}={value!r}.")

    def write(self, path):
        Path(path).write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path):
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def files_of(plan):
    """What the files of a plan hold: {"sha256": {name: digest} of the checkpoint, "text": digests of both sides, or None}.

    Taken before the work and again by each process when it has read them, so that a certificate is of one checkpoint.
    """
    folder = Path(plan.translator)
    return {
        "sha256": {name: file_sha256(folder / name) for name in _FILES if (folder / name).is_file()},
        "text": None if plan.source is None else [file_sha256(plan.source), file_sha256(plan.target)],
    }
