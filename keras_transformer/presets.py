"""Presets of the hyperparameter guide, as data: what the model is, and the recipe it trains with.

``model`` holds arguments of Transformer. ``recipe`` holds what ``Transformer.compile()`` and the command line take when they are
not told otherwise: warmup steps and scale of the schedule, label smoothing, padded tokens a batch, pieces in the vocabulary.
"""

from typing import Any

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # The Transformer-tiny of small corpora such as Multi30k, as fairseq runs it: dropout at residuals and embeddings alone
    # (at all four places, BLEU on Multi30k's validation set after 6 epochs is 11.0 instead of 16.2). The scale puts the peak
    # at 5e-3 for d_model 128.
    "tiny": {
        "model": {
            "num_layers": 4,
            "d_model": 128,
            "d_ff": 256,
            "num_heads": 4,
            "dropout": 0.3,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
            "norm": "post",
        },
        "recipe": {
            "warmup_steps": 2000,
            "scale": 5e-3 * (128 * 2000) ** 0.5,
            "label_smoothing": 0.1,
            "batch_tokens": 4096,
            "vocabulary_size": 8000,
        },
    },
    "small": {
        "model": {
            "num_layers": 6,
            "d_model": 256,
            "d_ff": 1024,
            "num_heads": 4,
            "dropout": 0.3,
            "norm": "pre",
        },
        "recipe": {
            "warmup_steps": 4000,
            "scale": 1.0,
            "label_smoothing": 0.1,
            "batch_tokens": 4096,
            "vocabulary_size": 8000,
        },
    },
    # Vaswani et al. 2017, table 3, row "base".
    "base": {
        "model": {
            "num_layers": 6,
            "d_model": 512,
            "d_ff": 2048,
            "num_heads": 8,
            "dropout": 0.1,
            "norm": "post",
        },
        "recipe": {
            "warmup_steps": 4000,
            "scale": 1.0,
            "label_smoothing": 0.1,
            "batch_tokens": 25_000,
            "vocabulary_size": 32_000,
        },
    },
    # The width of the paper's "big" at twice its depth; pre-LN, because post-LN of this depth does not train reliably.
    "large": {
        "model": {
            "num_layers": 12,
            "d_model": 1024,
            "d_ff": 4096,
            "num_heads": 16,
            "dropout": 0.1,
            "norm": "pre",
        },
        "recipe": {
            "warmup_steps": 4000,
            "scale": 1.0,
            "label_smoothing": 0.1,
            "batch_tokens": 25_000,
            "vocabulary_size": 32_000,
        },
    },
}


def get_preset(name: str) -> dict[str, dict[str, Any]]:
    """The entry of PRESETS called ``name``.

    Raises:
        ValueError: there is none of that name.

    Example:

    >>> from keras_transformer.presets import get_preset
    >>> get_preset("base")["model"]["d_model"]
    512
    """
    if name not in PRESETS:
        raise ValueError(f"No preset is called {name!r}. Choose one of {', '.join(map(repr, PRESETS))}.")
    return PRESETS[name]
