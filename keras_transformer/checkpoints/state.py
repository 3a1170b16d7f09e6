"""What training is made of: a model's variables, its optimizer's, its metrics' and the random generators, as arrays and back.

Everything is told apart by its place. Its path is a second check, by which the same paths in another order are refused. A path
holds numbers that Keras gives out by the order in which layers are made in a process: in place of each stands its rank among those
of its siblings, so that dense_7 and dense_8 are dense and dense_1 wherever they come from.
"""

import re

import keras
import numpy as np

from keras_transformer.artifacts import ArtifactError
from keras_transformer.backend_training import copy_to_host, get_random_state, set_random_state

_NUMBER = re.compile(r"_(\d+)(?=/|$)")


def capture(model):
    """(weights, training): all that decides how training goes on, copied to the host, as {name: NumPy array} each.

    Args:
        model: a compiled and built keras.Model.

    Example:

    >>> import keras_transformer as kt
    >>> from keras_transformer.checkpoints import capture
    >>> model = kt.Transformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> model.compile()
    >>> weights, training = capture(model)
    >>> weights["00000 target_embedding/embeddings"].shape
    (20, 8)
    """
    _build_optimizer(model)
    weights = _named(model, _weights(model))
    training = {f"optimizer/{name}": array for name, array in _named(model, model.optimizer.variables).items()}
    training |= capture_metrics(model)
    training |= {f"random/{name}": array for name, array in get_random_state().items()}
    return weights, training


def capture_metrics(model):
    """The part of ``training`` that an epoch begins without: what metrics have counted so far."""
    return {f"metrics/{name}": array for name, array in _named(model, model.metrics_variables).items()}


def restore(model, weights, training):
    """Brings a compiled model to where ``capture`` found it, all or nothing.

    Args:
        model: a compiled and built keras.Model.
        weights: ArrayFile.
        training: ArrayFile.

    Returns:
        A function that gives metrics their values back: Keras empties them when an epoch begins.

    Raises:
        ArtifactError: the arrays are those of another model or optimizer, or not all of them are finite.
    """
    _build_optimizer(model)
    # Shapes are compared before an array is read, and all are read before anything changes.
    read = [_read(model, weights, _weights(model), "", "model")]
    read.append(_read(model, training, model.optimizer.variables, "optimizer/", "optimizer"))
    random = {name[7:]: training.read(name) for name in training.shapes if name.startswith("random/")}
    metrics = {name: training.read(name) for name in training.shapes if name.startswith("metrics/")}
    try:
        set_random_state(random)
    except ValueError as error:
        raise ArtifactError(training.path, str(error), "Take an older one.") from None
    for variables, arrays in read:
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def restore_metrics():
        variables = model.metrics_variables
        if [tuple(variable.shape) for variable in variables] == [array.shape for array in metrics.values()]:
            for variable, array in zip(variables, metrics.values(), strict=True):
                variable.assign(array)

    return restore_metrics


def _build_optimizer(model):
    if not model.optimizer.built:  # LossScaleOptimizer would make its variables once more
        model.optimizer.build(model.trainable_variables)


def first_non_finite(arrays):
    """The name of the first array with an entry that is NaN or infinite, or None.

    Args:
        arrays: dict, or any iterable of (name, array).
    """
    for name, array in arrays.items() if isinstance(arrays, dict) else arrays:
        if _is_float(array.dtype) and not np.isfinite(array).all():
            return name
    return None


def _is_float(dtype):
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def _weights(model):
    return [*model.trainable_variables, *model.non_trainable_variables]


def _named(model, variables):
    names = [f"{index:05d} {path}" for index, path in enumerate(plain_paths(model, variables))]
    return dict(zip(names, copy_to_host(variables), strict=True))


def plain_paths(model, variables):
    """Where variables are in a model: their paths without the model's name, ranks in place of the numbers of a process."""
    paths = [variable.path.split("/") for variable in variables]
    paths = [path[1:] if len(path) > 1 and path[0] == model.name else path for path in paths]
    siblings = {}  # (what is above, name without its number) -> numbers
    for path in paths:
        for depth, part in enumerate(path):
            name, number = _numbered(part)
            siblings.setdefault((*path[:depth], name), set()).add(number)
    return ["/".join(_ranked(path, depth, siblings) for depth in range(len(path))) for path in paths]


def _ranked(path, depth, siblings):
    name, number = _numbered(path[depth])
    rank = sorted(siblings[(*path[:depth], name)]).index(number)
    # Generators are numbered when they are made, which a model made from its config may do in another order.
    return f"{name}_{rank}" if rank and name != "seed_generator" else name


def _numbered(part):
    """("dense", 7) of "dense_7"; the first of a process has no number."""
    number = _NUMBER.search(part)
    return (part[: number.start()], int(number[1])) if number else (part, -1)


def same_names(names, others):
    """Whether two lists of names of ``capture`` are the same, of which one may be an earlier release's, that left out numbers."""
    plain, other = ([_NUMBER.sub("", name) for name in given] for given in (names, others))
    return names == others or (plain == other and (names == plain or others == other))


def _read(model, file, variables, prefix, what):
    names = [name for name in file.shapes if name.startswith(prefix)]
    held = [(file.shapes[name], file.dtypes[name], name[len(prefix) + 6 :]) for name in names]
    wanted = [(v, tuple(v.shape), path) for v, path in zip(variables, plain_paths(model, variables), strict=True)]
    advice = "Make the model and compile it as they were when training began, or begin in a new folder."
    if len(held) != len(wanted):
        raise ArtifactError(
            file.path, f"it belongs to another {what}: it holds {len(held)} arrays, yours has {len(wanted)}", advice
        )
    for (shape, dtype, path), (variable, own_shape, own_path) in zip(held, wanted, strict=True):
        if shape != own_shape or not is_of_kind(variable, dtype):
            raise ArtifactError(
                file.path,
                f"it belongs to another {what}: {path} is {dtype} {shape}, yours {_dtype(variable)} {own_shape} ({own_path})",
                advice,
            )
    paths, own_paths = [path for _, _, path in held], [path for _, _, path in wanted]
    if not any(map(_NUMBER.search, paths)):  # an earlier release's, which left them out
        own_paths = [_NUMBER.sub("", path) for path in own_paths]
    if paths != own_paths and sorted(paths) == sorted(own_paths):  # of equal shapes: each would get what is another's
        place = next(index for index, path in enumerate(paths) if path != own_paths[index])
        raise ArtifactError(
            file.path,
            f"it belongs to another {what}: its arrays have another order: {paths[place]}, where yours has {own_paths[place]}, as "
            "when other layers were frozen",
            advice,
        )
    arrays = [file.read(name) for name in names]
    bad = first_non_finite(zip(names, arrays, strict=True))
    if bad is not None:
        raise ArtifactError(
            file.path, f"{bad[len(prefix) + 6 :]} holds numbers that are not finite", "Take an older one."
        )
    return variables, arrays


def _dtype(variable):
    return keras.backend.standardize_dtype(variable.dtype)


def is_of_kind(variable, dtype):
    """Whether an array of that type can stand for a variable's value: seeds are uint32 on JAX and int64 elsewhere."""
    own, integers = _dtype(variable), ("int", "uint")
    return own == dtype or (own.startswith(integers) and dtype.startswith(integers))
