"""Ids are checked on the host before they reach a model, whatever kind of data they come in.

Between text and the model: JAX says nothing of an id outside the vocabulary (it gives NaN, or a loss of 0), TensorFlow and
PyTorch stop deep inside a step. The checks of text/ids.py are put around arrays, tf.data, DataLoader, PyDataset, grain and
generators, and raise the same ValueError on every backend.
"""

import contextlib
import copy
import re
from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from keras_transformer.backend_training import map_tf_data
from keras_transformer.text.ids import check_ids


class IdCheck:
    """Checks the batches of one call of ``fit``, ``evaluate`` or ``predict``.

    Args:
        vocabulary_size: V.
        needs_labels: whether a batch without labels is an error.
        source_vocabulary_size: of source ids; None for V.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.inputs import IdCheck
    >>> check = IdCheck(vocabulary_size=10)
    >>> check.batch({"source": np.array([[5, 3]]), "target": np.array([[2, 7]])}, np.array([[7, 3]]))
    """

    def __init__(self, vocabulary_size: int, needs_labels: bool = False, source_vocabulary_size: int | None = None):
        self.vocabulary_size = vocabulary_size
        self.source_vocabulary_size = vocabulary_size if source_vocabulary_size is None else source_vocabulary_size
        self.needs_labels = needs_labels
        self._error = None
        self._met = False  # whether a batch came

    def batch(self, x, y=None, sample_weight=None) -> None:
        """Raises ValueError unless x is {"source": (B, S), "target": (B, T)} and y (B, T) or None, all ids of the vocabulary,
        and sample_weight (B,), (B, 1), (B, T) or None."""
        self._met = True
        try:
            self._check_ids(x, y)
            _check_weights(sample_weight, y)
        except ValueError as error:
            self._error = error
            raise

    def _check_ids(self, x, y):
        if not isinstance(x, dict) or not {"source", "target"} <= x.keys():
            received = f"a dict of {', '.join(map(repr, x))}" if isinstance(x, dict) else f"a {type(x).__name__}"
            raise ValueError(
                f'The input must be a dict {{"source": (B, S), "target": (B, T)}} of integer ids. Received: {received}.'
            )
        if y is None and self.needs_labels:
            raise ValueError(
                "There are no labels to learn or to evaluate. Received: y=None. Expected: labels (B, T), the target one "
                "position ahead. Give y, or data of (inputs, labels)."
            )
        arrays = {"source": x["source"], "target": x["target"], "labels": y}
        arrays = {name: _as_array(ids) for name, ids in arrays.items() if ids is not None}
        for name, ids in arrays.items():
            check_ids(ids, self.source_vocabulary_size if name == "source" else self.vocabulary_size, name)
            if np.ndim(ids) != 2:
                raise ValueError(f"{name} must have two axes, rows and positions. Received: shape {np.shape(ids)}.")
            if 0 in np.shape(ids):
                raise ValueError(
                    f"{name} holds nothing: the data are empty. Received: shape {np.shape(ids)}. Expected: at least one row "
                    "and one position."
                )
        if len(arrays["source"]) != len(arrays["target"]):
            raise ValueError(
                "source and target must have a row for each other. "
                f"Received: source {np.shape(arrays['source'])}, target {np.shape(arrays['target'])}."
            )
        if y is not None and np.shape(arrays["labels"]) != np.shape(arrays["target"]):
            raise ValueError(
                "target and labels must have the same shape: labels are the target one position ahead. "
                f"Received: target {np.shape(arrays['target'])}, labels {np.shape(arrays['labels'])}."
            )

    def wrap(self, x, y=None, sample_weight=None):
        """``x`` with every batch checked before the model sees it; arrays are checked now."""
        self._met = False  # of these data; validation data may have been checked before
        if _num_batches(x) == 0:
            self._refuse_empty(x)
        if isinstance(x, keras.utils.PyDataset):
            return _CheckedPyDataset(x, self)
        library = type(x).__module__.partition(".")[0]
        if library == "tensorflow" and hasattr(x, "element_spec"):
            return map_tf_data(x, self._element)
        if _is_torch_loader(x):
            return self._torch_loader(x)
        if library == "grain":
            return (x if hasattr(x, "map") else _grain_dataset(x)).map(self._passed_on)
        if hasattr(x, "__next__"):
            return self._all_passed_on(x)
        self.batch(x, y, sample_weight)
        return x

    @contextlib.contextmanager
    def one_error(self) -> Iterator[None]:
        """A context that raises a check's own error, where a library on the way has wrapped it in an exception of its own."""
        try:
            yield
        except UnboundLocalError as error:
            # Data that did not tell how many batches they have gave none: Keras misses what it makes of a batch.
            if self._error is None and not self._met and re.search("'(logs|batch_outputs)'", str(error)):
                self._error = _no_batch("x")
            if self._error is not None:
                raise self._error from None
            raise
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise

    def _element(self, element):
        """Checks a batch as a data source gives it: x, (x,), (x, y) or (x, y, sample_weight)."""
        self.batch(*keras.utils.unpack_x_y_sample_weight(element))

    def _passed_on(self, element):
        self._element(element)
        return element

    def _all_passed_on(self, batches):
        for batch in batches:
            yield self._passed_on(batch)
        if not self._met:
            self._refuse_empty(batches)

    def _refuse_empty(self, x):
        self._error = _no_batch(type(x).__name__)
        raise self._error

    def _torch_loader(self, loader):
        """A DataLoader, as Keras asks for one, that hands on the batches of ``loader`` and checks them in this process."""
        checked = copy.copy(loader)
        methods = {"__iter__": lambda _: self._all_passed_on(loader)}
        checked.__class__ = type(type(loader).__name__, (type(loader),), methods)
        return checked


