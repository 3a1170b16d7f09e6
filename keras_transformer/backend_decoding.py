"""The loop of a search on each backend: the second place with backend-specific code that decoding uses, beside backend.py.

TensorFlow and JAX compile the loop. On PyTorch half of a step's time on a CPU is Python between the kernels: Keras's layers and
operations cost 5 to 90 microseconds each. What is repeated often is therefore captured once as a graph of PyTorch's own operations
and replayed.
"""

import collections
import contextvars
import logging

import keras
from keras import ops

# After about this many replays a capture has saved as much time as it has cost.
_STEPS_BEFORE_CAPTURE = 64

_captures = contextvars.ContextVar("the captured graphs of the function that runs", default=None)
_visible_end = contextvars.ContextVar("how many positions a step may read while it is captured", default=None)


def repeat_while(unfinished, extend, values, place, ahead=1):
    """``ops.while_loop(unfinished, extend, values)`` for a loop over positions.

    Args: place, which of the values is the position that a step begins at; ahead, how many positions from there on a step reads.
    All tensors that differ between calls must be among the values, also those that stay: what ``extend`` takes from elsewhere is
    captured as a constant.
    """
    captures = _captures.get()
    if captures is None:
        return ops.while_loop(unfinished, extend, values)
    return captures.repeat_while(unfinished, extend, values, place, ahead)


def captured_end(size):
    """How many of ``size`` positions to read where a graph is being captured, else None."""
    end = _visible_end.get()
    return None if end is None else min(end, size)


class Captures:
    """The captured steps of one compiled function on PyTorch; see backend.compiled.

    Args:
        model: has the ``variables`` that the steps read. A graph reads their memory as it then is; where another variable comes
            in, graphs are captured anew.
    """

    def __init__(self, model):
        self._model = model
        self._weights = None
        self._forget()

    def _forget(self):
        self._graphs, self._steps, self._possible = {}, collections.Counter(), True

    def within(self, function):
        """``function`` with its loops run here, without gradients."""
        import torch

        def run(*arguments):
            token = _captures.set(self)
            try:
                with torch.no_grad():
                    return function(*arguments)
            finally:
                _captures.reset(token)

        return run

    def repeat_while(self, unfinished, extend, values, place, ahead):
        from torch.utils import _pytree as pytree

        weights = [variable.value.data_ptr() for variable in self._model.variables]
        if weights != self._weights:
            self._forget()
            self._weights = weights
        position = sum(len(pytree.tree_leaves(value)) for value in values[:place])  # in ``flat``
        flat, shape = pytree.tree_flatten(values)
        key = tuple((tuple(x.shape), x.dtype) for x in flat)

        def one(*flat):
            values = extend(*pytree.tree_unflatten(list(flat), shape))
            return [*pytree.tree_flatten(tuple(values))[0], unfinished(*values)]

        goes_on = bool(unfinished(*values))
        while goes_on:
            end = next_size(int(flat[position]) + ahead, smallest=16)  # a graph is captured for each
            *flat, goes_on = self._graph_or((*key, end), one, flat)(*flat)
            goes_on = bool(goes_on)
        return pytree.tree_unflatten(list(flat), shape)

    def _graph_or(self, key, one, flat):
        """The graph of that key, captured if the step has been taken often enough; else the step itself."""
        self._steps[key] += 1
        if key in self._graphs or not self._possible or self._steps[key] <= _STEPS_BEFORE_CAPTURE:
            return self._graphs.get(key, one)
        from torch.fx.experimental.proxy_tensor import make_fx

        token = _visible_end.set(key[-1])
        try:
            graph = make_fx(one, tracing_mode="real")(*[x.clone() for x in flat])
        except RuntimeError as error:  # a step that looks at a number, as one of a user's own may
            logging.getLogger(__name__).info("The step of a search stays uncaptured: %s", error)
            self._possible = False
            return one
        finally:
            _visible_end.reset(token)
        self._graphs[key] = graph.forward
        return graph.forward


def next_size(count: int, smallest: int) -> int:
    """The first of a few sizes that is not below ``count``, so that few shapes get compiled.

    The sizes are two for each doubling: 8, 12, 16, 24, 32, 48, 64, 96, ... from ``smallest``, a power of two from 2, on. At most
    a third of a size beyond the smallest is left over.

    Example:

    >>> from keras_transformer.backend_decoding import next_size
    >>> [next_size(count, smallest=8) for count in (1, 9, 13, 17, 100)]
    [8, 12, 16, 24, 128]
    """
    size = smallest
    while size < count:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def may_capture(model):
    """Whether steps over the model's variables can be captured: on PyTorch, on a CPU."""
    if keras.backend.backend() != "torch":
        return False
    variables = list(model.variables)
    return bool(variables) and all(variable.value.device.type == "cpu" for variable in variables)
