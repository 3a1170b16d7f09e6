"""The only place with backend-specific code.

Everything else in the package is written once against ``keras.ops``. A function belongs here when one of the backends
needs another primitive than ``keras.ops`` offers: for correctness (dense embedding gradients), for determinism (ties in
``top_k``) or for speed (fused attention, compilation of the decoding loop). The backend modules are imported inside the
functions, so that importing this file costs nothing and needs none of them.
"""

import keras
from keras import ops


def gather_rows(table, ids):
    """Rows of ``table`` (V, D) at integer ``ids`` (...): (..., D), with a dense gradient on every backend.

    TensorFlow's own gather yields ``IndexedSlices`` whose duplicate rows are not summed before Adam squares them, so
    that a token that occurs twice in a batch gets another update than on JAX and PyTorch. Here the rows are summed.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.take(table, ids, axis=0)
    import tensorflow as tf

    table = tf.convert_to_tensor(table)

    @tf.custom_gradient
    def gather(table):
        def gradient(upstream):
            rows = tf.reshape(upstream, (-1, table.shape[-1]))
            return tf.math.unsorted_segment_sum(rows, tf.reshape(ids, (-1,)), table.shape[0])

        return tf.gather(table, ids), gradient

    return gather(table)


def fused_attention(query, key, value, mask, scale):
    """Attention in one kernel of the backend, or None where the backend has none.

    Args: query (B, H, T, K), key and value (B, H, S, K), mask boolean and broadcastable to (B, H, T, S) or None,
    scale a float. Returns (B, H, T, K) or None.
    """
    if keras.backend.backend() != "torch":
        return None  # TensorFlow has no such kernel; XLA fuses the plain form on JAX.
    import torch

    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale
    )


def top_k(values, k):
    """The ``k`` largest of the last axis and their indices; ties go to the lowest index on every backend.

    TensorFlow and JAX promise that order. ``torch.topk`` does not: there a stable sort decides, but only when a tie
    exists among the candidates, because a sort of the whole axis is many times slower.
    """
    if keras.backend.backend() != "torch":
        return ops.top_k(values, k)
    import torch

    length = values.shape[-1]
    top, indices = torch.topk(values, min(k + 1, length), dim=-1)
    if bool((top[..., 1:] == top[..., :-1]).any()):
        top, indices = torch.sort(values, dim=-1, descending=True, stable=True)
    return top[..., :k], indices[..., :k]


def compiled(function, model):
    """``function`` of tensors, which uses the weights of ``model``, compiled without gradients where that gains.

    JAX compiles once for each distinct shape and takes the weights as arguments: as constants they would go stale when
    training goes on. TensorFlow traces once, with the dimensions left open. PyTorch runs eagerly: torch.compile costs
    minutes and gains nothing here.
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

        return tf.function(function, reduce_retracing=True)
    import torch

    return torch.inference_mode()(function)
