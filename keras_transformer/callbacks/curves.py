"""Learning curves as a table and a picture."""

import csv
import importlib.util
import io
import time
import warnings
from pathlib import Path

import keras
from keras import ops

from keras_transformer.artifacts import write_file
from keras_transformer.plots import learning_curves


class LearningCurves(keras.callbacks.Callback):
    """Writes the logs of each epoch as a row of curves.csv, and draws the table as curves.png.

    A run that goes on continues the table: rows of epochs that are done again are replaced. Epochs and steps are whole numbers,
    all else has nine digits, which are enough for float32.

    Args:
        folder: where the two files go; made if it is missing.

    Example:

        model.fit(train, validation_data=valid, epochs=20, callbacks=[kt.callbacks.LearningCurves("run")])
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._draws = importlib.util.find_spec("matplotlib") is not None
        if not self._draws:
            warnings.warn(
                "curves.png will not be drawn, for Matplotlib is not installed: pip install 'keras-transformer[plots]'.",
                stacklevel=2,
            )

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._begin = time.monotonic()
        self.rows = read_curves(self.folder / "curves.csv")
        self._seconds_before = max((row.get("seconds") or 0 for row in self.rows), default=0)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        row = {
            "epoch": epoch + 1,
            "step": int(ops.convert_to_numpy(self.model.optimizer.iterations)),
            "seconds": round(self._seconds_before + time.monotonic() - self._begin, 1),
        }
        row |= {name: float(value) for name, value in (logs or {}).items()}
        self.rows = [other for other in self.rows if other["epoch"] <= epoch] + [row]
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, columns)
        writer.writeheader()
        writer.writerows({name: _written(value) for name, value in row.items()} for row in self.rows)
        write_file(self.folder / "curves.csv", table.getvalue().encode("utf-8"))
        if self._draws:
            learning_curves(self.rows, self.folder / "curves.png")


def _written(value):
    return value if value is None or isinstance(value, int) else f"{value:.9g}"


def read_curves(path: str | Path) -> list[dict[str, float | None]]:
    """Rows of a curves.csv as dicts of numbers, None where nothing was measured; none if there is no such file.

    Epochs and steps are int, all else is float.

    Raises:
        ValueError: it is no such table.
    """
    path = Path(path)
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{name: _read(name, value) for name, value in row.items()} for row in csv.DictReader(file)]
        if any(row.get("epoch") is None for row in rows):
            raise ValueError("there is no column epoch")
    except (ValueError, TypeError, csv.Error) as error:
        raise ValueError(
            f"{path} is no table of curves: {error}. Put it back, or remove it: a new one is begun."
        ) from None
    return rows


def _read(name, value):
    if not value:
        return None
    return int(float(value)) if name in ("epoch", "step") else float(value)
