"""Writes tests/data/VERSION, one small artefact of each kind: ``KERAS_BACKEND=torch python tests/make_released.py``.

Once a version, when it is released; what stands there is never written anew, for tests/test_released.py shows that it still loads.
"""

import json
from pathlib import Path

import keras
import numpy as np

import keras_transformer as kt
from keras_transformer.checkpoints import save_checkpoint

DATA = Path(__file__).parent / "data"
EN, DE = ["a dog runs", "a cat sleeps"], ["ein Hund rennt", "eine Katze schläft"]


def make_model(vocabulary_size):
    """A model whose numbers every backend gives alike, compiled as checkpoints have it."""
    model = kt.Transformer(vocabulary_size, d_model=8, num_heads=2, num_layers=1, d_ff=8, dropout=0.1, seed=1)
    optimizer = keras.optimizers.Adam(kt.WarmupInverseSqrt(8, warmup_steps=4), global_clipnorm=1.0)
    model.compile(kt.SkipNonFinite(kt.AccumulateGradients(optimizer, 2)))
    return model


def make_batch(tokenizer):
    source = tokenizer.encode(EN, add_eos=True)
    target = tokenizer.encode(DE, add_bos=True, add_eos=True)
    source, target = (_filled(rows) for rows in (source, target))
    return {"source": source, "target": target[:, :-1]}, target[:, 1:]


def _filled(rows):
    return np.array([row + [0] * (max(map(len, rows)) - len(row)) for row in rows], "int32")


def main():
    folder = DATA / kt.__version__
    folder.mkdir(parents=True)  # fails where there is one
    tokenizer = kt.Tokenizer.train(EN + DE, vocabulary_size=281, normalization="identity")
    model, batch = make_model(tokenizer.vocabulary_size), make_batch(tokenizer)
    for _ in range(3):
        model.train_on_batch(*batch)
    kt.Translator(model, tokenizer).save(folder / "translator")
    kt.save_weights(model, folder / "model.weights.h5")
    save_checkpoint(model, folder / "checkpoints", {"epoch": 1}, step=3)
    logits = keras.ops.convert_to_numpy(model(batch[0], training=False))
    expected = {"logits": [float(f"{number:.6g}") for number in logits[:, :3, :5].ravel()], "updates": 1}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
