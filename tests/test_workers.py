"""Workers answer in order, whatever their number; their end, of any kind, is an error at once that leaves no process behind."""

import inspect
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import psutil
import pytest
import worker_jobs

from keras_transformer.text import workers as workers_module
from keras_transformer.text.workers import WorkerError, Workers

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")


def gone(pids):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [1, 3])
def test_answers_come_in_the_order_of_the_requests(number):
    with Workers(worker_jobs.double, number) as workers:
        for request in range(7):
            workers.ask(request)
        assert workers.outstanding == 7
        assert [workers.next() for _ in range(7)] == [0, 2, 4, 6, 8, 10, 12]
        assert workers.outstanding == 0
        pids = workers.pids
    assert gone(pids)


def test_large_messages_pass_both_ways():
    """More than a pipe holds, while the caller is not reading."""
    with Workers(worker_jobs.double, 1) as workers:
        for _ in range(3):
            workers.ask("a" * 2**20)
        assert {len(workers.next()) for _ in range(3)} == {2**21}


def test_a_worker_needs_no_backend_and_may_print():
    with Workers(worker_jobs.modules, 1) as workers:
        workers.ask(None)
        assert workers.next() == []


def test_signals_for_the_process_that_started_them_leave_workers_alone():
    """A terminal sends Ctrl-C to all of them; training, which saves first, still wants batches."""
    with Workers(worker_jobs.double, 2) as workers:
        for pid in workers.pids:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        for request in range(4):
            workers.ask(request)
        assert [workers.next() for _ in range(4)] == [0, 2, 4, 6]
        pids = workers.pids
    assert gone(pids)


@pytest.mark.counts("data workers that end or hang", 1, "an error in seconds, no process left")
@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("exit", "has died with exit code 3"),
        ("kill", "has died of signal 9"),
        ("exception", "ArithmeticError: the sum is wrong"),
        ("hang", "did not answer within 2 seconds"),
    ],
)
def test_every_end_of_a_worker_is_an_error_at_once(end, told):
    workers = Workers(worker_jobs.After(2, end), 2)
    for request in range(6):
        workers.ask(request)
    assert [workers.next(timeout=60) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(WorkerError) as error:
        workers.next(timeout=2 if end == "hang" else 60)
    assert told in str(error.value) and f"process {workers.pids[0]}" in str(error.value)
    assert gone(workers.pids)


def test_a_worker_that_hangs_and_reads_no_more_is_given_up_too():
    """What it is asked for is more than its pipe holds."""
    workers = Workers(worker_jobs.After(0, "hang"), 1, timeout=1, goes_on="the same command goes on")
    for _ in range(3):
        workers.ask("a" * 2**20)
    with pytest.raises(WorkerError, match=r"did not answer within 1 seconds\. .*; the same command goes on"):
        workers.next()
    assert gone(workers.pids)


def test_the_longest_wait_for_a_batch_is_below_ten_seconds():
    assert inspect.signature(Workers).parameters["timeout"].default < 10


def test_a_job_that_cannot_be_read_is_told():
    with pytest.raises(WorkerError, match="raised:"):
        Workers(_Unreadable(), 1)


class _Unreadable:
    def __reduce__(self):
        return int, ("no number",)


def test_workers_end_with_the_process_that_started_them():
    """Even one that was killed, and a worker that hangs."""
    room = Path(workers_module.__file__).parent
    path = [str(Path(worker_jobs.__file__).parent), *sys.path]
    start = workers_module._START.format(path=path, package=str(room.parent), room=str(room))
    code = start.rpartition("from keras_transformer")[0] + (  # as a worker starts, without Keras
        "import time, worker_jobs\nfrom keras_transformer.text.workers import Workers\n"
        "workers = Workers(worker_jobs.After(0, 'hang'), 2)\n"
        "workers.ask(1); print(*workers.pids, flush=True); time.sleep(100)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert gone(pids)
