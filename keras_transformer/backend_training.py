"""Backend-specific code around the steps of ``fit`` and ``evaluate``; backend.py holds what layers, losses and decoding need.

Memory, data on its way into a step, steps that are wrapped or left out, updates under a condition, layers computed twice to save
memory, state that is copied off the device.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import ops


def keep_freed_memory() -> None:
    """Lets PyTorch keep the memory it frees for its next use, instead of giving it back and fetching it again at each step.

    A step frees and takes hundreds of megabytes, for which the C library asks the kernel page by page: 6 to 10 % of a step on a
    CPU (3 + 3 layers of width 256). It works with glibc alone, and does nothing where one of glibc's own variables (MALLOC_...,
    GLIBC_TUNABLES) or another allocator is set. TensorFlow keeps its memory by itself; JAX's comes from XLA's arenas, which this
    does not reach.
    """
    if keras.backend.backend() != "torch":
        return
    if any(name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # of malloc.h: no trimming, 64 MB at a time, no block by mmap
    for parameter, value in ((trim_threshold, 2**31 - 1), (top_pad, 2**26), (mmap_max, 0)):
        mallopt(parameter, value)


def map_tf_data(dataset, function: Callable):
    """A tf.data.Dataset that calls ``function`` on the host with each element, its tensors as NumPy arrays."""
    import tensorflow as tf

    def look(*element):
        flat = tf.nest.flatten(element)

        def on_host(*arrays):
            element_of_arrays = tf.nest.pack_sequence_as(element, arrays)
            function(element_of_arrays if len(element) > 1 else element_of_arrays[0])
            return np.int32(0)

        with tf.control_dependencies([tf.numpy_function(on_host, flat, tf.int32)]):
            same = tf.nest.pack_sequence_as(element, [tf.identity(x) for x in flat])
        return same if len(element) > 1 else same[0]

    return dataset.map(look, num_parallel_calls=1)


def keep_state(function: Callable, *kinds: Callable[[], list]) -> Callable:
    """A compiled train, test or predict function that leaves the model whole when its data raise.

    Keras on JAX takes the values out of a model while it runs, and forgets them when the iterator raises before a first step is
    done. Elsewhere ``function`` is returned as it is.

    Args:
        function: takes (state, iterator); state is a tuple of lists of arrays.
        kinds: for each of those lists a function that gives the variables it belongs to.
    """
    if keras.backend.backend() != "jax":
        return function

    def run(state, iterator):
        try:
            return function(state, iterator)
        except BaseException:
            for variables, values in zip(kinds, state, strict=True):
                for variable, value in zip(variables(), values, strict=True):
                    if not value.is_deleted():  # else a step was under way, and Keras has the state before it
                        variable.assign(value)
            raise

    return run


def portable_config(config):
    """A compile configuration that loads on every backend.

    Optimizers under PyTorch serialise as a class private to that backend, and jit_compile as already resolved.
    """
    if isinstance(config, dict):
        config = {key: portable_config(value) for key, value in config.items()}
        if str(config.get("module", "")).startswith("keras.src.backend.torch.optimizers"):
            config |= {"module": "keras.optimizers", "registered_name": None}
        if "jit_compile" in config:
            config["jit_compile"] = "auto"
    return config


def copy_to_host(variables):
    """The values of Keras variables as NumPy arrays of their own: what happens to the variables later does not change them."""
    if keras.backend.backend() != "torch":
        return [np.array(ops.convert_to_numpy(variable)) for variable in variables]
    import torch

    arrays = []
    for variable in variables:
        tensor = variable.value.detach()
        if tensor.dtype == torch.bfloat16:  # NumPy has none of its own
            import ml_dtypes

            arrays.append(tensor.cpu().view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy())
        else:
            arrays.append(np.array(tensor.cpu().numpy()))
    return arrays


def get_random_state():
    """State of the generators that no variable of a model holds, as {name: array}: PyTorch's, which a GPU draws dropout from."""
    if keras.backend.backend() != "torch":
        return {}
    import torch

    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return {name: state.numpy().copy() for name, state in states.items()}


def set_random_state(states):
    """Brings the generators to where get_random_state found them; those that this backend or machine has not are left out.

    Raises:
        ValueError: an array is no state of a generator. All are then as they were.
    """
    if keras.backend.backend() != "torch":
        return
    before = get_random_state()
    try:
        _set_torch_states(states)
    except (RuntimeError, TypeError) as error:
        _set_torch_states(before)
        raise ValueError(f"it holds no state of PyTorch's generators: {error}") from None


def _set_torch_states(states):
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for name, state in states.items():
        if name == "torch":
            torch.set_rng_state(torch.from_numpy(state.copy()))
        elif name.removeprefix("cuda").isdigit() and int(name.removeprefix("cuda")) < count:
            torch.cuda.set_rng_state(torch.from_numpy(state.copy()), int(name.removeprefix("cuda")))


