"""Kills and disk faults of the file layer, in a process that imports no backend.

    python tests/reliability/file_layer.py kills 200 FOLDER
    python tests/reliability/file_layer.py faults FOLDER

Children are forked, so that one costs milliseconds; each is killed with signal 9, at every write, fsync and rename in turn and
then at random moments, or meets a full disk. What is on disk afterwards must be the old or the new, whole. Prints JSON.
"""

import errno
import json
import os
import random
import resource
import signal
import sys
import time
import types
from pathlib import Path

ROOT = Path(__file__).parents[2] / "keras_transformer"
package = types.ModuleType("keras_transformer")
package.__path__ = [str(ROOT)]  # the package without its __init__, which imports Keras
sys.modules["keras_transformer"] = package

import numpy as np  # noqa: E402

from keras_transformer import artifacts  # noqa: E402
from keras_transformer.artifacts import disk  # noqa: E402

assert not {"keras", "tensorflow", "jax", "torch"} & sys.modules.keys()


class Steps:
    """Run checkpoints: one more is added and the oldest removed."""

    def __init__(self, folder):
        self.folder = folder / "checkpoints"

    def write(self, number):
        arrays = {"a": np.full(3000, number, "float32"), "b": np.full((7, 9), number)}
        artifacts.write_step(self.folder, number, arrays, {"c": np.full(2000, number)}, {"number": number})
        artifacts.prune_steps(self.folder, keep=2)

    def read(self):
        weights, training, state = artifacts.open_step(artifacts.latest_step(self.folder))
        numbers = {
            float(value) for file in (weights, training) for name in file.shapes for value in file.read(name).flat
        }
        return numbers | {float(state["number"])}


class SameStep(Steps):
    """A run checkpoint that is written again under the same name."""

    def write(self, number):
        arrays = {"a": np.full(3000, number, "float32")}
        artifacts.write_step(self.folder, 5, arrays, {"c": np.full(2000, number)}, {"number": number})


class TwoRenames(SameStep):
    """The same on a file system where two names cannot change places, as NFS."""

    def write(self, number):
        exchange, disk._exchange = disk._exchange, lambda *_: False
        try:
            super().write(number)
        finally:
            disk._exchange = exchange


class Folder:
    """A folder that is replaced, as a translator's or an export's."""

    def __init__(self, folder):
        self.folder = folder / "translator"

    def write(self, number):
        with artifacts.new_folder(
            self.folder, "mark", complete=lambda new: artifacts.write_manifest(new, "test")
        ) as new:
            for name in ("mark", "model"):
                (new / name).write_text(f"{number}\n" * 500)

    def read(self):
        artifacts.check_manifest(self.folder, "test")
        return {float(line) for name in ("mark", "model") for line in (self.folder / name).read_text().split()}


class Sidecar:
    """A weights file with its sha256 beside it."""

    def __init__(self, folder):
        self.path = folder / "a.weights.h5"
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, number):
        artifacts.write_with_sidecar(self.path, lambda new: new.write_text(f"{number}\n" * 500))

    def read(self):
        artifacts.check_sidecar(self.path)
        return {float(line) for line in self.path.read_text().split()}


KINDS = (Steps, SameStep, TwoRenames, Folder, Sidecar)


class Trap:
    """Does something at the n-th operation on the disk. Written once more for each of: write, fsync, rename."""

    def __init__(self, at, do):
        self.count, self.at, self.do = 0, at, do
        self.names = []

    def __enter__(self):
        self.kept = os.fsync, os.rename, disk.NewFile.write, disk._exchange

        def trapped(name, function):
            def run(*arguments):
                self.names.append(name)
                if self.count == self.at:
                    self.count += 1
                    self.do(name)
                self.count += 1
                return function(*arguments)

            return run

        os.fsync, os.rename = trapped("fsync", os.fsync), trapped("rename", os.rename)
        disk.NewFile.write = trapped("write", disk.NewFile.write)
        disk._exchange = trapped("rename", disk._exchange)
        return self

    def __exit__(self, *error):
        os.fsync, os.rename, disk.NewFile.write, disk._exchange = self.kept


def operations(kind, folder):
    """How many operations a save has."""
    artifact = kind(folder)
    artifact.write(1)
    with Trap(-1, None) as trap:
        artifact.write(2)
    return trap.count


def die(name):
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(action):
    """Runs ``action`` in a fork; returns its exit status as os.wait gives it."""
    child = os.fork()
    if child == 0:
        try:
            action()
            os._exit(0)
        except OSError:
            os._exit(3)
        except BaseException:
            os._exit(4)
    return child


def outcome(artifact, old, new):
    """ "old", "new", "lost" or "mixed": what is on disk after a save of ``new`` over ``old``."""
    try:
        found = artifact.read()
    except (artifacts.ArtifactError, OSError, TypeError):
        return "lost"
    return {old: "old", new: "new"}.get(found.pop(), "mixed") if len(found) == 1 else "mixed"


def kills(count, folder):
    counts = {"kills": 0, "old": 0, "new": 0, "lost": 0, "mixed": 0, "not resumed": 0}
    generator = random.Random(1)
    plan = [(kind, at) for kind in KINDS for at in range(operations(kind, folder / f"count{kind.__name__}"))]
    plan += [(generator.choice(KINDS), None) for _ in range(max(count - len(plan), 0))]
    for number, (kind, at) in enumerate(plan):
        artifact = kind(folder / str(number))
        artifact.write(1)
        artifact.write(2)
        if at is None:
            child = in_child(lambda artifact=artifact: [artifact.write(3) for _ in range(10**6)])
            time.sleep(generator.uniform(0, 0.05))
            os.kill(child, signal.SIGKILL)
        else:

            def save(artifact=artifact, at=at):
                with Trap(at, die):
                    artifact.write(3)

            child = in_child(save)
        status = os.waitpid(child, 0)[1]
        counts["kills"] += os.WIFSIGNALED(status)
        counts[outcome(artifact, 2.0, 3.0)] += 1
        try:
            artifact.write(4)
            counts["not resumed"] += artifact.read() != {4.0}
        except Exception:
            counts["not resumed"] += 1
    return counts


def faults(folder):
    counts = {"faults": 0, "kept": 0, "lost": 0, "mixed": 0, "left over": 0, "not told": 0}

    def check(artifact, place, told):
        counts["faults"] += 1
        counts["not told"] += not told
        found = outcome(artifact, 2.0, 3.0)
        counts["kept" if found in ("old", "new") else found] += 1
        counts["left over"] += len(list(place.rglob(".*")))

    for kind in KINDS:
        for at in range(operations(kind, folder / f"count{kind.__name__}")):
            place = folder / f"{kind.__name__}{at}"
            artifact = kind(place)
            artifact.write(1)
            artifact.write(2)
            told = False

            def full(name):
                raise OSError(errno.ENOSPC if name == "write" else errno.EIO, "injected")

            try:
                with Trap(at, full):
                    artifact.write(3)
            except OSError:
                told = True
            check(artifact, place, told)
        for limit in (0, 1, 100, 500, 999):
            place = folder / f"{kind.__name__}limit{limit}"
            artifact = kind(place)
            artifact.write(1)
            artifact.write(2)

            def limited(artifact=artifact, limit=limit):
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                artifact.write(3)

            status = os.waitpid(in_child(limited), 0)[1]
            check(artifact, place, os.WEXITSTATUS(status) == 3)
    return counts


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    where = Path(arguments[-1])
    print(json.dumps(kills(int(arguments[0]), where) if what == "kills" else faults(where)))
