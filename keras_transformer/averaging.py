"""The mean of a run's checkpoints as a translator."""

from pathlib import Path

from keras_transformer.artifacts import ArtifactError, read_state
from keras_transformer.callbacks.checkpoints import is_less_better
from keras_transformer.checkpoints import average_checkpoints, list_checkpoints
from keras_transformer.translator import Translator


def average_run(run, output, last=None, best=None, monitor="val_bleu"):
    """Writes a translator with the mean of the weights of a run's checkpoints.

    Args:
        run: a run folder of ``keras-transformer train``: its translator tells the architecture and has the tokenizer.
        output: folder of the translator to write.
        last: how many of the newest checkpoints; None for all, if ``best`` is None too.
        best: how many of the best, by ``monitor``.
        monitor: a name in the logs of an epoch.

    Returns:
        Paths of the checkpoints taken.

    Raises:
        ArtifactError: a ValueError: the run has fewer checkpoints, or one that is not whole.

    Example:

        from keras_transformer.averaging import average_run
        average_run("runs/en-de", "runs/en-de-averaged", last=5)
    """
    run = Path(run)
    paths = list_checkpoints(run / "checkpoints")
    if best is not None:
        paths = _best(paths, best, monitor)
    elif last is not None:
        paths = paths[-last:]
    wanted = best or last or 1
    if best is not None and not paths:
        raise ArtifactError(
            run / "checkpoints",
            f"none of its checkpoints stands at the end of an epoch whose logs hold {monitor!r}",
            "Train with --best and that --monitor, or give --last.",
        )
    if len(paths) < wanted:
        raise ArtifactError(
            run / "checkpoints",
            f"it holds {len(paths)} checkpoints to take, {wanted} are wanted",
            f"Train with --{'best' if best else 'keep'} {wanted}, or take fewer.",
        )
    translator = Translator.load(run / "translator")
    average_checkpoints(translator.model, paths)
    translator.save(output)
    return paths


def _best(paths, count, monitor):
    sign = -1 if is_less_better(monitor) else 1
    states = [(path, read_state(path)) for path in paths]
    merits = [
        (sign * state["history"][-1][monitor], path)
        for path, state in states
        if state["position"] == 0 and state["history"] and monitor in state["history"][-1]
    ]
    return [path for _, path in sorted(merits, key=lambda pair: pair[0], reverse=True)[:count]]
