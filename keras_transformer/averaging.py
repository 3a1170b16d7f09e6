"""The mean of a run's checkpoints as a translator."""

import warnings
from pathlib import Path

from keras_transformer.artifacts import ArtifactError, check_folder, read_state
from keras_transformer.callbacks.checkpoints import is_less_better, merit
from keras_transformer.checkpoints import average_checkpoints, list_checkpoints
from keras_transformer.translator import FORMAT_FILE, Translator


def average_run(run, output, last=None, best=None, monitor="val_bleu", mode="auto"):
    """Writes a translator with the mean of the weights of a run's checkpoints.

    Args:
        run: a run folder of ``keras-transformer train``: its translator tells the architecture and has the tokenizer.
        output: folder of the translator to write.
        last: how many of the newest checkpoints; None for all, if ``best`` is None too.
        best: how many of the best, by ``monitor``.
        monitor: a name in the logs of an epoch.
        mode: which of its values are better: "max", "min", or "auto": by the name, if it tells; see
            callbacks.checkpoints.is_less_better.

    Returns:
        Paths of the checkpoints taken.

    Raises:
        ValueError: ``last`` or ``best`` is no integer from 1, both are given, ``mode`` is none of the three or "auto" cannot tell
            from ``monitor`` what is better, or ``output`` holds something else.
        ArtifactError: a ValueError: the run has fewer checkpoints, or one that is not whole.

    Warns:
        UserWarning: epochs that were better than the best that are taken have no checkpoint any more.

    Example:

        from keras_transformer.averaging import average_run
        average_run("runs/en-de", "runs/en-de-averaged", last=5)
    """
    for name, value in (("last", last), ("best", best)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be an integer from 1, or None. Received: {name}={value!r}.")
    if last is not None and best is not None:
        raise ValueError(f"Checkpoints are taken by time or by merit. Received: last={last} and best={best}. Give one.")
    if mode != "auto":
        is_less_better(monitor, mode)  # raises if there is no such mode
    check_folder(output, FORMAT_FILE)
    run = Path(run)
    paths = list_checkpoints(run / "checkpoints")
    if best is not None:
        paths = _best(run / "checkpoints", paths, best, monitor, mode)
    elif last is not None:
        paths = paths[-last:]
    wanted = last or 1
    if best is None and len(paths) < wanted:
        raise ArtifactError(
            run / "checkpoints",
            f"it holds {len(paths)} checkpoints to take, {wanted} are wanted",
            f"Train with --keep {wanted}, or take fewer.",
        )
    translator = Translator.load(run / "translator")
    average_checkpoints(translator.model, paths)
    translator.save(output)
    return paths


def _best(folder, paths, count, monitor, mode):
    states = {path: read_state(path) for path in paths}
    merits = {path: merit(state, monitor, mode) for path, state in states.items()}
    judged = sorted((path for path in paths if merits[path] is not None), key=merits.get, reverse=True)
    newest = states[paths[-1]] if paths else {}
    history = newest.get("history", [])
    if len(judged) < count:
        held = sorted({name for row in history for name in row} - {"epoch"})
        raise ArtifactError(
            folder,
            f"{len(judged)} of its {len(paths)} checkpoints stand at the end of an epoch whose logs hold {monitor!r}, and {count} "
            f"are wanted; the logs hold {', '.join(held) or 'nothing so far'}",
            f"Train with --best {count} --monitor {monitor}, name another --monitor, or take fewer; --last takes the newest.",
        )
    taken = judged[:count]
    had = {states[path]["history"][-1]["epoch"] for path in taken}
    whole = [row for row in history if monitor in row and row["epoch"] <= newest.get("epoch", row["epoch"])]
    better = {
        row["epoch"] for row in whole if merit({"position": 0, "history": [row]}, monitor, mode) > merits[taken[-1]]
    }
    if gone := sorted(better - had):
        warnings.warn(
            f"Epochs {', '.join(map(str, gone))} were better by {monitor}, but their checkpoints are gone: train keeps the newest "
            f"alone unless it is told --best {count} and --monitor {monitor}.",
            stacklevel=3,
        )
    return taken
