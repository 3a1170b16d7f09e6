"""The frame of the benchmarks: contenders in processes of their own, measured in turn; medians and JSON.

A contender is a child process that prepares itself, says so, and then waits. The parent asks one after the other for a burst of
work, round after round, so that a change of the machine's speed meets all of them alike. Only one works at a time.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = str(len(os.sched_getaffinity(0)))
PACKAGES = ("keras", "tensorflow", "jax", "torch", "keras-nlp", "transformers", "numpy")


def serve(burst):
    """The child's side: runs ``burst()`` whenever asked, and answers with what it returns (a dict of numbers)."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for _ in sys.stdin:
        print(json.dumps(burst()), file=answers, flush=True)


class Contender:
    """A child process of one contender.

    Args:
        name: as the table says it.
        command: its command line.
        environment: variables it gets beside the parent's.
    """

    def __init__(self, name, command, environment=()):
        self.name = name
        threads = {"OMP_NUM_THREADS": THREADS, "TF_NUM_INTRAOP_THREADS": THREADS, "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, as long as the child
        self._child = subprocess.Popen(
            command,
            env=os.environ | threads | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,  # not a pipe, which nobody would empty
            text=True,
            start_new_session=True,  # so that what it starts ends with it
        )
        self._answer()

    def _answer(self):
        line = self._child.stdout.readline()
        if not line:
            self._child.wait()
            self._errors.seek(0)
            said = self._errors.read().strip()[-1500:]
            self.close()
            raise RuntimeError(f"{self.name} ended: {said}")
        return json.loads(line)

    def burst(self):
        self._child.stdin.write("go\n")
        self._child.stdin.flush()
        return self._answer() | {"peak_mb": status_mb("VmHWM", self._child.pid)}

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.communicate()  # waits, and closes the pipes
        self._errors.close()


def measure(commands, rounds, echo=print):
    """Runs all contenders side by side; returns {name: list of what each burst gave}.

    Args:
        commands: {name: (command line, environment)}. One that cannot start, or ends before its time, is reported and left out.
        rounds: how often each is asked.
    """
    contenders, results = {}, {}
    try:
        for name, (command, environment) in commands.items():
            try:
                contenders[name], results[name] = Contender(name, command, environment), []
            except RuntimeError as error:
                echo(f"left out: {error}")
        for _ in range(rounds):
            for name, contender in list(contenders.items()):
                try:
                    results[name].append(contender.burst())
                except (RuntimeError, OSError) as error:
                    echo(f"left out: {error}")
                    contenders.pop(name).close()
                    del results[name]  # half a measurement would be taken for a whole one
    finally:
        for contender in contenders.values():
            contender.close()
    return results


def chosen(names, words):
    """Those of ``names`` that ``words`` name: a word that is a name that one alone, another all that have it in them; without
    words all. Ends the program where a word names none.
    """
    found = set()
    for word in words:
        exact = [name for name in names if name.lower() == word.lower()]
        meant = exact or [name for name in names if word.lower() in name.lower()]
        if not meant:
            raise SystemExit(f"{word!r} names nothing here. Expected: words of {'; '.join(names)}.")
        found.update(meant)
    return [name for name in names if not words or name in found]


def median(bursts, key):
    return statistics.median(burst[key] for burst in bursts)


def spread(bursts, key):
    """Half the distance of the quartiles, as a share of the median."""
    if len(bursts) < 2:
        return 0.0
    low, middle, high = statistics.quantiles((burst[key] for burst in bursts), n=4)
    return (high - low) / 2 / middle


def machine():
    """Date, processor and versions, for the JSON and the table's head."""
    with open("/proc/cpuinfo") as lines:
        processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor,
        "threads": int(THREADS),
        "python": platform.python_version(),
        "versions": versions,
    }


def head(about):
    """What ``machine`` says, as one line."""
    versions = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    return f"{about['processor']}, {about['threads']} threads, {about['date']}, Python {about['python']}, {versions}"


def status_mb(name, pid="self"):
    """An entry of a process's status in MB: VmRSS, what it holds; VmHWM, the most it held."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))


def forget_peak():
    """VmHWM of this process counts anew from now on."""
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")


def write_json(file, table, results, **more):
    """Everything that was measured, so that a table can be made again."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8") as out:
        json.dump({"table": table, "machine": machine(), **more, "results": results}, out, indent=1)
        out.write("\n")
