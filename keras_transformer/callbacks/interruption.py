"""Signals that end training between two batches."""

import contextlib
import signal
import sys
import threading

import keras

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_open = []  # the Interruptions under way; the last is the one that signals come to


class Interrupted(KeyboardInterrupt):
    """Training was asked to end by a signal, and did between two batches.

    Attributes:
        signal: its number.
    """

    def __init__(self, number):
        super().__init__(f"Received {signal.Signals(number).name}.")
        self.signal = number


class Interruption(keras.callbacks.Callback):
    """While open, SIGINT (Ctrl-C), SIGTERM and SIGHUP end ``fit`` between two batches, by raising Interrupted.

    A second signal changes nothing, so that a checkpoint being written inside the ``with`` block is written to its end; the third
    does at once what it would have done without this. Outside the main thread, which alone may handle signals, nothing changes.
    What Bleu translates after validation is broken off at once: it is done again, with the validation, when training goes on.

    Args:
        save: called first, as Checkpoints.save: here the weights are still those that are trained. (When ``fit`` has ended, on JAX
            by an exception too, an optimizer with an average has put that in their place.)
        file: where a second signal is answered; None for standard error.

    Example:

        checkpoints = kt.callbacks.Checkpoints("run/checkpoints")
        with kt.callbacks.Interruption(save=checkpoints.save) as interruption:
            try:
                model.fit(train, epochs=20, callbacks=[checkpoints, interruption])
            finally:
                checkpoints.wait()
    """

    def __init__(self, save=None, file=None):
        super().__init__()
        self.save = save
        self.file = file
        self._handlers = {}
        self._received = []
        self._at_once = self._validated = False

    def __enter__(self):
        self._received = []
        _open.append(self)
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # ignored, as under nohup, it stays ignored
                    self._handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error):
        self._give_back()
        _open.remove(self)

    def _give_back(self):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def _receive(self, number, frame):
        self._received.append(number)
        if len(self._received) == 2:
            self._give_back()  # the next one is not ours
            with contextlib.suppress(RuntimeError):  # it has come while the same file was being written to
                print(
                    "Ending; what is trained is being saved. One more signal ends at once.",
                    file=self.file or sys.stderr,
                )
        if self._at_once:
            raise Interrupted(self._received[0])

    @contextlib.contextmanager
    def _while_at_once(self):
        if not self._validated:  # Checkpoints does not know yet that the last batch is done
            yield
            return
        try:
            self._at_once = True
            if self._received:
                raise Interrupted(self._received[0])
            yield
            if self._received:  # raised where Python drops exceptions, as in __del__
                raise Interrupted(self._received[0])
            self._at_once = False
        except BaseException as error:
            self._at_once = False
            if isinstance(error, Interrupted):
                self._raise_if_received()
            raise

    def _raise_if_received(self):
        if self._received:
            if self.save is not None:
                self.save()
            raise Interrupted(self._received[0])

    def on_train_batch_begin(self, batch, logs=None):
        self._validated = False
        self._raise_if_received()

    def on_test_batch_begin(self, batch, logs=None):
        self._raise_if_received()

    def on_test_end(self, logs=None):
        self._validated = True

    def on_epoch_end(self, epoch, logs=None):
        self._raise_if_received()


def interruptible():
    """A context for long work at the end of an epoch that has been validated: a signal breaks it off, if there is an Interruption.

    Without one, or without validation, nothing changes.
    """
    return _open[-1]._while_at_once() if _open else contextlib.nullcontext()
