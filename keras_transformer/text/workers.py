"""Worker processes that answer requests in order, and whose death is an error at once instead of a hang. Needs no Keras.

Keras's own PyDataset workers wait forever for a process that was killed. Here each worker is a child process with two pipes:
when it ends, its pipe closes, which a thread sees at once; a worker that hangs is given up after ``timeout`` seconds. Workers
import NumPy, SentencePiece and Arrow alone, so that they start in a moment, whatever the backend; and they end by themselves when
the process that started them is gone. They ignore the signals that ask a process to end: a terminal sends Ctrl-C to all processes,
and training that ends in an orderly way still needs batches.
"""

import contextlib
import os
import pickle
import queue
import struct
import subprocess
import sys
import threading
import time
import traceback
import weakref
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# Modules of this room alone: the package's own __init__ would import Keras.
_START = """
import signal, sys, types
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
sys.path[:] = {path!r}
for name, folder in (("keras_transformer", {package!r}), ("keras_transformer.text", {room!r})):
    module = types.ModuleType(name)
    module.__path__ = [folder]
    sys.modules[name] = module
from keras_transformer.text.workers import serve
serve()
"""
_LONGEST_START = 120  # seconds
_LENGTH = struct.Struct("<Q")


class WorkerError(ChildProcessError):
    """A worker process died, raised, or did not answer in time."""


class Workers:
    """Processes that share the requests of one job.

    Request n is answered by worker n modulo their number, so that the answers, in the order of the requests, do not depend on how
    many workers there are.

    Args:
        job: called in the workers with each request; what pickles, of a module that needs no Keras.
        number: of processes.
        timeout: seconds for an answer that is waited for.
        goes_on: told with an error: what goes on from there.

    Raises:
        WorkerError: from ``next``: a worker died, raised, or did not answer in time. All are ended first.

    Example:

    >>> import operator
    >>> from keras_transformer.text.workers import Workers
    >>> with Workers(operator.neg, number=2) as workers:
    ...     for request in (1, 2, 3):
    ...         workers.ask(request)
    ...     [workers.next() for _ in range(3)]
    [-1, -2, -3]
    """

    def __init__(self, job, number, timeout=8.0, goes_on="the state of the Batches goes on from the same batch"):
        self.timeout, self.goes_on = timeout, goes_on
        self.asked = self.answered = 0
        path, room = [entry or os.getcwd() for entry in sys.path], str(_PACKAGE / "text")
        start = _START.format(path=path, package=str(_PACKAGE), room=room)
        self._children = [
            subprocess.Popen(
                [sys.executable, "-c", start],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            for _ in range(number)
        ]
        self._requests = [queue.Queue() for _ in self._children]
        self._answers = [queue.Queue() for _ in self._children]
        self.close = weakref.finalize(self, _end, self._children, self._requests)  # also when Python ends
        for child, requests, answers in zip(self._children, self._requests, self._answers, strict=True):
            threading.Thread(target=_send, args=(child.stdin, requests), daemon=True).start()
            threading.Thread(target=_receive, args=(child.stdout, answers), daemon=True).start()
        for requests in self._requests:
            requests.put(_message("job", job))
        for worker in range(number):
            self._answer(worker, _LONGEST_START)

    @property
    def pids(self):
        return [child.pid for child in self._children]

    @property
    def outstanding(self):
        """Requests not yet answered to the caller."""
        return self.asked - self.answered

    def ask(self, request):
        self._requests[self.asked % len(self._children)].put(_message("request", request))
        self.asked += 1

    def next(self, timeout=None):
        """The answer to the oldest request not yet answered."""
        answer = self._answer(self.answered % len(self._children), self.timeout if timeout is None else timeout)
        self.answered += 1
        return answer

    def _answer(self, worker, timeout):
        try:
            kind, answer = self._answers[worker].get(timeout=timeout)
        except queue.Empty:
            self._fail(worker, f"did not answer within {timeout:g} seconds")
        if kind == "end":
            self._fail(worker, "has died")
        if kind == "error":
            self._fail(worker, f"raised:\n{answer}")
        return answer

    def _fail(self, worker, what):
        child = self._children[worker]
        if what == "has died":
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(1)
                what += f" with exit code {code}" if code >= 0 else f" of signal {-code}"
        self.close()
        raise WorkerError(
            f"Data worker {worker} (process {child.pid}) {what}. All workers have been ended. Mend the cause, or work without "
            f"workers to see it here; {self.goes_on}."
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def _end(children, requests):
    for child, waiting in zip(children, requests, strict=True):
        child.kill()
        waiting.put(None)
    for child in children:
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):  # what was still to be written
                pipe.close()


def _message(kind, content):
    content = pickle.dumps((kind, content), protocol=5)
    return _LENGTH.pack(len(content)) + content


def _write(pipe, message):
    pipe.write(message)
    pipe.flush()


def _read(pipe):
    """The next message; None at the end."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    content = pipe.read(length)
    return pickle.loads(content) if len(content) == length else None


def _send(pipe, requests):
    """In a thread of the parent: a worker that hangs, and does not read, must not make its parent wait for it."""
    with contextlib.suppress(OSError, ValueError):  # it died, which _receive tells; or closed from this side
        while (message := requests.get()) is not None:
            _write(pipe, message)


def _receive(pipe, answers):
    """In a thread of the parent: takes what a worker says, so that its pipe is never full."""
    try:
        while (message := _read(pipe)) is not None:
            answers.put(message)
    except (OSError, ValueError):  # closed from this side
        pass
    answers.put(("end", None))


def serve():
    """A worker's side: the first message is the job, each further one a request."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    try:
        _, job = _read(sys.stdin.buffer)
        _write(answers, _message("ready", None))
        while (message := _read(sys.stdin.buffer)) is not None:
            _write(answers, _message("answer", job(message[1])))
    except Exception:
        _write(answers, _message("error", traceback.format_exc(limit=-4)))


def _watch_parent(parent):
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