def skip_steps(function, steps, logs, steps_per_call=1, active=lambda: True):
    """A train function of ``fit`` that only reads its first ``steps`` batches; from then on it is ``function``.

    Args:
        function: Keras's train function.
        steps: batches, a multiple of steps_per_call.
        logs: what a call that trains nothing gives.
        steps_per_call: the model's steps_per_execution.
        active: whether there is still something to leave out; asked at each call.
    """
    left = steps
    function = getattr(function, "without_skips", function)

    def run(*arguments):
        nonlocal left
        if left <= 0 or not active():
            return function(*arguments)
        left -= steps_per_call
        if keras.backend.backend() != "torch":  # there the function draws the batches; on PyTorch it is given them
            for _, _ in zip(range(steps_per_call), arguments[-1], strict=False):
                pass
        return (logs, arguments[0]) if keras.backend.backend() == "jax" else logs

    run.without_skips = function
    return run


def update_if(condition, update, variables):
    """Calls ``update``, which assigns to ``variables``, and lets it count only where ``condition``, a scalar tensor, is true.

    On an accelerator under PyTorch a branch would make the host wait for the device at every step; there the variables are copied
    before and put back.
    """
    if keras.backend.backend() == "torch" and condition.device.type != "cpu":
        before = [variable.value.detach().clone() for variable in variables]
        update()
        for variable, old in zip(variables, before, strict=True):
            variable.assign(ops.where(condition, variable.value.detach(), old))
    else:
        call_if(condition, update)


def call_if(condition, function):
    """Calls ``function``, which assigns to variables, where ``condition``, a scalar tensor, is true.

    JAX's own branch would trace it, and leave in the variables what was traced; outside of a trace the condition has its value.
    """
    if keras.backend.backend() != "jax":
        ops.cond(condition, function, lambda: None)
    elif condition:
        function()


def rematerialize(layer, *tensors, **options):
    """``layer(*tensors, **options)``, which keeps its inputs alone for the gradient and computes what is between once more.

    Seeds of dropout are inputs too: the second time drops what the first did. keras.remat is not used, since on JAX a layer's seeds
    leave its scope.

    Args:
        layer: a built keras.layers.Layer that gives one tensor and adds no losses.
        tensors: arguments of its ``call`` by position.
        options: arguments of its ``call`` by name.
    """
    trainable = [variable.value for variable in layer.trainable_variables]
    states = layer.non_trainable_variables  # seeds among them
    values = [variable.value for variable in states]

    def run(trainable, values, *tensors):
        return layer.stateless_call(trainable, values, *tensors, **options)

    run_twice = {"tensorflow": _run_twice_tensorflow, "jax": _run_twice_jax, "torch": _run_twice_torch}
    output, updated = run_twice[keras.backend.backend()](run, trainable, values, *tensors)
    for variable, value in zip(states, updated, strict=True):
        variable.assign(value)
    return output


def _run_twice_jax(run, *arguments):
    import jax

    return jax.checkpoint(run)(*arguments)


def _run_twice_torch(run, trainable, values, *tensors):
    from torch.utils.checkpoint import checkpoint

    # A variable is assigned to in place: without copies, the second time would begin with what the first has made of the seeds.
    values = [value.clone() for value in values]
    return checkpoint(run, trainable, values, *tensors, use_reentrant=False)


def _run_twice_tensorflow(run, trainable, values, *tensors):
    import tensorflow as tf

    updated, count = [], len(trainable)

    def forward(*tensors):
        output, states = run(tensors[:count], values, *tensors[count:])
        if not updated:  # the first time; integers that come out would be asked for gradients
            updated.extend(states)
        return output

    trainable = [tf.convert_to_tensor(value) for value in trainable]
    values = [tf.identity(value) for value in values]  # as they are before the first time
    return tf.recompute_grad(forward)(*trainable, *tensors), updated


def is_out_of_memory(error):
    """Whether an exception says that memory has run out; every backend has its own kind."""
    if isinstance(error, MemoryError) or type(error).__name__ in ("ResourceExhaustedError", "OutOfMemoryError"):
        return True
    told = str(error).lower()
    return any(
        words in told for words in ("resource_exhausted", "out of memory", "can't allocate memory", "not enough memory")
    )


def device_memory():
    """Bytes of memory for training: the first accelerator's, else what this process may use of the machine's."""
    name = keras.backend.backend()
    if name == "torch":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_properties(0).total_memory
    if name == "jax":
        import jax

        limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
        if limit:
            return limit
    return _machine_memory()


def _machine_memory():
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            memory = min(memory, int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such limit
            continue
    return memory
