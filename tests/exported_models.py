"""Small models with decided opinions, their tokenizer, and sources: what the tests of the exports share."""

import numpy as np

import keras_transformer as kt

TOKENIZER = kt.Tokenizer.train(["a dog runs", "two cats sleep"], vocabulary_size=290)
# The two ends: everything tied after the paper, and nothing tied before it.
KINDS = {
    "post": {"num_layers": 2, "num_decoder_layers": 1},
    "pre": {"norm": "pre", "tie_embeddings": None, "activation": "gelu"},
}


def make_model(**kwargs):
    """Weights larger than the initial ones, so that different sources get different translations."""
    sizes = {"d_model": 8, "num_heads": 2, "num_layers": 1, "seed": 0}
    model = kt.Transformer(TOKENIZER.vocabulary_size, **sizes | kwargs)
    generator = np.random.default_rng(0)
    model.set_weights([w + 0.3 * generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def make_sources(rows, length, seed=1):
    """Sources (rows, length) of different lengths, ended by eos and filled up with pad."""
    generator = np.random.default_rng(seed)
    source = generator.integers(4, TOKENIZER.vocabulary_size, (rows, length), dtype="int32")
    ends = generator.integers(min(2, length - 1), length, rows)
    source[np.arange(length) == ends[:, None]] = TOKENIZER.eos_id
    source[np.arange(length) > ends[:, None]] = TOKENIZER.pad_id
    return source


def model_and_onnx_driver(folder, **kwargs):
    """A model, and the driver of its ONNX export, which is written into ``folder``."""
    from keras_transformer.export.onnx_driver import Translator

    model = make_model(**kwargs)
    kt.export.export_onnx(model, TOKENIZER, folder)
    return model, Translator(folder)
