"""Seq2Seq: what the pitfall suite knows of a model; and how it is made of a kt.Transformer."""

import collections.abc
import dataclasses

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.masking import padding_mask
from keras_transformer.losses import SmoothedCrossentropy
from keras_transformer.presets import get_preset
from keras_transformer.transformer import Transformer


@dataclasses.dataclass(frozen=True)
class Seq2Seq:
    """An encoder-decoder model of anybody's, as the checks see it.

    Only the first two are needed; a check whose means are not given reports "not checked".

    Attributes:
        logits: callable from integer tensors source (B, S) and target (B, T) to logits (B, T, V), without dropout.
        vocabulary_size: V.
        model: the keras.Model whose weights ``logits`` uses. Checks that train it put its weights back.
        loss: callable from labels (B, T) and logits (B, T, V) to the scalar that training minimises.
        label_smoothing: e that ``loss`` claims, for (1 - e) on the label + e / V on all V.
        cached_logits: callable like ``logits`` that feeds the target token by token through the decoding cache.
        attention: {name: callable from query (B, H, T, K), key and value (B, H, S, K) to the weighted sum (B, H, T, K)}.
        fresh: callable without arguments that makes the same model newly initialised, as a Seq2Seq.
        batch: ({"source": (B, S), "target": (B, T)}, labels (B, T)), as training gets them.
        pad_id: the id that fills up short rows.
        bos_id: the id every target begins with.
        eos_id: the id every source and label row ends with.
        source_vocabulary_size: of a vocabulary of the source's own; None where both sides share one.

    Raises:
        ValueError: the vocabulary has fewer than three ids but the special ones.

    Example:

    >>> from keras import ops
    >>> from keras_transformer import testing
    >>> constant = testing.Seq2Seq(lambda source, target: ops.zeros((*target.shape, 20)), vocabulary_size=20)
    >>> print(testing.same_output(constant))
    finding      same output  logits do not depend on the input at all: something cuts the model off from it.
    """

    logits: collections.abc.Callable
    vocabulary_size: int
    model: keras.Model | None = None
    loss: collections.abc.Callable | None = None
    label_smoothing: float | None = None
    cached_logits: collections.abc.Callable | None = None
    attention: dict | None = None
    fresh: collections.abc.Callable | None = None
    batch: tuple | None = None
    pad_id: int = 0
    bos_id: int = 2
    eos_id: int = 3
    source_vocabulary_size: int | None = None

    def __post_init__(self):
        if len(self.words) < 3:
            raise ValueError(
                "The checks need three ids beside pad, bos and eos. Received: "
                f"vocabulary_size={self.vocabulary_size}. Give the V of the logits."
            )

    @property
    def words(self):
        """Ids of ordinary tokens, of both sides."""
        size = min(self.vocabulary_size, self.source_vocabulary_size or self.vocabulary_size)
        return np.setdiff1d(np.arange(size), [self.pad_id, self.bos_id, self.eos_id])

    @property
    def tolerance(self):
        """How far equal logits may differ, of the largest."""
        half = getattr(self.model, "compute_dtype", "float32") in ("float16", "bfloat16")
        return 3e-2 if half else 1e-4

    def run(self, source, target):
        """Logits as a NumPy array."""
        return _run(self.logits, source, target)

    def run_cached(self, source, target):
        """The same, by way of the cache."""
        return _run(self.cached_logits, source, target)

    def differ(self, one, other):
        """Whether two arrays of logits differ by more than rounding."""
        scale = max(float(np.abs(one).max(initial=0.0)), float(np.abs(other).max(initial=0.0)), 1e-6)
        return not np.abs(one - other).max(initial=0.0) <= self.tolerance * scale  # true where one is NaN


def _run(function, source, target):
    source, target = (ops.convert_to_tensor(np.asarray(ids), dtype="int32") for ids in (source, target))
    return np.asarray(ops.convert_to_numpy(function(source, target)), dtype="float32")


def adapt(model, batch=None):
    """A Seq2Seq of a kt.Transformer, with all that the checks can use; a Seq2Seq stays what it is.

    Args:
        model: a Transformer or a Seq2Seq.
        batch: (inputs, labels) as training gets them, or None.

    Raises:
        ValueError: another kind of model; tells how to wrap it.
    """
    if isinstance(model, Seq2Seq):
        return model if batch is None else dataclasses.replace(model, batch=batch)
    if not isinstance(model, Transformer):
        raise ValueError(
            f"The checks take a kt.Transformer or a testing.Seq2Seq. Received: {type(model).__name__}. Wrap it: "
            "testing.Seq2Seq(logits=lambda source, target: model(...), vocabulary_size=V, model=model)."
        )
    loss = getattr(model, "loss", None)
    if loss is None:
        smoothing = get_preset(model.preset or "base")["recipe"]["label_smoothing"]
        loss = SmoothedCrossentropy(smoothing, pad_id=model.pad_id)
    return Seq2Seq(
        logits=lambda source, target: model({"source": source, "target": target}, training=False),
        vocabulary_size=model.vocabulary_size,
        source_vocabulary_size=model.source_vocabulary_size,
        model=model,
        loss=keras.losses.get(loss),
        label_smoothing=getattr(loss, "label_smoothing", None),
        cached_logits=lambda source, target: _cached_logits(model, source, target),
        attention=_attention(model),
        fresh=lambda: adapt(type(model).from_config(_new_config(model))),
        batch=batch,
        pad_id=model.pad_id,
        bos_id=model.bos_id,
        eos_id=model.eos_id,
    )


def _new_config(model):
    return {name: value for name, value in model.get_config().items() if name != "frozen"}


def _cached_logits(model, source, target):
    mask = padding_mask(source, model.pad_id)
    length = target.shape[1]
    cache, steps = model.init_cache(model.encode(source, mask), 1, length), []
    for step in range(length):
        logits, cache = model.decode_step(target[:, step], cache, ops.convert_to_tensor(step, dtype="int32"), mask)
        steps.append(logits)
    return ops.stack(steps, axis=1)


def _attention(model):
    layers = [
        (f"encoder layer {index}, self-attention", x.self_attention) for index, x in enumerate(model.encoder.layers)
    ]
    for index, layer in enumerate(model.decoder.layers):
        layers.append((f"decoder layer {index}, self-attention", layer.self_attention))
        layers.append((f"decoder layer {index}, cross-attention", layer.cross_attention))
    return {
        name: lambda q, k, v, layer=layer: layer._weighted_sum(q, k, v, None, training=False) for name, layer in layers
    }
