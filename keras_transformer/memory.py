"""An estimate of the memory that a training step takes, so that an out-of-memory error can say what would fit."""

import dataclasses

_BYTES = 4  # of float32
_OPTIMIZER_SLOTS = 2  # Adam's moments
_CHUNK_LOGITS = 2**23  # see losses.projected_token_statistics
_LONGEST_WHOLE, _BLOCK = 512, 256  # see layers.blockwise


class OutOfMemory(ValueError):
    """Training did not fit into memory; the message says what would."""


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Estimate of the bytes that one training step of a Transformer takes, to within a factor of two.

    Counted are weights, gradients, Adam's moments and the sums of AccumulateGradients; what each layer keeps for the gradient (with
    ``remat`` its input alone, and one layer whole); and the logits of a chunk. Not counted are the backend's own needs.

    Args:
        parameters: of the model.
        d_model, d_ff, num_heads, num_layers, num_decoder_layers, vocabulary_size: as Transformer's.
        batch_tokens: padded positions of a batch on its longer side.
        length: positions of a row.
        mixed: whether the policy is mixed_float16 or mixed_bfloat16.
        remat: as Transformer's.
        accumulate: batches an update.

    Example:

    >>> from keras_transformer.memory import StepMemory
    >>> step = StepMemory(10_000_000, 256, 1024, 4, 6, 6, 8000, batch_tokens=4096, length=64)
    >>> step.bytes > dataclasses.replace(step, remat=True).bytes
    True
    """

    parameters: int
    d_model: int
    d_ff: int
    num_heads: int
    num_layers: int
    num_decoder_layers: int
    vocabulary_size: int
    batch_tokens: int
    length: int
    mixed: bool = False
    remat: bool = False
    accumulate: int = 1

    @property
    def bytes(self):
        copies = 2 + _OPTIMIZER_SLOTS + (self.accumulate > 1)
        logits = 3 * min(self.batch_tokens * self.vocabulary_size, _CHUNK_LOGITS)
        return _BYTES * (copies * self.parameters + logits) + self._activations() * (2 if self.mixed else _BYTES)

    def _activations(self):
        """Numbers kept for the gradient."""
        # Attention weights, before and after softmax and dropout; of long rows one block of queries at a time, which is not kept.
        long = self.length > _LONGEST_WHOLE
        weights = 3 * self.batch_tokens * self.num_heads * (_BLOCK if long else self.length)
        heads, block = (0, weights) if long else (weights, 0)
        encoder = self.batch_tokens * (10 * self.d_model + 3 * self.d_ff) + heads
        decoder = self.batch_tokens * (18 * self.d_model + 3 * self.d_ff) + 2 * heads
        inputs = self.batch_tokens * self.d_model
        if self.remat:
            return (self.num_layers + 2 * self.num_decoder_layers) * inputs + max(encoder, decoder) + block
        return self.num_layers * encoder + self.num_decoder_layers * decoder + block


def step_memory(model, batch_tokens, length, accumulate=1):
    """StepMemory of a kt.Transformer."""
    names = ("d_model", "d_ff", "num_heads", "num_layers", "num_decoder_layers", "vocabulary_size", "remat")
    mixed = model.dtype_policy.compute_dtype != model.dtype_policy.variable_dtype
    sizes = {name: getattr(model, name) for name in names}
    return StepMemory(
        model.count_params(), batch_tokens=batch_tokens, length=length, mixed=mixed, accumulate=accumulate, **sizes
    )


def advice(step, memory):
    """What of batch size, accumulation, remat and mixed precision would fit into ``memory`` bytes, in sentences with figures.

    Example:

    >>> from keras_transformer.memory import StepMemory, advice
    >>> step = StepMemory(10_000_000, 256, 1024, 4, 6, 6, 8000, batch_tokens=100_000, length=64)
    >>> print(advice(step, memory=8 * 2**30).splitlines()[0])
    A step takes about 37.7 GB with batch_tokens=100000; there are 8.6 GB.
    """
    told = [f"A step takes about {_gb(step.bytes)} with batch_tokens={step.batch_tokens}; there are {_gb(memory)}."]
    for name, other in _changes(step):
        fits = "fits" if other.bytes < 0.8 * memory else "does not fit"
        told.append(f"  {name}: about {_gb(other.bytes)}, {fits}")
    return "\n".join(told)


def _changes(step):
    half, quarter = max(step.batch_tokens // 2, 1), max(step.batch_tokens // 4, 1)
    for tokens, factor in ((half, 2), (quarter, 4)):
        smaller = dataclasses.replace(step, batch_tokens=tokens, accumulate=step.accumulate * factor)
        yield f"batch_tokens={tokens} and accumulate={smaller.accumulate}, the same updates", smaller
    if not step.remat:
        yield "remat=True", dataclasses.replace(step, remat=True)
    if not step.mixed:
        yield "mixed_bfloat16", dataclasses.replace(step, mixed=True)
    if not (step.remat and step.mixed):
        both = dataclasses.replace(step, remat=True, mixed=True, batch_tokens=quarter, accumulate=4 * step.accumulate)
        yield f"remat=True, mixed_bfloat16, batch_tokens={quarter} and accumulate={both.accumulate}", both


def _gb(size):
    return f"{size / 1e9:.1f} GB"