class _CheckedPyDataset(keras.utils.PyDataset):
    """A PyDataset that checks what another gives."""

    def __init__(self, dataset: keras.utils.PyDataset, check: IdCheck):
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self._dataset = dataset
        self._check = check
        self._begun = not hasattr(dataset, "example")
        # Of a Batches fixed now: Keras looks at a batch before it begins, which may be the last of an epoch.
        self._length = None if self._begun else dataset.num_batches

    def __getitem__(self, index):
        # TensorFlow reads the sizes of a data set off two batches, before the first epoch: a Batches gives two that differ.
        return self._check._passed_on(self._dataset[index] if self._begun else self._dataset.example(index))

    @property
    def num_batches(self):
        return self._dataset.num_batches if self._length is None else self._length

    def on_epoch_begin(self):
        self._begun = True
        self._dataset.on_epoch_begin()

    def on_epoch_end(self):
        self._dataset.on_epoch_end()


def _grain_dataset(loader):
    """A grain.DataLoader as a grain.IterDataset, which can be mapped in this process."""
    import grain

    class Batches(grain.DatasetIterator):
        def __init__(self):
            super().__init__()
            self._batches = iter(loader)

        def __next__(self):
            return next(self._batches)

        def get_state(self):
            return self._batches.get_state()

        def set_state(self, state):
            self._batches.set_state(state)

    class Dataset(grain.IterDataset):
        def __iter__(self):
            return Batches()

    return Dataset()


def _num_batches(x):
    """How many batches a data set gives, where it tells; None where not."""
    if isinstance(x, keras.utils.PyDataset):
        return x.num_batches
    if hasattr(x, "element_spec") and hasattr(x, "cardinality"):
        return int(x.cardinality())
    if _is_torch_loader(x):
        with contextlib.suppress(TypeError):  # a stream
            return len(x)
    return None


def _no_batch(name):
    return ValueError(f"The data are empty: {name} gave no batch. Expected: at least one.")


def _is_torch_loader(x) -> bool:
    return any(
        base.__module__.startswith("torch.utils.data") and base.__name__ == "DataLoader" for base in type(x).__mro__
    )


def _check_weights(sample_weight, y):
    if sample_weight is None:
        return
    weights, labels = np.asarray(_as_array(sample_weight)), np.shape(_as_array(y))
    if weights.shape not in (labels[:1], (*labels[:1], 1), labels):
        raise ValueError(
            f"sample_weight does not fit labels {labels}. Received: shape {weights.shape}. Expected: {labels[:1]} or "
            f"{(*labels[:1], 1)}, a weight a sentence, or {labels}, a weight a token."
        )
    if not (np.isfinite(weights).all() and weights.min() >= 0):
        raise ValueError(
            f"sample_weight must hold finite weights from 0. Received: weights from {weights.min()} to {weights.max()}."
        )


def _as_array(ids):
    return ops.convert_to_numpy(ids) if ops.is_tensor(ids) else ids
