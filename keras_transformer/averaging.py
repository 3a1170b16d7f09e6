"""The mean of a run's checkpoints as a translator."""

from pathlib import Path

from keras_transformer.artifacts import ArtifactError, check_folder, read_state
from keras_transformer.callbacks.checkpoints import is_less_better
from keras_transformer.checkpoints import average_checkpoints, list_checkpoints
from keras_transformer.translator import FORMAT_FILE, Translator


def average_run(run, output, last=None, best=None, monitor="val_bleu"):
    """Writes a translator with the mean of the weights of a run's checkpoints.

    Args:
        run: a run folder of ``keras-transformer train``: its translator tells the architecture and has the tokenizer.
        output: folder of the translator to write.
        last: how many of the newest checkpoints; None for all, if ``best`` is None too.
        best: how many of the best, by ``monitor``.
        monitor: a name in the logs of an epoch; the smaller the better of losses, perplexities and errors, the larger of others.

    Returns:
        Paths of the checkpoints taken.

    Raises:
        ValueError: ``last`` or ``best`` is no integer from 1, both are given, or ``output`` holds something else.
        ArtifactError: a ValueError: the run has fewer checkpoints, or one that is not whole.

    Example:

        from keras_transformer.averaging import average_run
        average_run("runs/en-de", "runs/en-de-averaged", last=5)
    """
    for name, value in (("last", last), ("best", best)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be an integer from 1, or None. Received: {name}={value!r}.")
    if last is not None and best is not None:
        raise ValueError(f"Checkpoints are taken by time or by merit. Received: last={last} and best={best}. Give one.")
    check_folder(output, FORMAT_FILE)
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
        if state.get("position") == 0 and state.get("history") and monitor in state["history"][-1]
    ]
    return [path for _, path in sorted(merits, key=lambda pair: pair[0], reverse=True)[:count]]
