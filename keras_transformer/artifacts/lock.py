"""One writer in a folder."""

import json
import os
import socket
import weakref
from pathlib import Path

from keras_transformer.artifacts.disk import make_folder

LOCK_FILE = "lock.json"
# (device, inode) of the lock files that this process has locked -> _Held. What stands in the file does not tell: in two containers
# with one host name both are pid 1.
_held = {}


class FolderInUse(ValueError):
    """Another process writes in the folder."""


class FolderLock:
    """While it is open, any other process that opens a FolderLock of the same folder is refused.

    The lock is the kernel's (flock) on lock.json, where the owner's pid and host stand for others to read: a process that dies,
    however, loses it at once, so that what a dead one left is taken over. Between machines it holds where the file system shares
    locks (NFS from version 4). Where the system has no such locks, as on Windows, nothing is locked.

    A process may open it several times, and has it until the last is closed. One that is never closed, since an error has ended
    what it was for, ends with this object.

    Args:
        folder: path; made if it is missing.

    Raises:
        FolderInUse: a ValueError, when another process has it.

    Example:

    >>> import tempfile
    >>> from keras_transformer.artifacts import FolderLock
    >>> with tempfile.TemporaryDirectory() as folder, FolderLock(folder):
    ...     pass
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self._close = None

    def __enter__(self):
        try:
            import fcntl
        except ImportError:
            return self
        make_folder(self.folder)
        handle = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        held = _held.get(_place(handle))
        if held is not None and held.pid == os.getpid():  # as when a training was broken off, in a notebook say
            os.close(handle)
        else:
            try:
                self._lock(handle, fcntl)
            except BaseException:  # a full disk, too, must not leave it locked
                os.close(handle)
                raise
            held = _held[_place(handle)] = _Held(handle)
        held.owners += 1
        self._close = weakref.finalize(self, held.release)
        return self

    def _lock(self, handle, fcntl):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(os.read(handle, 1000))
            raise FolderInUse(
                f"{self.folder} is in use: process {owner['pid']} on {owner['host']} writes there. Wait until it has "
                "ended, or give another folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def __exit__(self, *error):
        if self._close is not None:
            self._close()


class _Held:
    """A locked file and how many FolderLocks of this process have it open."""

    def __init__(self, handle):
        self.handle = handle
        self.pid = os.getpid()  # which a fork has not
        self.owners = 0

    def release(self):
        self.owners -= 1
        if self.owners == 0:
            if _held.get(_place(self.handle)) is self:
                del _held[_place(self.handle)]
            os.close(self.handle)


def _place(handle):
    status = os.fstat(handle)
    return status.st_dev, status.st_ino


def _owner(content):
    """Who holds the lock, as the file tells; it may be being written."""
    try:
        told = json.loads(content)
        return {"pid": int(told["pid"]), "host": str(told["host"])[:100]}
    except (ValueError, TypeError, KeyError):
        return {"pid": "unknown", "host": "an unknown host"}
