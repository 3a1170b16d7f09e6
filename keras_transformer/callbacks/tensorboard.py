"""The logs for TensorBoard."""

from pathlib import Path

import keras
from keras import ops


class TensorBoard(keras.callbacks.Callback):
    """Writes all logs of an epoch for TensorBoard; unlike Keras's own callback it needs no TensorFlow.

    Args:
        folder: the log directory.

    Example:

        model.fit(train, callbacks=[kt.callbacks.TensorBoard("logs")])
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        self.folder = str(folder)
        self._writer = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(self.folder)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        step = int(ops.convert_to_numpy(self.model.optimizer.iterations))
        for name, value in (logs or {}).items():
            self._writer.add_scalar(name, float(value), step)
        self._writer.flush()

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
