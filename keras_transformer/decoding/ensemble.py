"""An ensemble: several models with one vocabulary, searched as one."""

import math

from keras import ops


class Ensemble:
    """Models whose probabilities are averaged at each step; every search and the Translator take it in place of a model.

    Args:
        models: list of Transformers with the same vocabulary and special ids; their sizes may differ.

    Raises:
        ValueError: there is no model, or the vocabularies differ.

    Example:

    >>> import numpy as np
    >>> import keras_transformer as kt
    >>> models = [kt.Transformer(20, d_model=8, num_heads=2, num_layers=1, seed=seed) for seed in (1, 2)]
    >>> ids, scores = kt.decoding.BeamSearch(kt.decoding.Ensemble(models), 3, max_length=4)(np.array([[5, 6, 3]]))
    >>> ids.shape
    (1, 3, 4)
    """

    def __init__(self, models):
        models = list(models)
        if not models:
            raise ValueError("An ensemble needs at least one model. Received an empty list.")
        for name in ("vocabulary_size", "num_source_pieces", "pad_id", "bos_id", "eos_id"):
            values = [getattr(model, name) for model in models]
            if len(set(values)) > 1:
                raise ValueError(
                    f"The models of an ensemble must share their vocabulary. Received: {name} of {values}."
                )
            setattr(self, name, values[0])
        self.models = models

    @property
    def variables(self):
        return [variable for model in self.models for variable in model.variables]

    def encode(self, source, source_mask):
        return [model.encode(source, source_mask) for model in self.models]

    def init_cache(self, encoder_output, beam_size, max_length):
        return [
            model.init_cache(x, beam_size, max_length) for model, x in zip(self.models, encoder_output, strict=True)
        ]

    def decode_step(self, target, cache, step, source_mask):
        """The logarithm of the mean probability (B W, V), and the new caches."""
        logits, cache = self.decode_block(target[:, None], cache, step, source_mask)
        return logits[:, 0], cache

    def decode_block(self, target, cache, step, source_mask):
        """As Transformer.decode_block: (B, T) -> (B, T, V), and the new caches."""
        blocks = [model.decode_block(target, x, step, source_mask) for model, x in zip(self.models, cache, strict=True)]
        return _mean_log_probability([logits for logits, _ in blocks]), [x for _, x in blocks]

    def reorder_cache(self, cache, parents):
        return [model.reorder_cache(x, parents) for model, x in zip(self.models, cache, strict=True)]

    def grow_cache(self, cache, max_length):
        return [model.grow_cache(x, max_length) for model, x in zip(self.models, cache, strict=True)]

    def with_scores(self, source, target):
        """As Transformer.with_scores, with the attention of the first model."""
        passes = [model.with_scores(source, target) for model in self.models]
        return _mean_log_probability([logits for logits, _ in passes]), passes[0][1]


def _mean_log_probability(logits):
    log_probabilities = ops.stack([ops.log_softmax(x, axis=-1) for x in logits])
    return ops.logsumexp(log_probabilities, axis=0) - math.log(len(logits))
