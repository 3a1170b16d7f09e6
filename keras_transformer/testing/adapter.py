"""Seq2Seq: what the pitfall suite knows of a model; and how it is made of a kt.Transformer."""

import collections.abc
import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.masking import padding_mask
from keras_transformer.losses import SmoothedCrossentropy
from keras_transformer.presets import get_preset
from keras_transformer.transformer import Transformer

ROWS = 8  # of ids that checks feed to a model at a time
# Logits of ids that a model forbids are -inf or, as in Marian, -1e9.
_FORBIDDEN = -1e8


class NotFinite(ValueError):
    """Logits that are NaN or inf, which no check can compare."""


@dataclasses.dataclass(frozen=True)
class Seq2Seq:
    """Any encoder-decoder model, as the checks see it.

    Only the first two attributes are needed; a check that needs one that is not given reports "not checked".

    Attributes:
        logits: callable from integer tensors source (B, S) and target (B, T) to logits (B, T, V), without dropout.
        vocabulary_size: V.
        model: the keras.Model whose weights ``logits`` uses. Checks that train it put its weights back.
        loss: callable from labels (B, T) and logits (B, T, V) to the scalar that training minimises.
        label_smoothing: e that ``loss`` claims, for (1 - e) on the label + e / V on all V.
        cached_logits: callable like ``logits`` that feeds the target token by token through the decoding cache.
        attention: {name: callable from query (B, H, T, K), key and value (B, H, S, K) to the weighted sum (B, H, T, K)}. The check
            gives one tensor, H = 1 and T = S = 2, as all three.
        head_width: K of those, as the model was made with.
        training_loss: callable from inputs {"source": (B, S), "target": (B, T)} and labels (B, T), NumPy arrays, to the number that
            training minimises, without dropout: by way of the model's own training code, where ``loss`` is only a part of it.
        relative_positions: whether the decoder knows distances alone (T5's bias, RoPE, ALiBi); False where its positions are
            absolute. None where it is not known: a decoder without any positions then looks the same.
        fresh: callable without arguments that makes the same model newly initialised, as a Seq2Seq.
        batch: ({"source": (B, S), "target": (B, T)}, labels (B, T)), as training gets them.
        pad_id: the id that fills up short rows.
        bos_id: the id every target begins with.
        eos_id: the id every source and label row ends with.
        source_vocabulary_size: of a vocabulary of the source's own; None where both sides share one.
        source_length: S that the checks use; for a model of fixed lengths, its own.
        target_length: T likewise.

    Raises:
        ValueError: the vocabulary has fewer than three ids but the special ones, a length is below 4, or the batch is no such pair.

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
    head_width: int | None = None
    training_loss: collections.abc.Callable | None = None
    relative_positions: bool | None = None
    fresh: collections.abc.Callable | None = None
    batch: tuple | None = None
    pad_id: int = 0
    bos_id: int = 2
    eos_id: int = 3
    source_vocabulary_size: int | None = None
    source_length: int = 8
    target_length: int = 8

    def __post_init__(self):
        if len(self.words) < 3:
            raise ValueError(
                "The checks need three ids beside pad, bos and eos. Received: "
                f"vocabulary_size={self.vocabulary_size}. Give the V of the logits."
            )
        if min(self.source_length, self.target_length) < 4:
            raise ValueError(
                "The checks need rows of four ids and more. Received: "
                f"source_length={self.source_length}, target_length={self.target_length}."
            )
        if self.batch is not None and not _is_batch(self.batch):
            raise ValueError(
                'batch must be ({"source": (B, S), "target": (B, T)}, labels (B, T)), as training gets it. Received: '
                f"{_described(self.batch)}."
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

    @functools.cached_property
    def is_random(self):
        """Whether two calls with the same input differ."""
        source = np.full((ROWS, self.source_length), self.words[0], "int32")
        target = np.full((ROWS, self.target_length), self.words[1], "int32")
        source[:, -1], target[:, 0] = self.eos_id, self.bos_id
        return self.differ(self.run(source, target), self.run(source, target))

    def run(self, source, target):
        """Logits as a NumPy array."""
        return self._run(self.logits, source, target)

    def run_cached(self, source, target):
        """The same, by way of the cache."""
        return self._run(self.cached_logits, source, target)

    def numbers(self, source, target):
        """Logits as a NumPy array, finite or not."""
        return self._numbers(self.logits, source, target)

    def _run(self, function, source, target):
        logits = self._numbers(function, source, target)
        if not (logits < np.inf).all():
            raise NotFinite("the logits are not finite: see the check for that")
        return logits

    def _numbers(self, function, source, target):
        source, target = (ops.convert_to_tensor(np.asarray(ids), dtype="int32") for ids in (source, target))
        logits = np.asarray(ops.convert_to_numpy(ops.cast(function(source, target), "float32")))
        if logits.shape != (expected := (*target.shape, self.vocabulary_size)):
            raise ValueError(
                f"logits must have the shape (B, T, V), {expected} here. Received: {logits.shape}; vocabulary_size is the V of the "
                "logits"
            )
        return logits

    def differ(self, one, other):
        """Whether two arrays of logits differ by more than rounding.

        What a model forbids has a logit of -inf or -1e9; it is compared as forbidden or not, and gives no scale.
        """
        allowed = one > _FORBIDDEN
        if (allowed != (other > _FORBIDDEN)).any():
            return True
        one, other = one[allowed], other[allowed]
        scale = max(float(np.abs(one).max(initial=0.0)), float(np.abs(other).max(initial=0.0)), 1e-6)
        return bool(np.abs(one - other).max(initial=0.0) > self.tolerance * scale)


def _is_batch(batch):
    return (
        isinstance(batch, (tuple, list))
        and len(batch) in (2, 3)
        and isinstance(batch[0], dict)
        and {"source", "target"} <= batch[0].keys()
    )


def _described(batch):
    """The kinds of what a batch is made of."""
    if not isinstance(batch, (tuple, list)):
        return type(batch).__name__
    return ", ".join(str(sorted(part)) if isinstance(part, dict) else type(part).__name__ for part in batch)


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
    loss = model.loss if getattr(model, "compiled", False) else None
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
        training_loss=_training_loss(model, loss),
        cached_logits=lambda source, target: _cached_logits(model, source, target),
        attention=_attention(model),
        head_width=model.d_model // model.num_heads,
        relative_positions=False,
        fresh=lambda: adapt(_copy(model)),
        batch=batch,
        pad_id=model.pad_id,
        bos_id=model.bos_id,
        eos_id=model.eos_id,
    )


def _copy(model):
    """A new model of the same class and arguments."""
    return type(model).from_config({name: value for name, value in model.get_config().items() if name != "frozen"})


def _training_loss(model, loss):
    """A function of a batch: what the model's own step reports. A copy takes it, so that metrics and optimizer stay as they are."""

    @functools.cache
    def copy():
        made = _copy(model)
        made.compile(keras.optimizers.SGD(), loss=loss, metrics=[], run_eagerly=True)
        return made

    def training_loss(inputs, labels):
        copy().set_weights(model.get_weights())
        return float(copy().test_on_batch(inputs, labels, return_dict=True)["loss"])

    return training_loss


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
        (f"encoder layer {index}, self-attention", x.self_attention, 1) for index, x in enumerate(model.encoder.layers)
    ]
    for index, layer in enumerate(model.decoder.layers):
        layers.append((f"decoder layer {index}, self-attention", layer.self_attention, 1))
        layers.append((f"decoder layer {index}, cross-attention", layer.cross_attention, 2))
    return {
        name: lambda query, key, value, layer=layer, inputs=inputs: _attended(layer, inputs, query)
        for name, layer, inputs in layers
    }


def _attended(layer, inputs, x):
    """What the whole layer gives for x (1, 1, T, K) as query, key and value of each head, all projections being the identity."""
    x = ops.repeat(x, layer.num_heads, axis=1)  # (1, H, T, K)
    x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (1, x.shape[2], layer.d_model))  # (1, T, D)
    before = layer.get_weights()
    try:
        layer.set_weights(
            [_identity(weight.path, values) for weight, values in zip(layer.weights, before, strict=True)]
        )
        attended = layer(*[x] * inputs, training=False)
    finally:
        layer.set_weights(before)
    attended = ops.reshape(attended, (1, x.shape[1], layer.num_heads, -1))[:, :, :1]  # of the first head, (1, T, 1, K)
    return ops.transpose(attended, (0, 2, 1, 3))


def _identity(path, values):
    """Kernels (D, n D) as n identities side by side; biases and what LoRA adds as zeros."""
    if values.ndim != 2 or "lora" in path:
        return np.zeros_like(values)
    return np.tile(np.eye(values.shape[0], dtype=values.dtype), values.shape[1] // values.shape[0])
