"""How far two backends may differ at each stage, and how far they do. NumPy alone: the parent needs no backend.

The bounds are those of float32: sums of some hundred terms, taken in another order, differ by some 1e-7 of the largest.
"""

import dataclasses

import numpy as np

# The part of a search's stage with the first backend's own scores of another's ids: see certificate.rescore.
RESCORED = "rescored"
# A rank of a beam that holds no finished hypothesis has a score of -1e9.
_NOTHING = -1e8


@dataclasses.dataclass(frozen=True)
class Difference:
    """What was measured between two backends at one stage.

    Attributes:
        measured: in the unit of the bound.
        agrees: whether it keeps the bound.
        where: the part with the largest difference.
        ties: sentences decoded otherwise because two scores are closer than the bound, each as a dict.
    """

    measured: float
    agrees: bool
    where: str
    ties: tuple = ()


@dataclasses.dataclass(frozen=True)
class Bound:
    """How two backends are compared at a stage.

    Attributes:
        limit: the largest difference allowed.
        unit: what it is measured in, in words.
        measure: takes the parts of two backends and the limit, returns a Difference.
    """

    limit: float
    unit: str
    measure: object


def _identical(first, other, limit):
    """Counts the rows of bytes that are not the same."""
    counts = {part: int((_rows(first[part]) != _rows(other[part])).any(axis=1).sum()) for part in first}
    worst = max(counts, key=counts.get)
    return Difference(sum(counts.values()), sum(counts.values()) <= limit, worst)


def _rows(array):
    return np.atleast_2d(array)


def _of_largest(first, other, limit):
    """The largest difference of all parts, by the largest entry of all: a part that is zero but for rounding has no own scale."""
    scale = max(float(np.abs(values).max(initial=0.0)) for values in first.values()) or 1.0
    return _worst({part: np.abs(first[part] - other[part]).max(initial=0.0) / scale for part in first}, limit)


def _of_each(first, other, limit):
    """The largest difference, of each part by its own size."""
    scales = {part: float(np.abs(values).max(initial=0.0)) or 1.0 for part, values in first.items()}
    return _worst({part: np.abs(first[part] - other[part]).max() / scales[part] for part in first}, limit)


def _absolute(first, other, limit):
    return _worst({part: np.abs(first[part] - other[part]).max() for part in first}, limit)


def _worst(differences, limit):
    differences = {part: float(value) for part, value in differences.items()}
    worst = max(differences, key=lambda part: np.nan_to_num(differences[part], nan=np.inf))
    return Difference(differences[worst], bool(differences[worst] <= limit), worst)


def _decoded(first, other, limit):
    """Ids must be the same but where two hypotheses tie; scores within the limit of the largest.

    A tie is proven, not taken from equal scores: the first backend itself, asked for the other's ids ("rescored", NaN where it was
    not), gives them the score of its own.
    """
    real = (first["scores"] > _NOTHING) & (other["scores"] > _NOTHING)
    gaps = np.where(real, np.abs(first["scores"] - other["scores"]), 0.0)
    scale = max(float(np.abs(np.where(real, first["scores"], 0.0)).max()), 1.0)
    differs = (first["ids"] != other["ids"]).any(axis=2)  # (B, W)
    rescored = other.get(RESCORED, np.full(differs.shape, np.nan))
    tied = real & (gaps < limit) & (np.abs(rescored - first["scores"]) <= limit * scale) & ~_repeated(other["ids"])
    wrong = (differs & ~tied) | (real != ((first["scores"] > _NOTHING) | (other["scores"] > _NOTHING)))
    if wrong.any():
        sentence, rank = np.argwhere(wrong)[0].tolist()
        return Difference(float(gaps.max() / scale), False, f"sentence {sentence}, rank {rank}: other ids")
    ties = tuple(
        {"sentence": int(sentence), "rank": int(rank), "scores_apart": float(gaps[sentence, rank])}
        for sentence, rank in np.argwhere(differs)
    )
    measured = float(gaps.max() / scale)
    sentence, rank = np.unravel_index(gaps.argmax(), gaps.shape)
    return Difference(measured, measured <= limit, f"sentence {sentence}, rank {rank}: score", ties)


def _repeated(ids):
    """Which hypotheses of ids (B, W, L) stand in their beam twice: (B, W)."""
    same = (ids[:, :, None] == ids[:, None]).all(axis=-1)  # (B, W, W)
    return same.sum(axis=-1) > 1


_SAME = Bound(0, "digests that differ", _identical)
_GRADIENTS = Bound(1e-5, "of the largest entry of all weights", _of_largest)
_LOSS = Bound(1e-5, "of its value", _of_each)
_CURVE = Bound(1e-4, "in nats", _absolute)
_SEARCH = Bound(1e-5, "of the largest score; ids the same, but for ties", _decoded)

BOUNDS = {
    "initial weights": _SAME,
    "batch order": _SAME,
    "logits": Bound(1e-5, "of the largest entry", _of_largest),
    "loss": _LOSS,
    "gradients": _GRADIENTS,
    "clipped update": _GRADIENTS,
    "evaluate": _LOSS,
    "greedy search": _SEARCH,
    "beam search": _SEARCH,
    "loss curve": _CURVE,
    "untied: initial weights": _SAME,
    "untied: loss": _LOSS,
    "untied: gradients": _GRADIENTS,
    "untied: clipped update": _GRADIENTS,
    "untied: loss curve": _CURVE,
}

SEARCHES = {stage for stage, bound in BOUNDS.items() if bound is _SEARCH}


def compare(stage, first, other):
    """The Difference of two backends' parts {name: array} at ``stage``.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.certify.comparison import compare
    >>> difference = compare("loss curve", {"loss": np.array([2.0, 1.0])}, {"loss": np.array([2.0, 1.5])})
    >>> difference.measured, difference.agrees
    (0.5, False)
    """
    names = sorted((first.keys() | other.keys()) - {RESCORED})
    unequal = [name for name in names if _shape(first, name) != _shape(other, name)]
    if unequal:
        return Difference(
            float("inf"), False, f"{unequal[0]}: {_shape(first, unequal[0])}, {_shape(other, unequal[0])}"
        )
    return BOUNDS[stage].measure(first, other, BOUNDS[stage].limit)


def largest(stage, parts):
    """The largest entry of one backend's parts {name: array} at ``stage``; of a search, of its scores.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.certify.comparison import largest
    >>> largest("greedy search", {"ids": np.array([[[785, 3]]]), "scores": np.array([[-0.5]])})
    0.5
    """
    if stage in SEARCHES:
        parts = {"scores": parts["scores"][parts["scores"] > _NOTHING]}
    return float(max(np.abs(values).max(initial=0.0) for values in parts.values()))


def _shape(parts, name):
    return parts[name].shape if name in parts else "missing"
