"""Signals that end training between two batches."""

import signal
import threading

import keras


class Interrupted(KeyboardInterrupt):
    """Training was asked to end by a signal, and did between two batches.

    Attributes:
        signal: its number.
    """

    def __init__(self, number):
        super().__init__(f"Received {signal.Signals(number).name}.")
        self.signal = number


class Interruption(keras.callbacks.Callback):
    """While open, SIGINT (Ctrl-C) and SIGTERM end ``fit`` before its next batch, by raising Interrupted: nothing is half done.

    A second signal does at once what it would have done without this. Outside the main thread, which alone may handle signals,
    nothing changes.

    Example:

        checkpoints = kt.callbacks.Checkpoints("run/checkpoints")
        with kt.callbacks.Interruption() as interruption:
            try:
                model.fit(train, epochs=20, callbacks=[checkpoints, interruption])
            except kt.callbacks.Interrupted:
                checkpoints.save()
                raise
    """

    def __init__(self):
        super().__init__()
        self._handlers = {}
        self._received = None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # ignored, as under nohup, it stays ignored
                    self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _receive(self, number, frame):
        self._received = number
        self.__exit__()

    def _raise_if_received(self):
        if self._received is not None:
            raise Interrupted(self._received)

    def on_train_batch_begin(self, batch, logs=None):
        self._raise_if_received()

    def on_test_batch_begin(self, batch, logs=None):
        self._raise_if_received()

    def on_epoch_end(self, epoch, logs=None):
        self._raise_if_received()
