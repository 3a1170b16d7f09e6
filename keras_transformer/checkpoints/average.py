"""The mean of checkpoints."""

import numpy as np

from keras_transformer.artifacts import ArtifactError, open_step
from keras_transformer.checkpoints.state import first_non_finite, is_of_kind, same_names


def average_checkpoints(model, paths):
    """Gives a model the mean of the weights of checkpoints, one array at a time: a second model is never in memory.

    Sums are made in float64, so that the mean is exact to float32's rounding. What is no float (seeds) comes from the last path.

    Args:
        model: a built keras.Model of the checkpoints' architecture; it need not be compiled.
        paths: of checkpoints, one at least.

    Raises:
        ValueError: there are no paths.
        ArtifactError: a checkpoint is not whole, belongs to another architecture, or holds numbers that are not finite; the model
            is then as it was.

    Example:

        from keras_transformer.checkpoints import average_checkpoints, list_checkpoints
        average_checkpoints(model, list_checkpoints("run/checkpoints")[-5:])

    Reference: Vaswani et al. 2017, section 6.1: the last 5 checkpoints of base models, the last 20 of big ones.
    """
    if not paths:
        raise ValueError("There is no checkpoint to average. Received: an empty list of paths.")
    files = [open_step(path)[0] for path in paths]
    variables = [*model.trainable_variables, *model.non_trainable_variables]
    names = list(files[-1].shapes)
    wanted = [tuple(variable.shape) for variable in variables]
    for file in files:  # all of them before the model changes
        same = same_names(list(file.shapes), names) and list(file.shapes.values()) == wanted
        if not same or not all(map(is_of_kind, variables, file.dtypes.values())):
            raise ArtifactError(file.path, "it belongs to another model", "Average checkpoints of one run.")
        bad = first_non_finite((name, file.read(name)) for name in file.shapes)
        if bad is not None:
            raise ArtifactError(file.path, f"{bad} holds numbers that are not finite", "Leave it out.")
    for index, variable in enumerate(variables):
        variable.assign(_mean(files, index))


def _mean(files, index):
    last = _read(files[-1], index)
    if last.dtype.kind in "iub":
        return last
    total = np.zeros(last.shape, "float64")
    for file in files:
        total += _read(file, index)
    return (total / len(files)).astype(last.dtype)


def _read(file, index):
    return file.read(list(file.shapes)[index])
