"""A certificate for people: a table, and the verdict in a sentence."""

from keras_transformer.environment import BACKENDS


def table(certificate):
    """The certificate as lines of text: a stage a line, a backend a column, each figure beside its bound.

    Args:
        certificate: what certify returned, or certificate.json read again.

    Returns:
        list of str.

    Example:

    >>> from keras_transformer.certify.report import table
    >>> stage = {"stage": "logits", "bound": 1e-5, "unit": "of the largest entry", "agrees": True,
    ...          "differences": {"jax": {"measured": 3e-7, "where": "logits"}}}
    >>> versions = {"tensorflow": "2.21.0", "jax": "0.10.2", "torch": "not installed"}
    >>> certificate = {"verdict": "agree", "first_disagreement": None, "reference": "tensorflow", "stages": [stage],
    ...                "versions": versions, "checkpoint": {"name": "anchor"}}
    >>> print("\\n".join(table(certificate)))
    anchor: largest difference from TensorFlow 2.21.0
    stage   JAX 0.10.2  allowed
    logits  3.0e-07     1e-05 of the largest entry
    PyTorch is not installed: not compared.
    All agree.
    """
    versions, reference = certificate["versions"], certificate["reference"]
    compared = [name for name in BACKENDS if any(name in stage["differences"] for stage in certificate["stages"])]
    rows = [["stage", *(f"{BACKENDS[name]} {versions[name]}" for name in compared), "allowed"]]
    rows += [_row(stage, compared) for stage in certificate["stages"]]
    lines = [
        f"{certificate['checkpoint']['name']}: largest difference from {BACKENDS[reference]} {versions[reference]}"
    ]
    lines += _aligned(rows)
    lines += [
        f"{BACKENDS[name]} is not installed: not compared." for name in BACKENDS if versions[name] == "not installed"
    ]
    lines += [
        f"{BACKENDS[failure['backend']]} failed at the stage {failure['stage']!r}: {failure['message']}"
        for failure in certificate.get("failures", [])
    ]
    lines.append(certificate["first_disagreement"] or "All agree.")
    return lines


def _row(stage, compared):
    allowed = "identical" if stage["bound"] == 0 else f"{stage['bound']:.0e} {stage['unit']}"
    figures = [_figure(stage, stage["differences"].get(name)) for name in compared]
    return [stage["stage"], *figures, allowed]


def _figure(stage, difference):
    if difference is None:
        return "-"
    if stage["bound"] == 0:
        count = difference["measured"]
        return "identical" if count == 0 else f"{count:.0f} differ" if count else "not comparable"
    figure = "not comparable" if difference["measured"] is None else f"{difference['measured']:.1e}"
    ties = len(difference.get("ties", ()))
    return f"{figure}, {ties} tied" if ties else figure


def _aligned(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
