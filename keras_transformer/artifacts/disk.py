"""Writes files so that a kill, a crash or a full disk leaves the old file or the new one, never neither.

Everything is written under another name, brought to disk, and renamed; where something is there already, the two change places in
one step of the file system.
"""

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of fcntl.h and linux/fs.h


class NewFile:
    """A file being written. Its data are hashed before they go to the disk, so that the hash is right even where the disk is not.

    Attributes:
        sha256: of what was written, once closed.
        size: in bytes.

    Example:

    >>> import os, tempfile
    >>> from keras_transformer.artifacts.disk import NewFile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with NewFile(os.path.join(folder, "a")) as file:
    ...         file.write(b"abc")
    ...     file.size, file.sha256[:8]
    (3, 'ba7816bf')
    """

    def __init__(self, path):
        self.path = Path(path)
        self.size = 0
        self.sha256 = None
        self._hash = hashlib.sha256()

    def __enter__(self):
        self._file = open(self.path, "xb", buffering=0)
        return self

    def write(self, data):
        """Appends bytes, or anything that holds bytes in a row."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.size += len(view)
        while view:  # a disk may take less than it is given
            view = view[self._file.write(view) :]

    def __exit__(self, kind, *error):
        with self._file:
            if kind is None:
                os.fsync(self._file.fileno())
        self.sha256 = self._hash.hexdigest()


def to_disk(path):
    """fsync of a file or a folder. File systems that cannot sync a folder are left alone."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not os.path.isdir(path):
            raise
    finally:
        os.close(handle)


def tree_to_disk(folder):
    """fsync of everything in a folder, then of the folder."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            to_disk(os.path.join(parent, name))
        to_disk(parent)


def make_folder(folder):
    """Makes a folder and those above it that are missing; each is brought to disk in the one that holds it."""
    folder = Path(os.path.abspath(folder))
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        to_disk(path.parent)


def write_file(path, content):
    """Writes bytes to ``path`` so that a kill leaves the old content or the new.

    Example:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from keras_transformer.artifacts.disk import write_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_file(Path(folder) / "a", b"abc")
    ...     (Path(folder) / "a").read_bytes()
    b'abc'
    """
    path = Path(path)
    new = path.with_name(f".{path.name}-new")
    new.unlink(missing_ok=True)
    try:
        with NewFile(new) as file:
            file.write(content)
        os.rename(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    to_disk(path.parent)


@contextlib.contextmanager
def new_folder(folder, mark, complete=None):
    """A folder to write into: it becomes ``folder`` as a whole when the block ends well, and vanishes when it does not.

    Args:
        folder: path; what is there already is replaced, if it holds a file called ``mark`` or nothing.
        mark: the file by which such folders are known.
        complete: called with the new folder when the block has ended, before it gets its name; write_manifest, say.

    Raises:
        ValueError: ``folder`` holds other things, which would be lost.

    Example:

    >>> import tempfile
    >>> from keras_transformer.artifacts.disk import new_folder
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     with new_folder(parent + "/a", mark="readme.txt") as folder:
    ...         _ = (folder / "readme.txt").write_text("A folder of its own.")
    """
    folder = Path(os.path.abspath(folder))
    check_folder(folder, mark)
    make_folder(folder.parent)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield new
        if complete is not None:
            complete(new)
        new.chmod(0o755)
        tree_to_disk(new)
        replace_folder(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def check_folder(folder, mark):
    """Raises ValueError if new_folder would refuse ``folder``: called before long work whose result goes there."""
    folder = Path(folder)
    if folder.exists() and not (folder / mark).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds other files, which would be lost: there is no {mark}. Name a new folder.")


def replace_folder(new, folder):
    """Renames ``new`` to ``folder``; what was there then has the name ``new``, and is removed."""
    if folder.exists():
        if not _exchange(new, folder):
            _replace_in_two_steps(new, folder)
    else:
        os.rename(new, folder)
    to_disk(folder.parent)
    shutil.rmtree(new, ignore_errors=True)


def _exchange(one, other):
    """Lets two names change places in one step; False where the system cannot (then nothing has happened)."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux, or a C library before 2018
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # a file system without it
        return False
    raise OSError(code, os.strerror(code), str(other))


def _replace_in_two_steps(new, folder):
    """Where names cannot change places: the old is set aside until the new has its name."""
    old = new.with_name(new.name + "-old")
    os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
