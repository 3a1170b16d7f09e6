"""Backend-specific code of training; layers computed twice are in test_remat.py, whole trainings in test_resume.py."""

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

from keras_transformer import backend_training
from keras_transformer.backend_training import (
    copy_to_host,
    device_memory,
    get_random_state,
    is_out_of_memory,
    set_random_state,
    skip_steps,
    update_if,
)

BACKEND = keras.backend.backend()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "bool"])
def test_copies_stay_as_they_were(dtype):
    variable = keras.Variable(np.array([1, 0, 1]), dtype=dtype, trainable=False)
    (copy,) = copy_to_host([variable])
    variable.assign(np.array([0, 1, 0]))
    assert copy.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert copy.astype("float32").tolist() == [1, 0, 1]
    copy[0] = 0  # its owner's, to write


@pytest.mark.skipif(BACKEND != "torch", reason="PyTorch alone has generators that are in no variable")
def test_generators_draw_the_same_again():
    import torch

    states = get_random_state()
    first, _ = torch.rand(3), set_random_state(states)
    assert torch.equal(first, torch.rand(3))
    states["cuda99"] = states["torch"]  # of a larger machine
    set_random_state(states)
    assert torch.equal(first, torch.rand(3))


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has generators")
def test_where_seeds_are_variables_there_is_no_other_state():
    assert get_random_state() == {}
    set_random_state({"torch": np.zeros(3, "uint8")})  # of a run begun on PyTorch


class Steps:
    """Stands in for Keras's train function; its arguments end with the batches, where the function draws them."""

    def __init__(self, number):
        self.iterator, self.trained, self.state = iter(range(number)), [], object()

    def train(self, *arguments):
        assert arguments == self.arguments()
        self.trained.append(next(self.iterator))
        return ({"loss": 1.0}, self.state) if BACKEND == "jax" else {"loss": 1.0}

    def arguments(self):
        return (self.state, self.iterator) if BACKEND == "jax" else (self.iterator,)

    def call(self, function):
        if BACKEND != "torch":
            return function(*self.arguments())
        # There each batch is drawn before the function is called.
        left = function is not self.train
        logs = function(*self.arguments())
        if left and logs == "left out":
            next(self.iterator)
        return logs


@pytest.mark.parametrize("steps_per_call", [1, 2] if BACKEND != "torch" else [1])
def test_batches_that_are_done_are_only_read(steps_per_call):
    steps = Steps(20)
    function = skip_steps(steps.train, 4, "left out", steps_per_call)
    answers = [steps.call(function) for _ in range(4 // steps_per_call + 1)]
    left_out = ("left out", steps.state) if BACKEND == "jax" else "left out"
    assert answers[:-1] == [left_out] * (4 // steps_per_call) and answers[-1] != left_out
    assert steps.trained == [4]


def test_steps_of_another_training_are_not_left_out():
    steps, active = Steps(20), [True]
    function = skip_steps(steps.train, 4, "left out", active=lambda: active[0])
    steps.call(function)
    active.clear(), active.append(False)
    steps.call(function)
    assert steps.trained == [1]


def test_wrapped_once_however_often_training_goes_on():
    steps = Steps(20)
    function = skip_steps(skip_steps(steps.train, 4, "left out"), 2, "left out")
    for _ in range(3):
        steps.call(function)
    assert steps.trained == [2]


@pytest.mark.skipif(BACKEND == "jax", reason="JAX updates nothing in place; see SkipNonFinite.stateless_apply")
@pytest.mark.parametrize("condition", [True, False])
def test_an_update_counts_where_the_condition_holds(condition):
    variable = keras.Variable([1.0, 2.0])

    def update():
        variable.assign([float("nan"), 5.0])

    update_if(ops.convert_to_tensor(condition), update, [variable])
    np.testing.assert_array_equal(ops.convert_to_numpy(variable), [np.nan, 5] if condition else [1, 2])


@pytest.mark.skipif(BACKEND != "torch", reason="the way without a branch is PyTorch's on an accelerator")
@pytest.mark.parametrize("condition", [True, False])
def test_on_an_accelerator_values_are_put_back(condition):
    import torch

    class Elsewhere(torch.Tensor):
        """Says that it lies on an accelerator."""

        device = property(lambda self: torch.device("cuda"))

    variable = keras.Variable([1.0, 2.0])
    condition_there = torch.tensor(condition).as_subclass(Elsewhere)
    update_if(condition_there, lambda: variable.assign([float("nan"), 5.0]), [variable])
    np.testing.assert_array_equal(ops.convert_to_numpy(variable), [np.nan, 5] if condition else [1, 2])


def test_the_backends_own_error_of_too_little_memory_is_known():
    with pytest.raises(Exception) as error:
        ops.convert_to_numpy(ops.ones((10**7, 10**7)))  # 400 TB
    assert is_out_of_memory(error.value)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.")])
def test_errors_of_too_little_memory(error):
    assert is_out_of_memory(error)
    assert not is_out_of_memory(ValueError("a memory of something else"))


def test_memory_is_that_of_the_machine_or_less(monkeypatch, tmp_path):
    import psutil

    assert 2**28 < device_memory() <= psutil.virtual_memory().total

    class Limited(type(tmp_path)):
        def read_text(self, *arguments, **kwargs):
            return "12345678\n"

    monkeypatch.setattr(backend_training, "Path", Limited)
    assert device_memory() == 12345678
