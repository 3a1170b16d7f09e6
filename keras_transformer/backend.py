"""Backend-specific code that layers, losses and decoding need.

backend_training.py has what is around the steps of training, backend_decoding.py the loop of a search. Everything else in the
package, but for export/, is written once against ``keras.ops``. A function belongs here when one of the backends
needs another primitive than ``keras.ops`` offers: for correctness (dense embedding gradients), for determinism (ties in
``top_k``) or for speed (fused attention, compilation of the decoding loop). The backend modules are imported inside the
functions, so that importing this file costs nothing and needs none of them.
"""

import contextvars
import functools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_transformer.backend_decoding import Captures, captured_end, may_capture

_under_xla = contextvars.ContextVar("TensorFlow traces for XLA", default=False)


def gather_rows(table, ids):
    """Rows of ``table`` (V, D) at integer ``ids`` (...): (..., D), with a dense gradient on every backend.

    TensorFlow's own gather yields ``IndexedSlices`` whose duplicate rows are not summed before Adam squares them, so
    that a token that occurs twice in a batch gets another update than on JAX and PyTorch. The gradient of a reshape is
    always dense there, so one that changes nothing stands between, and costs nothing.
    """
    return ops.take(ops.reshape(table, table.shape), ids, axis=0)


def fused_attention(query, key, value, mask, scale: float, dropout_rate: float = 0.0):
    """Attention in one kernel of the backend, or None where the backend has none for the case.

    PyTorch's takes dropout on a GPU only, from the device's generator. JAX has cuDNN's, for 16 bits without dropout; Keras asks
    for it where the processor has it, and else computes the plain form. TensorFlow has no such kernel.

    Args: query (B, H, T, K), key and value (B, H, S, K), mask boolean and broadcastable to (B, H, T, S) or None,
    scale a float, dropout_rate of the weights. Returns (B, H, T, K) or None.
    """
    name = keras.backend.backend()
    if name == "torch" and (not dropout_rate or query.device.type == "cuda"):
        import torch

        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, dropout_p=dropout_rate
        )
    if name == "jax" and not dropout_rate and _suits_cudnn(query, key):
        if mask is not None:  # cuDNN's kernel does not broadcast the positions
            mask = ops.broadcast_to(mask, (*mask.shape[:-2], query.shape[2], key.shape[2]))
        query, key, value = (ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
        return ops.transpose(ops.dot_product_attention(query, key, value, mask=mask, scale=scale), (0, 2, 1, 3))
    return None


def _suits_cudnn(query, key):
    """Whether cuDNN may have a kernel: where there is a mask, its gradient is for even lengths alone, and raises for others."""
    lengths = (query.shape[2], key.shape[2])
    even = all(isinstance(length, int) and length % 2 == 0 for length in lengths)
    return even and str(query.dtype) in ("bfloat16", "float16") and _jax_platform() == "gpu"


def _jax_platform():
    import jax

    return jax.default_backend()


def matrix_product(a, b):
    """a (M, N) @ b (N, K): (M, K), with both gradients, by the fastest products the backend has.

    On JAX the gradient by a b with more rows than columns is made transposed: XLA reaches 100 GFLOP/s a core that way instead
    of 65 (1024 x 256, Zen 4). On PyTorch, float32 products on an AMD processor go through oneDNN, since MKL keeps its AVX-512
    kernels for Intel's: 105 GFLOP/s a core instead of 95 on Zen 4, whose vector units gain least by them.
    """
    name = keras.backend.backend()
    if name == "jax" and b.shape[0] > b.shape[1]:
        return _product_with_tall_gradient()(a, b)
    if name == "torch" and _wants_onednn(a, b):
        return _onednn_product()(a, b)
    return ops.matmul(a, b)


@functools.cache
def _product_with_tall_gradient():
    import jax
    import jax.numpy as jnp

    def backward(saved, gradient):
        a, b = saved
        # The barrier keeps XLA from moving the transposition back into the product.
        by_b = jax.lax.optimization_barrier(jnp.matmul(gradient.T, a)).T
        return jnp.matmul(gradient, b.T), by_b

    product = jax.custom_vjp(jnp.matmul)
    product.defvjp(lambda a, b: (jnp.matmul(a, b), (a, b)), backward)
    return product


def _wants_onednn(a, b) -> bool:
    import torch

    return (
        a.dtype == b.dtype == torch.float32
        and a.device.type == b.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and _is_amd()
    )


@functools.cache
def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return False


@functools.cache
def _onednn_product():
    import torch

    def multiply(a, b):
        # oneDNN shares the rows of a tall transposed ``a`` badly among threads: then the transposed product is the faster.
        if a.stride(0) == 1 and a.shape[0] > b.shape[1]:
            return multiply(b.t(), a.t()).t().contiguous()
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(context, a, b):
            context.save_for_backward(a, b)
            return multiply(a, b)

        @staticmethod
        def backward(context, gradient):
            a, b = context.saved_tensors
            times = torch.matmul if torch.is_grad_enabled() else multiply  # enabled: a second derivative is wanted
            by_a = times(gradient, b.t()) if context.needs_input_grad[0] else None
            by_b = times(a.t(), gradient) if context.needs_input_grad[1] else None
            return by_a, by_b

    def product(a, b):
        return Product.apply(a, b) if torch.is_grad_enabled() else multiply(a, b)

    return product


def max_and_argmax(x) -> tuple:
    """The largest entry of the last axis of x (..., V) and the first index that has it, both (...).

    XLA does not vectorise an argmax on a CPU: on JAX it took 55 of 1,000 ms of a training step (V = 8,000), by two plain
    reductions 4.
    """
    name = keras.backend.backend()
    if name == "torch":
        import torch

        return torch.max(x, dim=-1)
    highest = ops.max(x, axis=-1)
    if name != "jax":
        return highest, ops.argmax(x, axis=-1)
    size = x.shape[-1]
    return highest, ops.min(ops.where(x == highest[..., None], ops.arange(size, dtype="int32"), size), axis=-1)


def dropout(x, rate: float, seed):
    """``x`` with a share ``rate`` of its elements dropped and the others scaled up, as keras.random.dropout, but faster.

    On JAX a hash of each element's index gives the bits: XLA computes it where it is needed, while its own generator
    took 20 % of a training step. On TensorFlow one random word serves four elements, on PyTorch's CPU one of 64 bits:
    6.2 and 5.0 ms instead of 11.4 each, forward and backward over 1.6 M elements (one thread, Zen 4). On a GPU PyTorch's
    kernel draws from the device's generator, which keras.utils.set_random_seed seeds: a seed from the host would make
    the host wait.

    Args: x any shape, rate in [0, 1], seed what keras.random.SeedGenerator.next() gives. Returns a tensor like x.
    """
    name = keras.backend.backend()
    if name == "torch" and x.device.type != "cpu":
        return keras.random.dropout(x, rate)
    if rate >= 1:
        return ops.zeros_like(x)
    keep = {"jax": _kept_jax, "tensorflow": _kept_tensorflow, "torch": _kept_torch}[name](x, rate, seed)
    return x * (ops.cast(keep, x.dtype) * (1 / (1 - rate)))


def _kept_jax(x, rate, seed):
    import jax
    import jax.numpy as jnp

    def mix(bits):
        """A bijection of uint32 in which each input bit flips each output bit in about half of all cases (lowbias32)."""
        bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
        bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
        return bits ^ (bits >> 16)

    first, second = seed.astype(jnp.uint32)  # the layer's own, and how often it was drawn
    one, other = mix(first ^ mix(second)), mix(second ^ mix(~first))
    index = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    return mix(mix(index ^ one) + other) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _kept_tensorflow(x, rate, seed):
    import tensorflow as tf

    size = tf.size(x)
    seed = tf.cast(tf.convert_to_tensor(seed), tf.int32)
    words = tf.random.stateless_uniform([(size + 3) // 4], seed, minval=None, maxval=None, dtype=tf.uint32)
    # A bijection of the words (lowbias32, without its last shift) gives as many again, for less than drawing them.
    mixed = tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, tf.constant(16, tf.uint32)))
    mixed = mixed * tf.constant(0x7FEB352D, tf.uint32)
    mixed = tf.bitwise.bitwise_xor(mixed, tf.bitwise.right_shift(mixed, tf.constant(15, tf.uint32)))
    mixed = mixed * tf.constant(0x846CA68B, tf.uint32)
    bits = tf.reshape(tf.bitcast(tf.concat([words, mixed], 0), tf.uint16), [-1])[:size]
    return tf.reshape(bits >= tf.constant(_threshold16(rate), tf.uint16), tf.shape(x))


def _kept_torch(x, rate, seed):
    import torch

    if x.device.type == "meta":
        return torch.ones_like(x, dtype=torch.bool)
    # PyTorch takes 32 bits of a seed; these are mixed from the layer's own and how often it was drawn.
    mixed = np.random.SeedSequence(seed.tolist()).generate_state(1)
    generator = torch.Generator().manual_seed(int(mixed[0]))
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    return bits >= _threshold16(rate) - 2**15


def _threshold16(rate: float) -> int:
    """Where to cut 16 random bits; a rate beyond 1 - 2**-16 keeps one element of 65,536."""
    return min(round(rate * 2**16), 2**16 - 1)


def top_k(values, k: int) -> tuple:
    """The ``k`` largest of the last axis and their indices; ties go to the lowest index on every backend.

    TensorFlow and JAX promise that order. ``torch.topk`` does not: there keys are compared that differ. For the 8 largest of
    8,000 entries in 128 rows JAX takes 1.6 ms, PyTorch 1.8 and TensorFlow 4.9; over the blocks that hold the largest maxima all
    take 0.5.
    """
    if values.shape[-1] >= 64 * k:
        return _top_k_in_blocks(values, k)
    if keras.backend.backend() != "torch":
        return ops.top_k(values, k)
    import torch

    length = values.shape[-1]
    if 8 * k > length or values.dtype != torch.float32:
        top, indices = torch.sort(values, dim=-1, descending=True, stable=True)
        return top[..., :k], indices[..., :k]
    # The bits of a float, turned so that integers are ordered as the floats are; below them the place, the first the largest.
    bits = (values + 0.0).view(torch.int32)  # + 0.0: -0.0 is equal to 0.0
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(torch.int64)
    keys = torch.topk((bits << 32) + torch.arange(length - 1, -1, -1, device=values.device), k, dim=-1).values
    indices = length - 1 - (keys & 0xFFFFFFFF)
    return torch.gather(values, -1, indices), indices


def _top_k_in_blocks(values, k):
    """top_k over the k blocks with the largest maxima, which hold the k largest entries, ties included."""
    length, shape = values.shape[-1], tuple(ops.shape(values)[:-1])
    size = int((length / k) ** 0.5)
    size = max([n for n in range(size, 2 * size) if length % n == 0] or [size])  # without a remainder if it can be
    count = length // size
    blocks = ops.reshape(values[..., : count * size], (*shape, count, size))
    _, best = top_k(ops.max(blocks, axis=-1), k)  # (..., k)
    best = ops.sort(best, axis=-1)  # back into the order of the entries, which decides ties
    candidates = ops.reshape(ops.take_along_axis(blocks, best[..., None], axis=-2), (*shape, k * size))
    candidates = ops.concatenate([candidates, values[..., count * size :]], axis=-1)
    top, found = top_k(candidates, k)
    place = ops.take_along_axis(best, ops.minimum(found // size, k - 1), axis=-1) * size + found % size
    return top, ops.where(found < k * size, place, found + (count - k) * size)


def product_with_rows(x, table):
    """x (N, D) @ table (V, D) transposed: (N, V), as logits are made.

    XLA on a CPU would make one plain loop of a single row's product, of the transposition, and even of the norm before it: 1.3 ms
    for a row of 256 and a table of 8,000. Taken from the other side there is nothing to fuse: 0.13 ms.
    """
    if keras.backend.backend() == "jax" and x.shape[0] == 1:
        return ops.reshape(ops.matmul(table, ops.reshape(x, (-1, 1))), (1, -1))
    return matrix_product(x, ops.transpose(table))


def write_slice(x, values, start, axis: int):
    """``x`` with ``values`` in place of what stood from ``start`` on along ``axis``. PyTorch writes into ``x`` itself.

    On TensorFlow put together from pieces, which copies, but where XLA compiles: Keras would use an operation of XLA's, which not
    every server of SavedModels has.
    """
    name = keras.backend.backend()
    if name == "torch":
        import torch

        places = start + torch.arange(values.shape[axis], device=x.device)
        return x.index_copy_(axis, places.to(torch.int64), values.to(x.dtype))
    if name == "jax" or _under_xla.get():
        return ops.slice_update(x, [start if index == axis else 0 for index in range(len(x.shape))], values)
    import tensorflow as tf

    before = [slice(None)] * axis
    end = start + tf.shape(values)[axis]
    written = tf.concat([x[(*before, slice(None, start))], values, x[(*before, slice(end, None))]], axis)
    written.set_shape(x.shape)
    return written


def written_part(x, end, axis, width):
    """``x`` up to ``end`` along ``axis``, or somewhat more of it, where that is a view: on PyTorch's CPU. Elsewhere ``x``.

    ``width`` is how many places of the axis a position takes. Places that were not written yet must be masked.
    """
    if keras.backend.backend() != "torch" or x.device.type != "cpu":
        return x
    captured = captured_end(x.shape[axis] // width)
    return x.narrow(axis, 0, int(end) if captured is None else captured * width)


def compiled(function: Callable, model: keras.Model) -> Callable:
    """``function`` of tensors, which uses the weights of ``model``, compiled without gradients where that gains.

    JAX compiles once for each distinct shape and takes the weights as arguments: as constants they would go stale when
    training goes on. TensorFlow traces once, with the dimensions left open; where ``model.jit_compile`` is set, as Keras sets
    it on a GPU, XLA compiles there too, once for each shape. PyTorch runs eagerly (torch.compile costs minutes and gains
    nothing here), but for the steps of loops, which backend_decoding.py captures.
    """
    name = keras.backend.backend()
    if name == "jax":
        import jax

        @jax.jit
        def run(values, *arguments):
            with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
                return function(*arguments)

        return lambda *arguments: run([variable.value for variable in model.variables], *arguments)
    if name == "tensorflow":
        import tensorflow as tf

        if not getattr(model, "jit_compile", False):
            return tf.function(function, reduce_retracing=True)

        def run(*arguments):
            token = _under_xla.set(True)
            try:
                return function(*arguments)
            finally:
                _under_xla.reset(token)

        return tf.function(run, jit_compile=True, autograph=False)
    import torch

    return Captures(model).within(function) if may_capture(model) else torch.inference_mode()(function)


def compiles_each_shape() -> bool:
    """Whether what ``compiled`` gives is compiled anew for each shape of its arguments, so that few should occur: on JAX."""
    return keras.backend.backend() == "jax"


def fold_chunks(function: Callable, carry: tuple, rows: tuple, chunk_size) -> tuple:
    """Folds ``function`` over chunks of rows, one after the other, and joins what each gives.

    ``ops.scan`` will not do: on TensorFlow what a step gives must look like its carry, and ten steps run at once, whose
    intermediate results then live together; not to hold them all is why one works in chunks.

    Args:
        function: takes (carry, chunk) and returns (carry, a float32 tensor (C, ...) or None).
        carry: tuple of tensors.
        rows: tuple of tensors (N, ...). The last chunk is filled up with zeros.
        chunk_size: C at most.

    Returns:
        The last carry, and what the chunks gave as one tensor (N, ...), or None.
    """
    num_rows = ops.shape(rows[0])[0]
    if isinstance(num_rows, int) and num_rows <= chunk_size:
        return function(carry, rows)
    num_chunks = (num_rows + chunk_size - 1) // chunk_size
    chunk_size = (num_rows + num_chunks - 1) // num_chunks  # alike, so that little is filled up

    def split(x):
        missing = num_chunks * chunk_size - num_rows
        if not (isinstance(missing, int) and missing == 0):
            x = ops.concatenate([x, ops.zeros((missing, *ops.shape(x)[1:]), dtype=x.dtype)])
        return ops.reshape(x, (num_chunks, chunk_size, *ops.shape(x)[1:]))

    chunks = tuple(split(x) for x in rows)
    fold = {"tensorflow": _fold_tensorflow, "jax": _fold_jax, "torch": _fold_torch}[keras.backend.backend()]
    carry, given = fold(function, carry, chunks)
    if given is not None:
        given = ops.reshape(given, (-1, *ops.shape(given)[2:]))[:num_rows]
    return carry, given


def _fold_tensorflow(function, carry, chunks):
    import tensorflow as tf

    num_chunks = tf.shape(chunks[0])[0]
    given = tf.TensorArray("float32", size=num_chunks)
    gives = False

    def step(index, carry, given):
        nonlocal gives
        carry, x = function(carry, tuple(chunk[index] for chunk in chunks))
        gives = x is not None
        return index + 1, carry, given.write(index, x) if gives else given

    _, carry, given = tf.while_loop(
        lambda index, *_: index < num_chunks, step, (0, carry, given), parallel_iterations=1
    )
    return carry, given.stack() if gives else None


def _fold_jax(function, carry, chunks):
    import jax

    return jax.lax.scan(function, carry, chunks)


def _fold_torch(function, carry, chunks):
    import torch

    given = []
    for chunk in zip(*chunks, strict=True):
        carry, x = function(carry, chunk)
        given.append(x)
    return carry, None if given[0] is None else torch.stack(given)
