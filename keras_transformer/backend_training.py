"""Backend-specific code that training needs; backend.py holds what layers, losses and decoding need.

Copying state off the device, leaving out steps, updates under a condition, layers computed twice to save memory.
"""

import keras
import numpy as np
from keras import ops


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
    """Brings the generators to where get_random_state found them; those that this backend or machine has not are left out."""
    if keras.backend.backend() != "torch":
        return
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for name, state in states.items():
        if name == "torch":
            torch.set_rng_state(torch.from_numpy(state.copy()))
        elif name.removeprefix("cuda").isdigit() and int(name.removeprefix("cuda")) < count:
            torch.cuda.set_rng_state(torch.from_numpy(state.copy()), int(name.removeprefix("cuda")))


def skip_steps(function, steps, logs, steps_per_call=1):
    """A train function of ``fit`` that only reads its first ``steps`` batches; from then on it is ``function``.

    Args:
        function: Keras's train function.
        steps: batches, a multiple of steps_per_call.
        logs: what a call that trains nothing gives.
        steps_per_call: the model's steps_per_execution.
    """
    left = steps

    def run(*arguments):
        nonlocal left
        if left <= 0:
            return function(*arguments)
        left -= steps_per_call
        if keras.backend.backend() == "tensorflow":  # there the function draws the batches
            for _, _ in zip(range(steps_per_call), arguments[-1], strict=False):
                pass
        return (logs, arguments[0]) if keras.backend.backend() == "jax" else logs

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
        ops.cond(condition, update, lambda: None)
